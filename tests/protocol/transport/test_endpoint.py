"""Parties that are made anew from their folders for every message make the same model as parties in one process."""

import re
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from typer.testing import CliRunner
from worlds.folders import DEEP, LAYERED, RIDGE, Federation, Post, in_process, join, learned, model

from secure_afl.crypto.identity import Identity
from secure_afl.errors import DataError, DropoutWarning
from secure_afl.models.networks.network import (
    AvgPool,
    Conv,
    Dense,
    Deskew,
    Flatten,
    Fourier,
    Layer,
    MaxPool,
    ReLU,
    Sparse,
    Widen,
    layer_words,
    parse_layer,
)
from secure_afl.node import study as study_file
from secure_afl.node.preflight import looked_at
from secure_afl.node.site import Folder
from secure_afl.node.study import packed
from secure_afl.protocol.audit.chain import read
from secure_afl.protocol.audit.check import Report, verify
from secure_afl.protocol.audit.events import Agreed, Ended, Received, Refused, Role, Sent, frame
from secure_afl.protocol.audit.log import AuditLog
from secure_afl.protocol.durable.store import Store, StoreError
from secure_afl.protocol.files.keys import read_key
from secure_afl.protocol.session.errors import (
    AuditError,
    FileError,
    LocalProtocolError,
    PolicyError,
    RoundAbortedError,
)
from secure_afl.protocol.session.parameters import PARAMETERS
from secure_afl.protocol.session.wire import WireError, decode, encode
from secure_afl.protocol.transport.events import NotPersonal
from secure_afl.protocol.transport.post import (
    LEARNED,
    Channel,
    Envelope,
    Here,
    Learned,
    found,
    who_is_there,
)
from secure_afl.simulations.cli.main import app
from secure_afl.simulations.data import dataset
from secure_afl.sums.remote import Elsewhere, forget, remote


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "holders", "study"),
    [
        ("mask", 0, RIDGE),
        ("mask", 0, DEEP),
        ("mask", 0, RIDGE + "rounds = 2\n"),
        ("bfv", 1, RIDGE),
        ("bfv+mask", 2, RIDGE),
        ("mask", 0, LAYERED),
        ("bfv+mask", 1, LAYERED.replace("mixed", "classwise")),
    ],
)
def test_the_same_bits_as_in_one_process(tmp_path: Path, backend: str, holders: int, study: str) -> None:
    federation = Federation(tmp_path, holders=holders, backend=backend, study=study)
    assert np.array_equal(learned(federation, Post(federation)), in_process(federation))


