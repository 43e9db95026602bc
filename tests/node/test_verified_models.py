"""A party takes the model that follows from the sums that it verified, and no other."""

import re
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from msgspec import structs
from worlds.folders import DEEP, LAYERED, RIDGE, Federation, Post, model
from worlds.scripted import Scripted

from secure_afl.crypto.identity import Identity
from secure_afl.node.site import Folder
from secure_afl.node.study import Study, packed
from secure_afl.protocol.audit.chain import read
from secure_afl.protocol.audit.check import verify
from secure_afl.protocol.audit.events import (
    Acknowledged,
    CheckedSum,
    EndAnswered,
    Frame,
    Role,
    Sent,
    Taken,
    end_answered,
)
from secure_afl.protocol.audit.log import AuditLog
from secure_afl.protocol.files.keys import read_key
from secure_afl.protocol.masking.messages import FROM_SERVER, Answer
from secure_afl.protocol.session.errors import PolicyError, RoundAbortedError
from secure_afl.protocol.session.wire import WireError, decode, encode
from secure_afl.protocol.transport.post import Channel, Envelope
from secure_afl.sums.remote import Elsewhere, RemoteMaskedAggregator, remote


class Altered(Post):
    """A server that hands out another sum than it opened to one party; losing: the party whose uploads are lost, with none."""

    lied: int = -1
    losing: int = -1

    def ask(self, party: int, envelope: Envelope, address: int = 0) -> bytes:
        try:
            message: Any = decode(envelope.data, FROM_SERVER)
        except WireError:
            message = None
        if party == self.losing and type(message).__name__ == "SumRequest":
            raise PolicyError("this party was away")
        if party == self.lied and isinstance(message, Answer):
            other = bytes([message.payload[0] ^ 1]) + bytes(message.payload[1:])
            envelope = replace(envelope, data=encode(structs.replace(message, payload=memoryview(other))))
        return super().ask(party, envelope, address)


def ended(federation: Federation, post: Post) -> tuple[list[Any], bytes, Study]:
    """The model that the server learns, and its session."""
    terms, study = Folder(federation.server).terms()
    aggregator = remote(Elsewhere(federation.parties, post.carrier), terms.policy, terms.encryption)
    layers, _ = study.learn(aggregator, federation.names)
    (session,) = post.sessions
    return layers, session, study


def log(folder: Path) -> bytes:
    return (folder / "audit.jsonl").read_bytes()


def taken(folder: Path) -> list[Taken]:
    return [one.event for one in read(log(folder)).entries if isinstance(one.event, Taken)]


def test_what_rounding_explains_is_no_other_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two machines solve a nearly singular system with different last digits; the certificate bounds the difference."""
    _, study = Folder(Federation(tmp_path).server).terms()
    own = [np.ones((3, 2))]
    for rounding, apart, taken_ in (
        (0.0, 1e-7, True),
        (0.0, 0.1, False),
        (0.2, 0.1, True),
        (0.01, 0.1, False),
    ):
        fitted = SimpleNamespace(certificate_=SimpleNamespace(rounding=rounding))
        monkeypatch.setattr(type(study), "recalled", lambda *said, fitted=fitted: (own, fitted))
        with nullcontext() if taken_ else pytest.raises(PolicyError, match="the server's is another"):
            layers, _ = study.follow(
                {}, Folder(tmp_path / "server").terms()[0].parties.clients, [own[0] + apart]
            )
            assert layers is own


@pytest.mark.parametrize("study", [RIDGE, DEEP, LAYERED], ids=["ridge", "seeded", "layers"])
def test_a_right_sum_and_a_wrong_model(tmp_path: Path, study: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server hands out the right sums and then a wrong head, which looks like any model; without the comparison a
    party would take it.
    """
    federation = Federation(tmp_path, study=study)
    post = Post(federation)
    layers, session, of = ended(federation, post)
    wrong = [*layers[:-1], layers[-1] * 2]
    with pytest.raises(PolicyError, match="that this party verified, the server's is another"):
        post.ask(0, Envelope(Channel.END, session, packed(wrong)))
    assert not (federation.folders[0] / "model.npz").exists()
    assert taken(federation.folders[0]) == []
    post.ask(1, Envelope(Channel.END, session, packed(layers)))
    assert all(map(np.array_equal, model(federation.folders[1]), layers))
    (one,) = taken(federation.folders[1])
    assert [each.survivors for each in one.sums] == [(0, 1, 2, 3)] * len(of.plan(4))
    assert not one.unverified
    with monkeypatch.context() as weak:
        weak.setattr(Study, "follow", lambda self, sums, clients, layers: (layers, None))
        post.ask(2, Envelope(Channel.END, session, packed(wrong)))
    assert np.array_equal(model(federation.folders[2])[-1], wrong[-1])
    post.ask(3, Envelope(Channel.END, session, packed(layers)))
    report = verify({str(at): log(federation.folders[at]) for at in (1, 3)}, federation.parties)
    assert not [one for one in report.findings if "closing entry" not in one.text]


