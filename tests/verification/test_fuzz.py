"""The fuzzer in short, what it once found, and a proof that it notices what it looks for."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from long import fuzz, machines
from long.decoders import Decoder
from long.recipes import Recipe, cooked
from msgspec.structs import replace
from worlds.cohorts import Tap, world

from secure_afl.protocol.masking.client import MaskingClient
from secure_afl.protocol.masking.messages import (
    ADVERTISE,
    FROM_CLIENT,
    FROM_SERVER,
    Confirm,
    Directory,
    Reveal,
    Survivors,
)
from secure_afl.protocol.masking.server import MaskingServer
from secure_afl.protocol.session.errors import RemoteProtocolError
from secure_afl.protocol.session.wire import WireError, decode, encode, sign_frame


@pytest.fixture(scope="module")
def targets() -> list[fuzz.Target]:
    return fuzz.all_targets()


@pytest.mark.slow
def test_the_corpus_brings_up_nothing(targets: list[fuzz.Target]) -> None:
    corpus, report = fuzz.read_corpus(), fuzz.Report()
    assert 50 < len(corpus) < 300
    by_name = {target.name: target for target in targets}
    for recipe in corpus.values():
        with fuzz.traced(report.lines):
            accepted = fuzz.attempt(by_name[recipe.target], recipe, report)
        assert accepted or recipe.base or recipe.ops, (
            f"{recipe.target} refuses an honest message of the corpus"
        )
    assert not report.findings
    # It reaches what comes behind decoding and signatures, not only the first check.
    reached = {code.co_name for code, _ in report.lines}
    assert {"_take", "_share", "_accept", "_consent", "_check_tags", "_tag", "_join", "_announce"} <= reached


@pytest.mark.slow
def test_a_short_burst_brings_up_nothing(targets: list[fuzz.Target]) -> None:
    report = fuzz.fuzz(targets, inputs=6000, seed=7)
    assert not report.findings
    total = report.tallies.values()
    assert sum(one.inputs for one in total) == 6000
    assert all(one.inputs for one in total)


def test_a_recipe_gives_the_same_bytes_again() -> None:
    def take(data: bytes) -> object:
        return decode(data, FROM_CLIENT)

    bases = {"reveal": encode(Reveal(0, ((1, bytes(33)),))), "confirm": encode(Confirm((1, 2)))}
    runs = [fuzz.fuzz([Decoder("any", bases, take)], inputs=500, seed=3) for _ in range(2)]
    first, second = ([cooked(one, bases) for one in run.kept["any"]] for run in runs)
    assert first == second
    assert len(first) > 5


# ---- seeded bugs -------------------------------------------------------------------------------------


def raises_another_error(data: bytes) -> object:
    return dict[str, int]()["no such key"] if data[:1] == b"\x00" else refuses(data)


def allocates(data: bytes) -> object:
    return refuses(bytes(np.zeros(2**27, np.uint64)[:1]))  # a gibibyte that nobody writes to


def hangs(data: bytes) -> object:
    while len(data) < 10:
        pass
    return refuses(data)


def accepts_everything(data: bytes) -> object:
    return None


def refuses(data: bytes) -> object:
    raise WireError("expected something else")


@pytest.mark.parametrize(
    ("take", "kind"),
    [(raises_another_error, "error"), (allocates, "memory"), (hangs, "hang"), (accepts_everything, "state")],
)
def test_it_notices_a_decoder_that(take: Callable[[bytes], object], kind: str) -> None:
    broken = Decoder("broken", {"message": bytes(40)}, take, refuses_all_but_bases=True)
    broken.honest = lambda: None  # type: ignore[method-assign]
    report = fuzz.fuzz([broken], inputs=400, seed=0, seconds_an_input=0.1)
    assert {finding.kind for finding in report.findings} == {kind}


def test_it_notices_a_decoder_that_refuses_honest_messages() -> None:
    report = fuzz.fuzz([Decoder("broken", {"message": bytes(40)}, refuses)], inputs=10, seed=0)
    assert "then refused what is honest" in report.findings[0].text


class ForgetsBefore(MaskingClient):
    """Changes its state before it looks at the message."""

    def _consent(self, message: Any) -> bytes:
        self._memory.survivors = frozenset(message.survivors)
        return super()._consent(message)


class CountsBefore(MaskingServer):
    """Adds a client to the sum before it has checked the upload."""

    def _take(self, sender: int, message: Any, data: bytes, root: bytes) -> None:
        self._round.survivors |= {sender}
        super()._take(sender, message, data, root)


class Forgives(MaskingServer):
    """Blames a client for what anybody sent in its name."""

    def receive(self, sender: int, data: bytes) -> None:
        try:
            super().receive(sender, data)
        except RemoteProtocolError:
            self.blame[sender] = "something"
            raise


@pytest.mark.slow
@pytest.mark.parametrize(
    ("state", "kind", "text"),
    [
        ("MaskingClient active uploaded", ForgetsBefore, "changed ['_memory.survivors'] and refused"),
        ("MaskingServer collecting", CountsBefore, "'_round'"),
        ("MaskingServer collecting", Forgives, "for a frame that nobody signed"),
    ],
)
def test_it_notices_a_machine_that_changes_and_refuses(state: str, kind: type, text: str) -> None:
    every: list[machines.Machine | machines.Serving] = [
        *machines.masking_clients(),
        *machines.masking_servers(),
    ]
    target = next(one for one in every if one.name == state)
    party: Any = target.party
    party.__class__ = kind
    if isinstance(party, MaskingClient):
        party._steps = {**party._steps, Survivors: party._consent}
    target.__post_init__()  # what it keeps of the party
    report = fuzz.fuzz([target], inputs=600, seed=0)
    assert any(one.kind == "state" and text in one.text for one in report.findings), report.findings


# ---- what it found -----------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["channel_key", "mask_keys"])
def test_a_client_that_refuses_a_neighbours_key_has_dealt_nothing(field: str) -> None:
    """A neighbour signs an invalid key: shares dealt to the neighbours before it are forgotten."""
    here = world(4)
    session = here.session(here.propose(), Tap())
    session.cohort.run(session.server.start, session.contribute)
    pending, client = session.server.advance()[1], session.clients[1]
    directory = decode(pending, FROM_SERVER)
    assert isinstance(directory, Directory)
    frames = dict(directory.frames)
    honest = decode(frames[3][:-64], ADVERTISE)
    bad = replace(honest, **{field: bytes(32) if field == "channel_key" else (bytes(32),)})
    frames[3] = sign_frame(here.identities[3], client._transcript, client._memory.invitation, 3, bad)
    with pytest.raises(RemoteProtocolError, match="not a valid x25519 public key"):
        client.receive(encode(replace(directory, frames=tuple(frames.items()))))
    assert client._memory.rounds[0].own_share == b""
    assert not client._memory.rounds[0].pair_secrets
    assert client.receive(pending)


def test_a_recipe_of_bytes_is_its_bytes() -> None:
    assert cooked(Recipe("any", "", data=b"abc"), {}) == b"abc"
    assert cooked(Recipe("any", "", (("flip", 4, 1),), data=b"abc"), {}) == b"acc"