def test_key_holders_elsewhere_solve_and_give_weights_only(tmp_path: Path) -> None:
    federation = Federation(tmp_path, holders=1, backend="ckks")
    np.testing.assert_allclose(learned(federation, Post(federation)), in_process(federation), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("phase", range(6))
def test_who_is_silent_in_a_phase_is_a_dropout_and_no_more(tmp_path: Path, phase: int) -> None:
    federation = Federation(tmp_path)
    post = Post(federation, lost={(number, 2) for number in range(phase, 6)})
    if phase < 4:  # before it has uploaded
        with pytest.warns(DropoutWarning, match="without site-2"):
            weights = learned(federation, post)
        assert np.array_equal(weights, in_process(federation, [0, 1, 3]))
    else:
        assert np.array_equal(learned(federation, post), in_process(federation))


def test_with_too_few_left_nothing_is_released(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    with pytest.raises(RoundAbortedError, match="expected at least 3 clients, 2 advertised keys"):
        learned(federation, Post(federation, lost={(0, 1), (0, 2)}))


def test_all_logs_agree(tmp_path: Path) -> None:
    federation = Federation(tmp_path, holders=2, backend="bfv+mask")
    learned(federation, Post(federation))
    logs = {
        str(number): (folder / "audit.jsonl").read_bytes() for number, folder in enumerate(federation.folders)
    }
    report = verify(logs)
    assert [finding.text for finding in report.findings if "server" not in finding.text] == []
    assert len(report.sessions) == 2


def test_a_message_that_comes_again_stands_in_the_log_once(tmp_path: Path) -> None:
    """A restarted server asks again and a party answers with the same bytes; the log records one event."""
    federation = Federation(tmp_path, holders=1, backend="bfv+mask")
    post = Repeating(federation)
    learned(federation, post)
    assert post.repeats > 20
    logs = {
        str(number): (folder / "audit.jsonl").read_bytes() for number, folder in enumerate(federation.folders)
    }
    report = verify(logs)
    assert [finding.text for finding in report.findings if "server" not in finding.text] == []
    assert len(report.sessions) == 2
    for data in logs.values():
        said = [
            entry.event for entry in read(data).entries if isinstance(entry.event, Agreed | Received | Sent)
        ]
        assert len(set(said)) == len(said) > 3


class Repeating(Post):
    """Every envelope is delivered twice; each time the party is a new process."""

    repeats = 0

    def ask(self, party: int, envelope: Envelope, address: int = 0) -> bytes:
        answer = super().ask(party, envelope, address)
        assert super().ask(party, envelope, address) == answer
        self.repeats += 1
        return answer


def test_parties_whom_the_network_asks_twice_are_no_liars(tmp_path: Path) -> None:
    """They give the same answer again."""
    federation = Federation(tmp_path)
    log = AuditLog(tmp_path / "audit.jsonl", Identity.generate(), "server", Role.SERVER)
    learned(federation, Repeating(federation), log)
    log.close()
    report = _audited(federation, tmp_path)
    assert not report.findings
    assert not [note for note in report.notes if not re.search("stopped|approved", note.text)]


def test_a_data_set_serves_one_session_whatever_process_holds_it(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    learned(federation, Post(federation))
    post = Post(federation)
    with pytest.raises(RoundAbortedError, match="0 uploaded"):
        learned(federation, post)
    assert len(post.refusals) == 4
    assert all("was used in session" in str(error) for error in post.refusals)


def refused_by_one(federation: Federation, agreed: str, other: str) -> str:
    """Why one client, whose study has `other` for what was `agreed`, refuses to take part in what all others learn."""
    at = federation.folders[1] / "study.toml"
    at.write_text(at.read_text().replace(agreed, other))
    Folder(federation.folders[1]).approve("an operator", "mistaken")
    post = Post(federation)
    with pytest.warns(DropoutWarning, match="without site-1"):
        learned(federation, post)
    (refusal,) = post.refusals
    return str(refusal)


def test_a_party_with_another_study_takes_part_in_nothing(tmp_path: Path) -> None:
    refusal = refused_by_one(Federation(tmp_path), "max_rows = 100", "max_rows = 1000")
    assert "expected the 1 sums that were agreed on" in refusal


@pytest.mark.slow
@pytest.mark.parametrize("study", [RIDGE, DEEP], ids=["ridge", "network"])
def test_a_private_study_is_learned_from_noisy_sums(tmp_path: Path, study: str) -> None:
    private = f"{study}\n[privacy]\nepsilon = 2.0\ndelta = 1e-6\n"
    first, second = (Federation(tmp_path / name, study=private) for name in "ab")
    noisy, again = (learned(federation, Post(federation)) for federation in (first, second))
    none = learned(without := Federation(tmp_path / "c", study=study), Post(without))
    assert noisy.shape == none.shape
    assert not np.allclose(noisy, again)  # the same rows, fresh noise
    assert not np.allclose(noisy, none)


def test_a_party_that_agreed_to_other_noise_takes_part_in_nothing(tmp_path: Path) -> None:
    federation = Federation(tmp_path, study=f"{RIDGE}\n[privacy]\nepsilon = 2.0\ndelta = 1e-6\n")
    assert "noise" in refused_by_one(federation, "epsilon = 2.0", "epsilon = 1.0")


def test_after_the_end_nothing_of_a_session_is_left_but_the_ledger(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    post = Post(federation)
    weights = learned(federation, post)
    (session,) = post.sessions
    folder = federation.folders[0]
    assert b"end answered" in post.ask(0, Envelope(Channel.END, session, packed([weights])))
    assert np.array_equal(model(folder)[0], weights)
    _, identity = read_key(folder / "identity.key", bytes)
    store = Store(folder / "state.db", identity)
    assert store.kept(f"masked {session.hex()}") is None
    with pytest.raises(PolicyError, match="a replay is refused"):
        store.ledger.join(session)
    store.close()
    with pytest.raises(PolicyError, match="a replay is refused"):
        post.ask(0, Envelope(Channel.MASKED, session, post.invitation))


def test_a_party_can_give_an_open_session_up(tmp_path: Path) -> None:
    """Its secrets are erased, its data set stays spent, and the session continues without it."""
    federation = Federation(tmp_path)

    class Patient(Post):
        """Between the keys and the upload a client's operator gives up."""

        said: tuple[str, ...] = ()

        def ask(self, party: int, envelope: Envelope, address: int = 0) -> bytes:
            if self.phases == 4 and party == 2:
                told = [
                    CliRunner().invoke(
                        app, ["flower", "give-up", str(federation.folders[2]), *yes], input="n\n"
                    )
                    for yes in ([], ["--yes"], ["--yes"])
                ]
                assert [one.exit_code for one in told] == [1, 0, 0]
                self.said = tuple(one.output for one in told)
            return super().ask(party, envelope, address)

    post = Patient(federation)
    with pytest.warns(DropoutWarning, match="without site-2"):
        learned(federation, post)
    (session,) = post.sessions
    asked, over, again = post.said
    assert "Aborted" in asked
    assert f"masked {session.hex()} is over here" in over.replace("\n", "")
    assert "nothing was open" in again
    (refusal,) = post.refusals
    assert "site-2 refused a message from the server" in str(refusal)
    _, identity = read_key(federation.folders[2] / "identity.key", bytes)
    with closing(Store(federation.folders[2] / "state.db", identity)) as store:
        assert store.run("SELECT count(*) FROM kept") == [(0,)]
        with pytest.raises(PolicyError, match="a replay is refused"):
            store.ledger.join(session)
    (tmp_path / "nobody").mkdir()
    with pytest.raises(FileError, match="expected the file of a party's sessions, found none"):
        Folder(tmp_path / "nobody").give_up()


def test_one_session_under_two_names_is_joined_once(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    post = Post(federation)
    learned(federation, post)
    (session,) = post.sessions
    called = f"expected the terms of session 00000000…, got those of {session.hex()[:8]}…"
    with pytest.raises(LocalProtocolError, match=called):
        post.ask(0, Envelope(Channel.MASKED, bytes(32), post.invitation))


def test_a_network_is_made_personal_where_its_rows_are(tmp_path: Path) -> None:
    federation = Federation(tmp_path, study=DEEP)
    post, (terms, study) = Post(federation), Folder(federation.server).terms()
    aggregator = remote(Elsewhere(federation.parties, post.carrier), terms.policy, None)
    layers, _ = study.learn(aggregator, federation.names)
    (session,) = post.sessions
    for party, folder in enumerate(federation.folders):
        post.ask(party, Envelope(Channel.END, session, packed(layers)))
        rows = Folder(folder).data(study)
        own = model(folder, "personal.npz")
        assert [one.shape for one in own] == [one.shape for one in layers]
        assert np.array_equal(own[-1], study.personal_head(rows, "site", layers))


def test_a_network_is_no_question_about_rows(tmp_path: Path) -> None:
    """With noise, a site without rows takes part too, and sites answer only under the seed's hidden layers."""
    federation = Federation(tmp_path, study=DEEP + "[privacy]\nepsilon = 4.0\ndelta = 1e-6\n")
    post, (_, study) = Post(federation), Folder(federation.server).terms()
    table = federation.folders[0] / "rows.csv"
    table.write_text(table.read_text().splitlines()[0] + "\n")
    (data,) = [one for one in looked_at(federation.folders[0]) if one.what == "data"]
    assert data.said == "0 rows of 'rows' fit the study"
    X, y, _ = federation.rows([1])
    layers = list(study.estimator().fit_pooled(X / 1000, y).weights_)
    for party in (0, 1):
        join(federation.folders[party], bytes(32))
        assert b"end answered" in post.ask(party, Envelope(Channel.END, bytes(32), packed(layers)))
        assert len(model(federation.folders[party])) == len(layers)
    assert not (federation.folders[0] / "personal.npz").exists()
    layers[0] = layers[0] * 2
    join(federation.folders[1], bytes(32))
    with pytest.raises(DataError, match="the hidden layers are not those that the public seed gives"):
        post.ask(1, Envelope(Channel.END, bytes(32), packed(layers)))


# ---- what the server tells between two sums ------------------------------------------------------


class Telling(Post):
    """Notes what the server tells. alter: what becomes of it on its way to a party, where it is given."""

    def __init__(self, federation: Federation, alter: Callable[[int, bytes], bytes] | None = None) -> None:
        super().__init__(federation)
        self.alter = alter
        self.told: list[Envelope] = []

    def ask(self, party: int, envelope: Envelope, address: int = 0) -> bytes:
        if envelope.channel is Channel.LEARNED:
            self.told.append(envelope)
            if self.alter:
                learned_ = decode(envelope.data, LEARNED)
                model_ = self.alter(party, learned_.model)
                envelope = replace(envelope, data=encode(structs.replace(learned_, model=model_)))
        return super().ask(party, envelope, address)


def test_layers_that_a_site_was_told_are_kept_until_the_end_and_never_change(tmp_path: Path) -> None:
    federation = Federation(tmp_path, study=LAYERED)
    post, (terms, study) = Telling(federation), Folder(federation.server).terms()
    aggregator = remote(Elsewhere(federation.parties, post.carrier), terms.policy, None)
    layers, _ = study.learn(aggregator, federation.names)
    first, second = post.told[0], post.told[-1]
    assert len(post.told) == 2 * 4
    assert decode(first.data, LEARNED).model == packed(layers[:1])
    assert decode(second.data, LEARNED).model == packed(layers[:2])
    rows = Folder(federation.folders[0]).data(study)
    for number, known in ((0, 1), (1, 0), (1, 2), (2, 1)):
        with pytest.raises(
            DataError, match=f"expected the layers of {number} sums before this one, got {known}"
        ):
            study.vector(number, rows, "site", layers[:known])
    said, session = decode(first.data, LEARNED), first.session
    for again in (first, second, first):
        assert post.ask(0, again) == b""
    other = [layers[0] * 2, *layers[1:]]
    for told in (other[:1], other[:2], [*layers[:1], layers[1] + 1]):
        with pytest.raises(LocalProtocolError, match="contradict those it announced before"):
            post.ask(0, replace(first, data=encode(structs.replace(said, model=packed(told)))))
    with pytest.raises(LocalProtocolError, match="takes part in no session of that number"):
        post.ask(0, replace(first, session=bytes(32)))
    with pytest.raises(LocalProtocolError, match="contradict those it announced before"):
        post.ask(0, Envelope(Channel.END, session, packed(other)))
    for party, folder in enumerate(federation.folders[1:], 1):
        assert b"end answered" in post.ask(party, Envelope(Channel.END, session, packed(layers)))
        rows = Folder(folder).data(study)
        assert np.array_equal(model(folder, "personal.npz")[-1], study.personal_head(rows, "site", layers))
    for folder in federation.folders:  # of which the first one refused another model than it was told of
        _, identity = read_key(folder / "identity.key", bytes)
        with closing(Store(folder / "state.db", identity)) as store:
            assert store.run("SELECT count(*) FROM kept") == [(0,)]
    assert not (federation.folders[0] / "model.npz").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("alter", "fault"),
    [
        (lambda layer: layer * 1e300, "not finite or too large"),
        (lambda layer: layer + 2.0**-52, "on the grid"),
        (lambda layer: layer[:-1], "expected a model of layers of"),
        (lambda layer: layer[:0], "expected the layers of 1 sums before this one, got 0"),
    ],
    ids=["overflowing", "inexact", "cut", "none"],
)
def test_a_site_is_not_asked_for_rows_by_layers_that_only_some_rows_survive(
    tmp_path: Path, alter: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]], fault: str
) -> None:
    """Layers on which some rows would fail are refused whatever the rows are, so an answer tells nothing of them. Only one
    site is sent such layers; as both sums must be over the same sites, nothing is opened.
    """
    federation = Federation(tmp_path, study=LAYERED)
    post = Telling(
        federation,
        lambda party, told: packed([alter(np.frombuffer(told[: 8 * 24], "<f8"))]) if party == 2 else told,
    )
    with pytest.raises(RoundAbortedError, match="nothing was released"):
        learned(federation, post)
    assert fault in str(post.refusals[0])


@pytest.mark.slow
def test_logs_tell_of_a_server_that_tells_two_sites_different_layers(tmp_path: Path) -> None:
    federation = Federation(tmp_path, study=LAYERED)
    identity, post = Identity.generate(), Telling(federation)
    with closing(AuditLog(tmp_path / "audit.jsonl", identity, "server", Role.SERVER)) as log:
        learned(federation, post, log)
    assert not _audited(federation, tmp_path).findings
    first = decode(post.told[0].data, LEARNED)
    other = structs.replace(first, model=bytes(len(first.model)))
    with closing(AuditLog(tmp_path / "audit.jsonl", identity, "server", Role.SERVER)) as log:
        log.note(Sent(first.transcript, frame(other, encode(other)), (9,)))  # to one whose log is not given
    (finding,) = _audited(federation, tmp_path).findings
    assert finding.text == "the server told different layers before"
    federation = Federation(tmp_path / "again", study=LAYERED, believing=True)
    halved = Telling(
        federation, lambda party, told: packed([np.frombuffer(told, "<f8") / (1 + (party == 2))])
    )
    learned(federation, halved)
    found_ = [str(one) for one in _audited(federation).findings]
    assert len(found_) == 2
    assert all("was told different layers than" in one for one in found_)


def _audited(federation: Federation, *more: Path) -> Report:
    logs = [folder / "audit.jsonl" for folder in (*federation.folders, *more)]
    return verify({str(file): file.read_bytes() for file in logs})


def test_a_layer_is_of_the_session_that_the_site_is_in(tmp_path: Path) -> None:
    """Otherwise a server could send each site other layers, each in a session that no other log mentions."""
    federation = Federation(tmp_path, study=LAYERED)
    post = Telling(federation)
    learned(federation, post)
    elsewhere = replace(
        post.told[0], data=encode(structs.replace(decode(post.told[0].data, LEARNED), transcript=bytes(32)))
    )
    with pytest.raises(LocalProtocolError, match="no session of that number and transcript"):
        post.ask(0, elsewhere)
    assert not _audited(federation).findings


def _kept(folder: Path) -> list[str]:
    """What the store of a party has of sessions."""
    _, identity = read_key(folder / "identity.key", bytes)
    with closing(Store(folder / "state.db", identity)) as store:
        return store.open_sessions()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("study", "backend", "party"),
    [(RIDGE, "mask", 0), (DEEP, "mask", 0), (LAYERED, "bfv+mask", 4)],
    ids=["ridge", "seeded", "key holder"],
)
def test_who_needs_no_layers_is_told_of_none(tmp_path: Path, study: str, backend: str, party: int) -> None:
    """Layers that the server announces anyway change nothing and take no space."""
    federation = Federation(tmp_path, holders=int(backend != "mask"), backend=backend, study=study)

    class Chatty(Post):
        asked = 0

        def ask(self, to: int, envelope: Envelope, address: int = 0) -> bytes:
            if to == party:
                for transcript in (self.transcript, bytes(32)):
                    told = Envelope(
                        Channel.LEARNED, envelope.session, encode(Learned(transcript, bytes(32), bytes(48)))
                    )
                    with pytest.raises(LocalProtocolError, match="takes part in no sum that depends on"):
                        super().ask(to, told)
                self.asked += 1
            return super().ask(to, envelope, address)

        @property
        def transcript(self) -> bytes:
            return decode(self.invitation, PARAMETERS).transcript() if backend == "mask" else bytes(32)

    post = Chatty(federation)
    assert np.array_equal(learned(federation, post), in_process(federation))
    assert post.asked > 3
    assert not any(name.startswith("learned") for name in _kept(federation.folders[party]))


def test_what_is_no_layer_is_not_kept(tmp_path: Path) -> None:
    """An announced layer is checked on arrival, and takes no more space than the study's layers."""
    federation = Federation(tmp_path, study=LAYERED)
    wrong = [bytes(2**20), bytes(8 * (24 + 28 + 10)), bytes(8 * 24 + 1), bytes(8)]
    wrong += [np.full(24, value).tobytes() for value in (5e-324, 2.0**-60 / 3, 1e308, np.nan, -np.inf)]

    class Wrong(Telling):
        def ask(self, party: int, envelope: Envelope, address: int = 0) -> bytes:
            if envelope.channel is Channel.LEARNED and not self.told:
                transcript = decode(envelope.data, LEARNED).transcript
                for told in wrong:
                    with pytest.raises(DataError):
                        Post.ask(
                            self, 0, replace(envelope, data=encode(Learned(transcript, bytes(32), told)))
                        )
                assert not any(name.startswith("learned") for name in _kept(federation.folders[0]))
            return super().ask(party, envelope, address)

    post = Wrong(federation)
    learned(federation, post)
    assert len(post.told) == 8
    events = read((federation.folders[0] / "audit.jsonl").read_bytes()).entries
    refused = [one.event for one in events if isinstance(one.event, Refused)]
    assert [(one.kind, one.reason) for one in refused] == [("DataError", "")] * len(wrong)


def test_a_layer_that_is_not_in_the_log_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A site that is killed before its log has the layer does not keep it, and is sent it again."""
    federation = Federation(tmp_path, study=LAYERED)

    class Killed(Telling):
        def ask(self, party: int, envelope: Envelope, address: int = 0) -> bytes:
            if envelope.channel is Channel.LEARNED and len(self.told) == 0:
                with monkeypatch.context() as patched:
                    patched.setattr(AuditLog, "note", _killed)
                    with pytest.raises(KeyboardInterrupt):
                        Post.ask(self, party, envelope)
                assert not any(name.startswith("learned") for name in _kept(federation.folders[party]))
            return super().ask(party, envelope, address)

    assert np.array_equal(learned(federation, Killed(federation)), in_process(federation))


def _killed(*arguments: object) -> None:
    raise KeyboardInterrupt


def test_a_head_is_made_personal_on_layers_only_that_were_told_before(tmp_path: Path) -> None:
    """The time that this takes tells of the rows under those layers, and a policy may not trust the server with that."""
    federation = Federation(tmp_path, study=LAYERED)
    study = federation.terms()[1]
    layers = [np.zeros(shape) for shape in study.shapes()]
    post = Telling(federation)
    join(federation.folders[0], bytes(32))
    assert b"end answered" in post.ask(0, Envelope(Channel.END, bytes(32), packed(layers)))
    assert len(model(federation.folders[0])) == 3
    learned(federation, post)
    for data in (b"", packed(layers)):  # of a session that was over when the model came
        assert (post.ask(0, Envelope(Channel.END, post.told[0].session, data)) == b"") is bool(data)
    session = post.told[0].session
    assert Folder(federation.folders[1]).give_up() == [
        f"{kept} {session.hex()}" for kept in ("learned", "masked")
    ]
    with pytest.raises(LocalProtocolError, match="takes part in no session of that number"):
        post.ask(1, post.told[0])
    assert post.ask(1, Envelope(Channel.END, session, packed(layers))) == b""
    assert not [one for one in federation.folders[:2] if (one / "personal.npz").exists()]


def test_a_site_that_is_killed_over_its_model_takes_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = Federation(tmp_path, study=LAYERED)
    post, (terms, study) = Telling(federation), federation.terms()
    layers, _ = study.learn(
        remote(Elsewhere(federation.parties, post.carrier), terms.policy, None), federation.names
    )
    end, folder = Envelope(Channel.END, post.told[0].session, packed(layers)), federation.folders[0]
    dead, forget_ = [], Store.forget

    def killed(*arguments: object) -> None:
        dead.append(True)
        raise KeyboardInterrupt

    def unless_dead(store: Store, name: str) -> None:  # SIGKILL runs nothing after it
        if not dead:
            forget_(store, name)

    with monkeypatch.context() as patched:
        patched.setattr(Folder, "keep", killed)
        patched.setattr(Store, "forget", unless_dead)
        with pytest.raises(KeyboardInterrupt):
            post.ask(0, end)
    assert _kept(folder) == [f"learned {end.session.hex()}"]  # its secrets went first
    assert b"end answered" in post.ask(0, end)
    assert len(model(folder, "personal.npz")) == 3
    assert _kept(folder) == []
    assert sorted(one.name for one in folder.iterdir() if one.name.startswith(".")) == []


def test_two_processes_that_keep_a_model_leave_one_that_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, models = np.savez, [[np.full((50, 50), value)] for value in (1.0, 2.0)]
    study = study_file.parse('backend = "mask"' + DEEP)

    def meeting(file: IO[bytes], *layers: npt.NDArray[np.float64], **named: Any) -> None:
        if layers[0][0, 0] == 1.0:
            Folder(tmp_path).keep("model.npz", models[1], study)
        write(file, *layers, **named)

    monkeypatch.setattr(np, "savez", meeting)
    Folder(tmp_path).keep("model.npz", models[0], study)
    assert np.array_equal(model(tmp_path)[0], models[0][0])
    assert [one.name for one in tmp_path.iterdir()] == ["model.npz"]


@pytest.mark.parametrize("study", [DEEP, LAYERED, DEEP + "[privacy]\nepsilon = 4.0\ndelta = 1e-6\n"])
@pytest.mark.parametrize("size", [1e308, 1e12])
def test_a_head_that_only_some_rows_survive_is_refused_by_all(
    tmp_path: Path, study: str, size: float
) -> None:
    federation = Federation(tmp_path, study=study)
    post, read_study = Post(federation), federation.terms()[1]
    if "privacy" in study:
        table = federation.folders[0] / "rows.csv"
        table.write_text(table.read_text().splitlines()[0] + "\n")
    X, y, _ = federation.rows([1])
    layers = list(read_study.estimator().fit_pooled(X / 1000, y).weights_)
    layers[-1] = np.full_like(layers[-1], size)
    for party in (0, 1):
        join(federation.folders[party], bytes(32))
        with pytest.raises(DataError, match="not finite or too large"):
            post.ask(party, Envelope(Channel.END, bytes(32), packed(layers)))
        assert not list(federation.folders[party].glob("*.npz"))


def test_a_server_that_computes_other_layers_when_it_goes_on_does_not_tell_of_them(tmp_path: Path) -> None:
    """Sites that have the first layers would see a contradiction, and the model would not follow from the sums."""
    federation = Federation(tmp_path, study=LAYERED)
    identity, post = Identity.generate(), Telling(federation)
    first, other = bytes(16), bytes(8) + bytes([1] * 8)
    with closing(Store(tmp_path / "state.db", identity)) as store:
        far = Elsewhere(federation.parties, post.carrier, store=store)
        aggregator = remote(far, federation.terms()[0].policy, None)
        aggregator.open(federation.names, federation.terms()[0].plan)
        for model_ in (first[:8], first, first[:8], first):
            aggregator.tell(model_, federation.names)
        told = len(post.told)
        with pytest.raises(StoreError, match="expected the layers that clients were told before"):
            aggregator.tell(other, federation.names)
        assert len(post.told) == told == 16
        forget(store)
        assert store.open_sessions() == []


def entries(folder: Path, *kinds: type) -> list[object]:
    """What the party's audit log says of these kinds."""
    found_ = [entry.event for entry in read((folder / "audit.jsonl").read_bytes()).entries]
    return [event for event in found_ if isinstance(event, kinds)]


def a_model(federation: Federation, value: float = 666.0) -> bytes:
    """One that every party with this study can take, out of no session."""
    study = federation.terms()[1]
    layers = [np.full(shape, value) for shape in study.shapes()]
    if isinstance(study, study_file.NetworkStudy):
        layers[:-1] = study.estimator()._seeded()
    return packed(layers)


@pytest.mark.parametrize("study", [RIDGE, DEEP], ids=["ridge", "network"])
@pytest.mark.parametrize("state", ["never approved", "revoked", "in no session"])
def test_a_server_plants_no_model_by_ending_a_session(tmp_path: Path, study: str, state: str) -> None:
    """The weak design takes the model of any end message, reads the rows for it, and logs nothing."""
    federation = Federation(tmp_path, study=study)
    folder, end = federation.folders[0], Envelope(Channel.END, bytes(32), a_model(federation))
    if state == "revoked":
        Folder(folder).revoke("Dr Noor", "withdrawn")
    elif state == "never approved":
        (folder / "audit.jsonl").unlink()
    for _ in range(2):  # in no session: it is not told from a session that is over, and costs no line
        assert Post(federation).ask(0, end) == b""
    if state != "in no session":
        join(folder, bytes(32))
        with pytest.raises(PolicyError, match="is not approved at site-0"):
            Post(federation).ask(0, end)
        assert entries(folder, Ended, Refused)[0] == Ended(bytes(32), len(end.data))
    assert not list(folder.glob("*.npz"))
    assert _kept(folder) == []


def test_a_model_is_taken_once_and_the_log_says_so_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = Federation(tmp_path, study=DEEP)
    folder, end = federation.folders[0], Envelope(Channel.END, bytes(32), a_model(federation))
    join(folder, bytes(32))
    with monkeypatch.context() as patched:  # a log that cannot be written
        patched.setattr(AuditLog, "append", lambda *_: (_ for _ in ()).throw(AuditError("the disk is full")))
        with pytest.raises(AuditError):
            Post(federation).ask(0, end)
    assert not list(folder.glob("*.npz"))
    join(folder, bytes(32))
    assert b"end answered" in Post(federation).ask(0, end)
    taken = model(folder)
    for value in (1.0, 2.0):
        again = Envelope(Channel.END, bytes(32), a_model(federation, value))
        assert Post(federation).ask(0, again) == b""
    assert np.array_equal(model(folder)[-1], taken[-1])
    assert entries(folder, Ended) == [Ended(bytes(32), len(end.data))]
    assert (folder / "personal.npz").stat().st_mode & 0o777 == 0o600


def test_the_end_of_a_session_tells_nothing_of_a_table(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The weak design refuses the end if the site's rows cannot be read, which tells one bit about them each time."""
    federation = Federation(tmp_path, study=DEEP)
    folder, end = federation.folders[0], Envelope(Channel.END, bytes(32), a_model(federation))
    (folder / "rows.csv").write_text("a,b,c,sick\n1,2,3,maybe\n")
    join(folder, bytes(32))
    assert b"end answered" in Post(federation).ask(0, end)
    assert len(model(folder)) == 2
    assert not (folder / "personal.npz").exists()
    (told,) = [record.event for record in caplog.records if isinstance(record.event, NotPersonal)]  # type: ignore[attr-defined]
    assert "maybe" not in told.reason
    assert entries(folder, Refused) == []


def test_where_nothing_was_learned_nothing_is_kept(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    assert Post(federation).ask(0, Envelope(Channel.END, bytes(32))) == b""
    assert not (federation.folders[0] / "model.npz").exists()


@pytest.mark.parametrize(
    ("study", "data"),
    [
        (DEEP, b"x"),
        (DEEP, bytes(8 * 37)),
        (DEEP, packed([np.full(38, np.nan)])),
        (RIDGE, packed([np.full(8, np.inf)])),
    ],
)
def test_a_model_that_is_none_is_not_kept(tmp_path: Path, study: str, data: bytes) -> None:
    federation = Federation(tmp_path, study=study)
    join(federation.folders[0], bytes(32))
    with pytest.raises(DataError, match="expected"):
        Post(federation).ask(0, Envelope(Channel.END, bytes(32), data))
    assert not (federation.folders[0] / "model.npz").exists()


# ---- who is where --------------------------------------------------------------------------------


def test_an_address_is_proven(tmp_path: Path) -> None:
    federation = Federation(tmp_path, holders=1, backend="bfv")
    post, question = Post(federation), who_is_there()
    answers = [post.ask(party, question, address=100 + party) for party in range(5)]
    assert [found(federation.parties, question, 100 + k, answers[k]) for k in range(5)] == list(range(5))


def test_nobody_draws_anothers_messages_to_itself(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    post, question = Post(federation), who_is_there()
    answer = post.ask(1, question, address=101)
    with pytest.raises(WireError, match="signed by site-1"):  # passed on from another address
        found(federation.parties, question, 102, answer)
    with pytest.raises(WireError, match="signed by site-1"):  # from an earlier run
        found(federation.parties, who_is_there(), 101, answer)
    with pytest.raises(WireError, match="signed by site-0"):
        found(federation.parties, question, 101, encode(Here(0, answer[-64:])))
    with pytest.raises(WireError, match="one of 4 parties, got number 4"):
        found(federation.parties, question, 101, encode(Here(4, answer[-64:])))


def test_who_is_not_in_the_roster_has_no_place(tmp_path: Path) -> None:
    federation, others = Federation(tmp_path / "a"), Federation(tmp_path / "b")
    (federation.folders[0] / "roster.toml").write_bytes((others.server / "roster.toml").read_bytes())
    with pytest.raises(LocalProtocolError, match="is unknown"):
        Post(federation).ask(0, who_is_there())


def test_what_was_not_agreed_on_is_refused(tmp_path: Path) -> None:
    federation = Federation(tmp_path / "masks")
    with pytest.raises(LocalProtocolError, match="no encrypted sums were agreed on"):
        Post(federation).ask(0, Envelope(Channel.ENCRYPTED, bytes(32), b"x"))
    federation = Federation(tmp_path / "both", holders=1, backend="bfv+mask")
    with pytest.raises(LocalProtocolError, match="no masked sums were agreed on"):
        Post(federation).ask(4, Envelope(Channel.MASKED, bytes(32), b"x"))
    with pytest.raises(FileError, match="a roster with key holders"):
        Federation(tmp_path / "none", backend="bfv").terms()
    with pytest.raises(FileError, match="no system that key holders could solve: release the sum"):
        Federation(tmp_path / "weights", holders=1, backend="ckks", study=LAYERED).terms()


# ---- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "old", "new", "fault"),
    [
        (
            "study.toml",
            'backend = "mask"',
            'backend = "plain"',
            "expected the backend mask, bfv+mask, bfv or ckks, got 'plain'",
        ),
        (
            "study.toml",
            'backend = "mask"',
            'backend = "paper"',
            "expected the backend mask, bfv+mask, bfv or ckks, got 'paper'",
        ),
        ("study.toml", "max_rows = 100", "max_rows = '100'", "Expected `int`, got `str` - at `$.max_rows`"),
        (
            "study.toml",
            "[ridge]",
            "[ridge2]",
            "the table [ridge] or [logistic] or [poisson] or [fedacnnl], got the tables [ridge2]",
        ),
        ("study.toml", "[ridge]", "[fedacnnl]\n[ridge]", "got the tables [fedacnnl], [ridge]"),
        ("study.toml", "8.0, 1000.0", "8.0", "column_bounds as 3 numbers"),
        ("study.toml", '"b"', '"a"', "without repeats"),
        ("study.toml", "max_rows", "release = 'sum'\nmax_rows", "no key holders"),
        ("study.toml", "[ridge]", "[privacy]\nepsilon = 0.0\ndelta = 0.1\n[ridge]", "epsilon from 2^-20"),
        ("study.toml", "[ridge]", "[privacy]\nepsilon = 1.0\n[ridge]", "missing required field `delta`"),
        ("data.toml", "rows.csv", "other.csv", "expected a header and then one line a row, got no file"),
        ("rows.csv", "id,a,b", "id,a,x", "expected a column 'b', there are 'id'"),
        ("rows.csv", "0,", "0,x", "column 'a', data row 1: expected a finite number"),
    ],
)
def test_a_file_that_does_not_fit_is_named(tmp_path: Path, name: str, old: str, new: str, fault: str) -> None:
    federation = Federation(tmp_path)
    at = federation.folders[0] / name
    at.write_text(at.read_text().replace(old, new, 1))
    with pytest.raises(FileError, match=re.escape(fault)) as refused:
        _read(Folder(federation.folders[0]))
    assert str(tmp_path) in str(refused.value)


def test_cells_are_quoted_to_their_owner_and_never_in_a_text_that_is_logged(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    table = federation.folders[0] / "rows.csv"
    table.write_text(table.read_text() + "13,Mrs Miller,0,0,no\n14,0,0,Mr Jones,never\n")
    with pytest.raises(FileError) as refused:
        _read(Folder(federation.folders[0]))
    text, notes = str(refused.value), "\n".join(refused.value.__notes__)
    for column, row, cell in (("a", 13, "Mrs Miller"), ("c", 14, "Mr Jones"), ("sick", 14, "never")):
        assert f"column '{column}', data row {row}" in text
        assert f"column '{column}', data row {row}: '{cell}', expected" in notes
        assert cell not in text


def test_the_studies_of_the_documents_are_read(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "docs" / "deployment.md").read_text()
    ridge, coded, network, *_ = re.findall(r"^```toml\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert study_file.parse(ridge).plan(4)
    book = Path(dataset.__file__).parent / "files" / "heart.toml"
    (tmp_path / "codebook.toml").write_text(book.read_text())
    assert study_file.parse(coded, tmp_path).plan(4)
    common = re.sub(
        "(?m)^features.*$", f"features = {[str(at) for at in range(784)]}", ridge.split("[ridge]")[0]
    )
    deep = study_file.parse(common + network)
    assert deep.plan(4)
    assert deep.shapes()[0] == (1 + 36, 64)


@pytest.mark.parametrize(
    ("layer", "fault"),
    [
        ("", "expected a layer as its name"),
        ('"Cone", 3', "expected a layer as its name"),
        ('"Dense", 3, 4', "Dense 1"),
        ('"Dense"', "missing required field `units`"),
        ('"Dense", "3"', "Expected `int`, got `str`"),
        ('"Conv", 3, 2, 1, 0, 1', "Expected `bool`, got `int`"),
    ],
)
def test_a_layer_that_is_none_is_named(layer: str, fault: str) -> None:
    study = study_file.parse(f'backend = "mask"\n{DEEP}'.replace('["Dense", 6]', f"[{layer}]"))
    with pytest.raises(DataError, match=re.escape(fault)):
        study.plan(4)


@given(
    st.builds(Conv, *[st.integers(1, 9)] * 4, st.booleans())
    | st.builds(ReLU, st.floats(0.5, 9))
    | st.builds(Widen, st.integers(1, 9), st.integers(0, 9))
    | st.builds(Sparse, *[st.integers(1, 9)] * 3, *[st.floats(-9, 9)] * 2, st.integers(0, 9))
    | st.sampled_from([Dense(3), MaxPool(2), AvgPool(3), AvgPool(3, 2), Flatten(), Fourier(3, 1.5), Deskew()])
)
def test_a_layer_comes_back_from_its_words(layer: Layer) -> None:
    assert parse_layer(tuple(layer_words(layer))) == layer


def _read(folder: Folder) -> None:
    folder.data(folder.terms()[1])