def test_what_follows_the_last_verdict_is_anchored_in_the_servers_log(tmp_path: Path) -> None:
    """A party cuts its log after its last verdict and closes it again with its key. Only the answers to the session's end,
    kept by the server, reveal this.
    """
    federation = Federation(tmp_path)
    post = Post(federation)
    layers, session, _ = ended(federation, post)
    end = Envelope(Channel.END, session, packed(layers))
    answers = [post.ask(party, end) for party in range(4)]
    assert [post.ask(party, end) for party in range(4)] == [b""] * 4  # once, also after a restart
    keys = [member.verify_key for member in federation.parties.everybody]
    for party, line in enumerate(answers):
        assert end_answered(keys[party], line).event == EndAnswered(session)
        for key, other in (
            (keys[party - 1], line),
            (keys[party], line[:-1]),
            (keys[party], b""),
            (keys[party], line + b" " * 1024),
            (keys[party], log(federation.folders[party]).splitlines()[-1]),
        ):
            with pytest.raises(WireError):
                end_answered(key, other)

    def server(*events: Acknowledged) -> bytes:
        at = tmp_path / f"server-{len(list(tmp_path.glob('*.jsonl')))}.jsonl"
        with closing(AuditLog(at, Identity.generate(), "server", Role.SERVER)) as kept:
            for event in events:
                kept.append(event)
        return at.read_bytes()

    def found(given: dict[str, bytes]) -> list[str]:
        return [one.text for one in verify(given, federation.parties).findings]

    acknowledged = server(*map(Acknowledged, keys, answers))
    logs = {str(at): log(folder) for at, folder in enumerate(federation.folders)}
    lines = logs["2"].splitlines(keepends=True)
    (over,) = (at for at, line in enumerate(lines) if b"session over" in line)
    folder = federation.folders[2]
    for upto in (over - 1, over, over + 1, over + 2):  # the last cut leaves `session over` and `model taken`
        (folder / "cut.jsonl").write_bytes(b"".join(lines[:upto]))
        (folder / "cut.jsonl").chmod(0o600)
        _, identity = read_key(folder / "identity.key", bytes)
        AuditLog(folder / "cut.jsonl", identity, "site-2", Role.CLIENT).close()
        cut = logs | {"2": (folder / "cut.jsonl").read_bytes()}
        assert found(cut) == []
        (one,) = [one for one in found(cut | {"server": acknowledged}) if "answered the end" in one]
        assert f"end of session {session.hex()[:8]} with line {over + 3} of its log, and 2 has another" in one
    about_ends = "how a party answered|answered the end"
    whole = " ".join(found(logs | {"server": acknowledged}))
    assert not re.search(about_ends, whole)
    lies = server(Acknowledged(keys[0], answers[1]), Acknowledged(keys[0], b"{}"))
    assert len([one for one in found(logs | {"server": lies}) if re.search(about_ends, one)]) == 2
    with closing(
        AuditLog(federation.folders[2] / "audit.jsonl", identity, "site-2", Role.CLIENT)
    ) as going_on:
        before = going_on.rotate()
    parts = {"before": before.read_bytes(), "2": log(federation.folders[2])}
    assert not re.search(about_ends, " ".join(found(logs | parts | {"server": acknowledged})))
    del parts["before"]  # that a part is missing is one finding, and no log was cut
    assert not re.search(about_ends, " ".join(found(logs | parts | {"server": acknowledged})))


