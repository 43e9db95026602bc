"""A client in JavaScript, written from docs/protocol.md and the vectors, holds the vectors and takes part in sessions.

`javascript/` shares nothing with ours but documents; its cryptography is `@noble/*` from npm.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from msgspec import structs
from vectors import make
from worlds.cohorts import BOUND, EVERY_PROFILE, Session, World, world

from secure_afl.crypto.hpke import Suite
from secure_afl.crypto.kdf import Label
from secure_afl.protocol.masking.messages import FROM_SERVER, Answer, SumRequest, Survivors
from secure_afl.protocol.session import graph
from secure_afl.protocol.session.errors import RemoteProtocolError
from secure_afl.protocol.session.parameters import Parameters, Profile, SumWanted, Values
from secure_afl.protocol.session.wire import decode, encode
from secure_afl.protocol.transport.driver import Packet, PerfectNetwork
from secure_afl.protocol.transport.masked import Cohort

pytestmark = pytest.mark.long
HERE = Path(__file__).parent / "javascript"
THEIRS = (0, 2, 5)
"""Clients in JavaScript, among six."""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its folder, with what npm installs."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("NODE OR NPM IS NOT INSTALLED: the client in JavaScript is not tried")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    if tuple(map(int, version[1:].split("."))) < (20, 19):
        pytest.skip(f"NODE {version.strip()} IS OLDER THAN 20.19: the client in JavaScript is not tried")
    folder = tmp_path_factory.mktemp("javascript")
    for path in HERE.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    command = [npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
    done = subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        network = (
            "ENOTFOUND",
            "EAI_AGAIN",
            "ECONNREFUSED",
            "ETIMEDOUT",
            "ECONNRESET",
            "E403",
            "E407",
            "E503",
        )
        assert any(code in done.stderr for code in network), done.stderr
        pytest.skip("THE NPM REGISTRY CANNOT BE REACHED: the client in JavaScript is not tried")
    return folder


class Theirs:
    """A client in JavaScript as a process of its own; it has its vectors from the start."""

    def __init__(self, folder: Path, session: Session, index: int) -> None:
        at = session.world
        settings = {
            "identity": at.identities[index]._key.private_bytes_raw().hex(),
            "roster": [[one.name, one.verify_key.hex()] for one in at.roster.members],
            "plan": [
                {"statistic": one.statistic, "length": one.length, "bound": BOUND, "fraction_bits": 20}
                for one in at.plan
            ],
            "vectors": [session.vectors[index, number].tolist() for number in range(len(at.plan))],
            "policy": {
                "profiles": [one.value for one in Profile],
                "suites": [one.value for one in Suite],
                "corrupted": at.policy.corrupted,
                "dropout": at.policy.dropout,
            },
        }
        self.name = at.roster.name(index)
        self.process = subprocess.Popen(
            ["node", "main.js"], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.asked(json.dumps(settings)) == "ready"

    def asked(self, line: str) -> str:
        """Its answer to a line; empty if it is gone."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return ""
        return self.process.stdout.readline().strip()

    def receive(self, data: bytes) -> bytes:
        answer = self.asked(data.hex())
        if not answer or answer.startswith("refused"):
            raise RemoteProtocolError(self.name, "the server", answer or "it is gone")
        return bytes.fromhex(answer)

    def contribute(self, wanted: SumWanted, values: Values, data_set: str) -> bytes:
        raise AssertionError("it gives its vector by itself")

    def sums(self) -> dict[int, dict[str, Any]]:
        """The sums that it accepted, by round."""
        return {int(number): one for number, one in json.loads(self.asked("sums")).items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


class Hostile(PerfectNetwork):
    """Loses the answers of some clients in some phases; alters opened sums."""

    def __init__(self) -> None:
        self.lost: set[tuple[str, int]] = set()
        self.lie = False

    def carry(self, packet: Packet) -> list[Packet]:
        if packet.upward:
            return [] if (packet.phase, packet.client) in self.lost else [packet]
        if self.lie and packet.phase == "answering":
            answer = decode(packet.data, FROM_SERVER)
            assert isinstance(answer, Answer)
            wrong = memoryview(bytes([answer.payload[0] ^ 1, *answer.payload[1:]]))
            return [replace(packet, data=encode(structs.replace(answer, payload=wrong)))]
        return [packet]


class Mixed:
    """Three clients in JavaScript and three of ours, with our server."""

    def __init__(self, folder: Path, at: World, parameters: Parameters, stack: ExitStack) -> None:
        self.network = Hostile()
        self.session = at.session(parameters)
        self.theirs = {index: stack.enter_context(Theirs(folder, self.session, index)) for index in THEIRS}
        server, ours = self.session.server, self.session.clients
        self.ours = {index: one for index, one in ours.items() if index not in THEIRS}
        self.cohort = Cohort(server, ours, self.network, recorded=(server, {**ours, **self.theirs}))

    def sum(self, number: int, survivors: set[int]) -> None:
        """Make a sum, which must be that of these survivors, at every party."""
        opened = self.cohort.sum(number, self.session.contribute)
        assert set(opened.survivors) == survivors
        expected = self.session.integer_sum(opened.survivors, number)
        np.testing.assert_array_equal(self.session.opened(opened), expected)

    def known(self) -> dict[int, dict[int, str]]:
        """By client the digests of the sums that it accepted."""
        known = {
            index: {r: one["digest"] for r, one in each.sums().items()} for index, each in self.theirs.items()
        }
        return known | {
            index: {r: one.digest.hex() for r, one in each.verified.items()}
            for index, each in self.ours.items()
        }


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_it_holds_the_vectors_and_repeats_every_session(program: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({label.name: label.value.decode() for label in Label}))
    command = ["node", "vectors.js", str(make.FOLDER), str(labels)]
    done = subprocess.run(command, check=False, cwd=program, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    said = json.loads(done.stdout)
    assert said["wrong"] == []
    sessions = [json.loads(path.read_text()) for path in make.FOLDER.glob("sessions/*.json")]
    frames = [one["client_frame"] for each in sessions for one in each["exchanges"]]
    assert said["frames"] == len([one for one in frames if one]) > 100
    assert said["good"] > 500
    assert said["bad"] > 1000
    # What is left: sums that travel encrypted, what only a server does, and replays, in which this client takes no part.
    encrypted = {"choice.json", "lattice.json", "encrypted-messages.json"}
    left = {name for name in said["others"] if name.partition(":")[0] not in encrypted}
    names = (
        "transcript",
        "share commitment",
        "key parts",
        "challenge parts",
        "ciphertexts digest",
        "data set digest",
        "mask commitments",
        "replay",
    )
    assert left == {
        *(f"derivations.json: {name}" for name in names),
        "graph.json: choose graph",
        "shamir.json: combine",
    }


@pytest.mark.parametrize("suite", Suite)
def test_it_takes_part_in_verified_sums_with_dropouts(program: Path, suite: Suite, stack: ExitStack) -> None:
    at = world(6)
    mixed = Mixed(program, at, at.propose(rounds=4, suite=suite), stack)
    mixed.cohort.set_up()
    assert not mixed.cohort.refusals
    mixed.sum(0, {0, 1, 2, 3, 4, 5})
    mixed.network.lost = {("collecting", 2)}  # theirs, and nobody else, before its upload
    mixed.sum(1, {0, 1, 3, 4, 5})
    mixed.network.lost = {("collecting", 3)}  # ours
    mixed.sum(2, {0, 1, 2, 4, 5})
    mixed.network.lost = {("consenting", 5)}  # its upload is in the sum, it is not there to open it
    mixed.sum(3, {0, 1, 2, 3, 4, 5})
    digests = mixed.known()
    assert digests[0] == digests[1] == digests[4]
    assert digests[0].keys() == {0, 1, 2, 3}
    assert all(one.items() <= digests[0].items() for one in digests.values())
    for index, one in mixed.theirs.items():
        for number, said in one.sums().items():
            sums = [mixed.session.vectors[who, number] for who in said["survivors"]]
            np.testing.assert_allclose(said["values"], np.sum(sums, axis=0), rtol=0, atol=6 * 2.0**-20)
            assert index in said["survivors"]


def test_it_takes_part_on_a_sparse_graph(program: Path, stack: ExitStack) -> None:
    """Of a size for tests, so nobody may be thought to collude or drop out."""
    at = world(6, replace(EVERY_PROFILE, corrupted=0, dropout=0))
    near = graph.Neighbourhood(4, 3)
    mixed = Mixed(program, at, at.propose(rounds=2, profile=Profile.SEMI_HONEST, near=near), stack)
    mixed.cohort.set_up()
    mixed.sum(0, {0, 1, 2, 3, 4, 5})
    mixed.network.lost = {("collecting", 0)}
    mixed.sum(1, {1, 2, 3, 4, 5})


def test_it_opens_the_sum_of_a_cohort_in_which_its_process_was_killed(
    program: Path, stack: ExitStack
) -> None:
    at = world(6)
    mixed = Mixed(program, at, at.propose(), stack)
    mixed.cohort.set_up()
    mixed.theirs[0].process.kill()
    mixed.theirs[0].process.wait()
    mixed.sum(0, {1, 2, 3, 4, 5})


def test_it_refuses_another_sum_than_the_right_one(program: Path, stack: ExitStack) -> None:
    at = world(6)
    mixed = Mixed(program, at, at.propose(rounds=2), stack)
    mixed.cohort.set_up()
    mixed.network.lie = True
    mixed.cohort.sum(0, mixed.session.contribute)
    assert mixed.known() == {index: {} for index in range(6)}
    request = encode(SumRequest(mixed.session.server.parameters.transcript(), 1, tuple(range(6))))
    with pytest.raises(RemoteProtocolError, match="in state rejected"):
        mixed.theirs[0].receive(request)


def test_it_refuses_what_would_take_its_masks_off(program: Path, stack: ExitStack) -> None:
    """A second vector under the same keys, too few survivors, survivors without it, and another session's message."""
    at = world(6)
    mixed = Mixed(program, at, at.propose(), stack)
    mixed.cohort.set_up()
    client, transcript = mixed.theirs[0], mixed.session.server.parameters.transcript()
    request = mixed.session.server.open_round(0)[0]
    assert client.receive(request)
    refused = [
        (request, "a round that is still to come"),
        (encode(Survivors(transcript, 0, (0, 1))), "at least 3 survivors"),
        (encode(Survivors(transcript, 0, (0, 1, 2))), "among the neighbours"),
        (encode(Survivors(transcript, 0, (1, 2, 3, 4, 5))), "this client among the survivors"),
        (encode(Survivors(bytes(32), 0, (0, 1, 2, 3, 4))), "the session's transcript"),
    ]
    for message, why in refused:
        with pytest.raises(RemoteProtocolError, match=why):
            client.receive(message)
    assert client.receive(encode(Survivors(transcript, 0, (0, 1, 2, 3, 4))))