def test_a_party_that_refused_a_sum_takes_no_model_of_it(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    post = Altered(federation)
    post.lied = 1
    layers, session, _ = ended(federation, post)
    with pytest.raises(PolicyError, match="refused a sum of the session"):
        post.ask(1, Envelope(Channel.END, session, packed(layers)))
    assert not (federation.folders[1] / "model.npz").exists()
    post.ask(0, Envelope(Channel.END, session, packed(layers)))
    assert taken(federation.folders[1]) == []


def test_a_party_that_was_not_in_the_sum_takes_no_model(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    post = Altered(federation)
    post.losing = 2
    with pytest.warns(UserWarning, match="without site-2"):
        layers, session, _ = ended(federation, post)
    with pytest.raises(PolicyError, match="it verified none of that number"):
        post.ask(2, Envelope(Channel.END, session, packed(layers)))
    assert not (federation.folders[2] / "model.npz").exists()
    post.ask(0, Envelope(Channel.END, session, packed(layers)))


@pytest.mark.slow
def test_sums_that_nobody_checks_give_a_model_that_says_so(tmp_path: Path) -> None:
    federation = Federation(tmp_path, backend="bfv", holders=1)
    post = Post(federation)
    layers, session, _ = ended(federation, post)
    post.ask(0, Envelope(Channel.END, session, packed(layers)))
    (one,) = taken(federation.folders[0])
    assert not one.sums
    assert "encrypted and not masked" in one.unverified
    report = verify({"0": log(federation.folders[0])}, federation.parties)
    assert any("as the server says, unverified" in note.text for note in report.notes)


def test_models_of_different_sums_are_found_in_the_logs() -> None:
    scripted = Scripted()
    assert scripted.masks is not None
    scripted.agrees(scripted.masks, *scripted.clients[:2])

    def accepts(party: str, digest: bytes, survivors: tuple[int, ...], accepted: bool = True) -> None:
        assert scripted.masks is not None
        verdict = Frame("verdict", digest, 100, 0, accepted=accepted)
        sums = (CheckedSum(0, digest, survivors),)
        scripted.add(party, Sent(scripted.masks.transcript(), verdict), Taken(scripted.masks.session, sums))

    first, second = scripted.clients[:2]
    accepts(first, b"a" * 32, (0, 1, 2))
    accepts(second, b"b" * 32, (0, 1, 2, 3), accepted=False)
    found = " ".join(one.text for one in scripted.end().report(first, second).findings)
    assert f"round 0: {second} took the model of another sum" in found
    assert f"{second} took the model as verified, and had refused a sum" in found
    assert f"{second} took the model of a sum of round 0, which its log does not record accepting" in found


class Lying(RemoteMaskedAggregator):
    """Announces another hidden layer, on the grid, than the one that follows from the first sum."""

    def tell(self, model: bytes, to: Sequence[str]) -> None:
        super().tell((2 * np.frombuffer(model, "<f8")).astype("<f8").tobytes(), to)


@pytest.mark.parametrize("believing", [False, True])
def test_a_hidden_layer_that_follows_from_no_verified_sum(tmp_path: Path, believing: bool) -> None:
    """At the level `any`, where nobody checks sums, sites answer with a layer that the server chose."""
    federation = Federation(tmp_path, study=LAYERED, believing=believing)
    post, (terms, study) = Post(federation), Folder(federation.server).terms()
    aggregator = Lying(Elsewhere(federation.parties, post.carrier), terms.policy)
    with nullcontext() if believing else pytest.raises(RoundAbortedError):
        study.learn(aggregator, federation.names)
    refused = [str(one) for one in post.refusals if "that this party verified" in str(one)]
    assert len(refused) == (0 if believing else 4)
