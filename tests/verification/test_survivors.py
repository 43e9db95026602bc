"""What `tests/long/mutants.py` found that no other test would have noticed, by module."""

import os
import struct
from fractions import Fraction
from math import inf, log, nan, sqrt
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import zstandard
from msgspec.structs import replace
from worlds.cohorts import world
from worlds.encrypted import KeyWorld

from secure_afl.crypto import workers
from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.fixed_point import FixedPoint
from secure_afl.crypto.identity import Identity
from secure_afl.crypto.kdf import Label, derive, integer
from secure_afl.crypto.lattice import bfv, ckks, joint_key, seal
from secure_afl.crypto.lattice.parameter_sets import LATTICES, Lattice
from secure_afl.crypto.prg import keystream, uniform
from secure_afl.protocol.files import keys as key_file
from secure_afl.protocol.files import whole
from secure_afl.protocol.files.explain import explain
from secure_afl.protocol.homomorphic.agreement import Agreement, Release
from secure_afl.protocol.masking.states import ServerState
from secure_afl.protocol.session import graph
from secure_afl.protocol.session.errors import FileError, LocalProtocolError, RoundAbortedError
from secure_afl.protocol.session.ledger import session_name
from secure_afl.protocol.session.parameters import Profile, RidgeSystem, RoundSpec, SumPlan
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.wire import WireError

# ---- crypto/fixed_point.py ---------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["fraction_bits", "magnitude", "summands", "width"])
def test_a_code_of_numpys_integers_is_refused(field: str) -> None:
    numbers = {"fraction_bits": 20, "magnitude": 100, "summands": 4, "width": 8}
    FixedPoint(**numbers)
    with pytest.raises(CryptoError, match="expected integers, got FixedPoint"):
        FixedPoint(**(numbers | {field: np.int64(numbers[field])}))  # type: ignore[arg-type]


def test_the_smallest_bound_takes_one_unit() -> None:
    assert FixedPoint.fit(1e-300, 2, 512).magnitude == 1


# ---- protocol/session/graph.py -----------------------------------------------------------------------


def test_the_probabilities_are_those_that_are_promised() -> None:
    assert (graph.SECURITY_FAILURE, graph.CORRECTNESS_FAILURE) == (2**-40, 2**-20)


def test_the_sparsest_graph_may_lack_one_edge_only() -> None:
    chosen = graph.choose(4, Profile.SEMI_HONEST, corrupted=0, dropout=0.0)
    assert chosen == graph.Neighbourhood(degree=2, threshold=2)


# ---- protocol/masking/server.py ----------------------------------------------------------------------


def test_a_round_that_asks_too_few_does_not_begin() -> None:
    here = world(4)
    session = here.session(here.propose()).set_up()
    with pytest.raises(RoundAbortedError, match="expected at least 3 clients, 2 are left for round 0"):
        session.server.open_round(0, among=[0, 1])
    assert session.server.state is ServerState.READY
    assert session.sum(0).survivors == (0, 1, 2, 3)  # the round was not spent
    with pytest.raises(LocalProtocolError, match="expected a round from 1 to 0, got 0"):
        session.server.open_round(0)  # now it is


# ---- protocol/session/parameters.py --------------------------------------------------------------------------


@pytest.mark.parametrize("bound", [0.0, inf, nan])
def test_a_bound_that_is_none_is_refused_as_a_plan(bound: float) -> None:
    with pytest.raises(LocalProtocolError, match="a finite positive bound"):
        SumPlan("sum", 5, bound)


# ---- protocol/homomorphic/holder.py ------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [(1, 30_000), (30_000, 1)])
def test_a_plan_may_have_short_and_long_sums(lengths: tuple[int, int]) -> None:
    """What a key holder reads at most follows from the longest."""
    keys = KeyWorld(4)
    plan = [SumPlan(f"sum {number}", length, 100.0, 20) for number, length in enumerate(lengths)]
    session = keys.session(plan=plan).set_up()
    for number in range(len(plan)):
        assert session.is_right(number, *session.sum(number))


# ---- protocol/homomorphic/agreement.py ---------------------------------------------------------------


def test_sums_may_fill_the_room_and_no_more() -> None:
    keys = KeyWorld(4)
    agreement = Agreement.propose(
        keys.encryption, keys.roster, keys.key_holders, [SumPlan("sum", 5, 100.0, 20)]
    )
    most, rest = divmod(LATTICES[agreement.lattice].room, 4)
    assert rest == 0
    first = agreement.rounds[0]
    assert replace(agreement, rounds=(replace(first, magnitude=most),)).rounds[0].magnitude == most
    with pytest.raises(WireError, match="a sum of 4 clients can overflow"):
        replace(agreement, rounds=(replace(first, magnitude=most + 1),))


def test_solutions_of_any_size_are_taken() -> None:
    system = RidgeSystem(features=9, outputs=1, ridge=1.0)
    plan = [SumPlan("gram", 5, 100.0, 20, system=system)]
    keys = KeyWorld(4, release=Release.WEIGHTS)
    session = keys.session(plan=plan, solve=lambda plan, total, error, survivors: np.arange(9.0)).set_up()
    assert session.cohort.sum(0, session.contribute).values.tolist() == list(range(9))


# ---- crypto/lattice/ckks.py ----------------------------------------------------------------------------------


def test_a_bound_that_no_scale_holds_is_refused_as_what_it_is() -> None:
    for bound in (1e300, 1e-300):
        with pytest.raises(
            CryptoError, match=f"cannot hold a sum of 4 values up to {bound:g}".replace("+", ".")
        ):
            ckks.fit(ckks.Demand(5, bound), 4, LATTICES["ckks-precise"])


@pytest.mark.parametrize("lattice", [LATTICES["ckks-compact"], LATTICES["ckks-precise"]])
def test_the_noise_is_bounded_term_by_term(lattice: Lattice) -> None:
    summands, degree, tail = 10, lattice.degree, 61 * log(2)
    rounding = 2 * sqrt(2 * summands * degree / 24 * tail)
    secret = sqrt(2 * degree / 3 * tail)
    gaussian = 3.2 * sqrt(2 * summands * degree * tail) * 2 / lattice.key_prime
    terms = (rounding, rounding * secret, gaussian, gaussian * 3 * secret, summands * degree / 2)
    assert ckks.noise(lattice, summands) == pytest.approx(sum(terms), rel=1e-12)


def test_the_error_of_an_entry_is_bounded_term_by_term() -> None:
    lattice, summands, ciphertexts = LATTICES["ckks-precise"], 10, 3
    encoding = FixedPoint(fraction_bits=-2, magnitude=1000, summands=16, width=8)
    unit = 2.0 ** (2 - lattice.scale_bits)
    norm = 2 * lattice.degree**1.5 * sqrt(summands / 24) + sqrt(lattice.degree / 2) * summands / 2
    sigma = sqrt(12 * ciphertexts) * 2**20 * norm * unit
    assert ckks.deviation(lattice, encoding, summands, ciphertexts) == pytest.approx(sigma, rel=1e-12)
    terms = ((ckks.noise(lattice, summands) + lattice.degree / 2) * unit, (9.2 + 1 / 16) * sigma)
    transforms = 2 * 2.0**-46 * summands * 1000 * 4
    error = ckks.entry_error(lattice, encoding, summands, ciphertexts)
    assert error - sum(terms) - transforms == pytest.approx(0, abs=1e-12 * error)


# ---- crypto/lattice/joint_key.py -----------------------------------------------------------------------------


def test_the_common_polynomial_has_a_label_of_its_own() -> None:
    lattice, transcript = LATTICES["bfv-60-joint"], bytes(32)
    rows = []
    for prime in (*lattice.primes, lattice.key_prime):
        key = derive(transcript, Label.JOINT_POLYNOMIAL, b"bfv-60-joint", integer(prime))
        rows.append(uniform(keystream(key), lattice.degree, prime))
    assert np.array_equal(joint_key.common(lattice, transcript), np.stack(rows))


def test_the_noise_takes_its_part_of_the_room_for_smudging(monkeypatch: pytest.MonkeyPatch) -> None:
    """No real noise is large enough to tell."""
    lattice, holders = LATTICES["bfv-60-joint"], 2
    room = lattice.modulus // (2 * 2**bfv.LEAST_BUDGET * lattice.plain_modulus)
    monkeypatch.setattr(joint_key, "DISTANCE_BITS", -100)
    most = room.bit_length() - 3
    for over, bits in ((Fraction(-1, 2), most), (Fraction(1, 2), most - 1)):
        noise = room - holders * 2**most + over
        monkeypatch.setattr(bfv, "noise", lambda *_, noise=noise: noise)
        assert joint_key.smudging_bits(lattice, holders, 10) == bits


# ---- crypto/workers.py -------------------------------------------------------------------------------


def test_cores_are_counted_where_none_can_be_set_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    for counted, expected in ((6, 6), (1, 1), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda counted=counted: counted)
        assert workers.cores() == expected


def test_cores_are_those_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", {0: {2, 3, 5}}.__getitem__, raising=False)
    assert workers.cores() == 3


def test_the_time_of_other_processes_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tasks take 2 and 4 CPU seconds in their processes; besides, 20 s were spent here and 100 s in earlier processes."""
    monkeypatch.setattr(workers, "_away", 100.0)
    monkeypatch.setattr(workers, "cores", lambda: 1)  # no process starts, and the clock stays this one
    clock = SimpleNamespace(process_time=iter([5.0, 7.0, 11.0, 15.0, 20.0]).__next__)
    monkeypatch.setattr(workers, "time", clock)
    assert workers.spread(str, [8, 9]) == ["8", "9"]
    assert workers.cpu_seconds() == 126


# ---- crypto/lattice/seal.py ----------------------------------------------------------------------------------

BFV46 = LATTICES["bfv-46"]


@pytest.fixture(scope="module")
def pair() -> seal.SecretKey:
    return seal.SecretKey(BFV46)


@pytest.mark.parametrize(
    ("cores", "ciphertexts", "tasks"),
    [(1, 5, []), (2, 2, []), (2, 3, [2, 1]), (2, 4, [2, 2]), (3, 5, [2, 2, 1])],
)
def test_only_long_vectors_go_to_processes_and_only_if_there_are_cores(
    cores: int, ciphertexts: int, tasks: list[int], pair: seal.SecretKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    spread: list[int] = []

    def here(function: Any, parts: Any) -> Any:
        spread.extend(len(chunks) for _, _, chunks in parts)
        return list(map(function, parts))

    monkeypatch.setattr(workers, "cores", lambda: cores)
    monkeypatch.setattr(workers, "spread", here)
    monkeypatch.setattr(seal, "_PROCESSES_FROM", 3)
    monkeypatch.setattr(seal, "_PER_TASK", 2)
    values = np.arange((ciphertexts - 1) * BFV46.slots + 1)
    encrypted = seal.encrypt(BFV46, pair.public_key, values)
    assert spread == tasks
    assert len(encrypted) == ciphertexts
    assert np.array_equal(pair.decrypt(encrypted, len(values))[0], values)


def test_what_is_no_key_is_refused_before_any_process_starts(
    pair: seal.SecretKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "cores", lambda: 2)
    monkeypatch.setattr(workers, "spread", lambda *_: pytest.fail("a process was started"))
    monkeypatch.setattr(seal, "_PROCESSES_FROM", 0)
    with pytest.raises(CryptoError, match="expected residues in"):
        seal.encrypt(BFV46, pair.public_key[:-1], np.zeros(1, np.int64))


def test_approximate_sums_have_no_budget() -> None:
    lattice = LATTICES["ckks-compact"]
    key = seal.SecretKey(lattice)
    assert key.decrypt(seal.encrypt(lattice, key.public_key, np.zeros(1)), 1)[1] == 0


def test_no_secret_goes_to_a_disk_where_there_are_no_files_in_memory(
    pair: seal.SecretKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = pair.kept()
    monkeypatch.delattr(os, "memfd_create")
    for use in (pair.kept, lambda: seal.SecretKey(BFV46, kept)):
        with pytest.raises(CryptoError, match="in-memory files"):
            use()


@pytest.mark.parametrize("compression", [0, 1, 2])
def test_a_seal_with_another_compression_is_read_or_refused(compression: int) -> None:
    """This build of SEAL takes Zstandard (2). One without it writes as it is (0), one with zlib is not known here."""
    body = bytes(range(200))
    data = zstandard.compress(body) if compression == 2 else body

    class Thing:
        def save(self, path: str) -> None:
            head = struct.pack("<5sBHQ", b"\x5e\xa1\x10\x03\x06", compression, 0, 16 + len(data))
            Path(path).write_bytes(head + data)

    if compression == 1:
        with pytest.raises(CryptoError, match=r"unknown compression \(1\)"):
            seal._saved(Thing())
    else:
        assert seal._saved(Thing()) == body


# ---- crypto/lattice/bfv.py -----------------------------------------------------------------------------------


@pytest.mark.parametrize("holders", [1, 3])
def test_the_noise_of_exact_sums_is_bounded_term_by_term(holders: int) -> None:
    """For 2²⁰ coefficients but for a probability of 2⁻⁴⁰: a tail of 2·exp(−x) at 2⁻⁶⁰."""
    lattice, summands = LATTICES["bfv-60-joint"], 10
    degree, tail = lattice.degree, log(2 * 2**60)
    switched = sqrt(summands * (1 + holders * degree) / 6 * tail)
    fresh = 3.2 * sqrt(2 * summands * (1 + 2 * holders * degree) * tail) * 3 / lattice.key_prime
    assert bfv.noise(lattice, summands, holders) == pytest.approx(switched + fresh + summands / 2, rel=1e-12)


# ---- protocol/session/errors.py ------------------------------------------------------------------------------


@pytest.mark.parametrize(("faults", "shown"), [(0, ""), (5, ""), (6, "; and 1 more"), (9, "; and 4 more")])
def test_five_faults_are_in_a_text_and_all_in_the_error(faults: int, shown: str) -> None:
    blame = {f"site-{number}": "lied" for number in range(faults)}
    aborted = RoundAbortedError("too few", blame)
    named = "".join(f"; site-{number}: lied" for number in range(min(faults, 5)))
    assert str(aborted) == f"nothing was released: too few{named}{shown}"
    assert aborted.blame == blame


# ---- protocol/files/explain.py -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backends", "last"),
    [
        ({"mask"}, "A server that keeps all messages until it has a quantum computer."),
        ({"mask", "plain"}, "Against none of these if statistics leave in the clear (plain)."),
    ],
)
def test_what_no_server_is_kept_from_is_said_where_it_is_so(backends: set[str], last: str) -> None:
    said = {section.title: section.lines for section in explain(Policy(backends=frozenset(backends)))}
    assert said["Against which server it protects"][-1] == last


@pytest.mark.parametrize(
    ("backend", "begins"),
    [
        ("mask", "active: "),
        ("bfv+mask", "active: "),
        ("bfv", "bfv: "),
        ("ckks", "ckks: "),
        ("plain", "plain: "),
    ],
)
def test_each_form_has_its_threshold_or_none_and_is_named_once(backend: str, begins: str) -> None:
    said = {one.title: one.lines for one in explain(Policy(backends=frozenset({backend})), 10)}
    (line,) = said["Thresholds if all 10 clients are invited"]
    threshold = "the threshold is 7: 7 of 10 clients must answer. Up to 3 may drop out (30%)"
    without = "no threshold. Up to 7 may drop out (70%)"
    expected = threshold if begins == "active: " else without
    assert line == f"{begins}{expected}; if more do, there is no sum."


# ---- protocol/files/whole.py and protocol/files/keys.py ------------------------------------------------------


def test_a_file_of_16_mib_is_read_and_no_larger_one(tmp_path: Path) -> None:
    for size, right in ((2**24, True), (2**24 + 1, False)):
        with (tmp_path / "file").open("wb") as file:
            file.truncate(size)  # takes no room on the disk
        if right:
            assert len(whole.read(tmp_path / "file")) == size
            continue
        with pytest.raises(FileError, match="expected at most 16777216 bytes, got more"):
            whole.read(tmp_path / "file")


def test_of_a_refused_value_40_letters_are_shown() -> None:
    assert key_file.shown("x" * 38) == repr("x" * 38)
    assert key_file.shown("x" * 39) == "'" + "x" * 39 + "…"


@pytest.mark.parametrize(
    "line", ["", "KIND", "KIND {key}", "ssh-ed25519 {key} A", "{key} KIND A", "KIND {key} A\nB"]
)
def test_a_public_key_file_is_one_line_of_three_parts(tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.pub"
    path.write_text(line.replace("KIND", key_file.KIND).format(key=Identity.generate().verify_key.hex()))
    with pytest.raises(
        FileError, match="expected one line 'secure-afl-ed25519 KEY NAME', as secure-afl keys new writes it"
    ):
        key_file.read_public(path)


@pytest.mark.parametrize(
    ("content", "passphrase"),
    [
        (b"twelve letters", b"twelve letters"),
        (b"twelve letters\n", b"twelve letters"),
        (b"twelve letters\r\n", b"twelve letters"),
        (b"twelve letters\nand a second line\n", b"twelve letters"),
        (b" twelve\rletters \r\r\n", b" twelve\rletters \r"),
        (b"", b""),
    ],
)
def test_a_services_passphrase_is_the_first_line_of_its_file(
    content: bytes, passphrase: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "word").write_bytes(content)
    (tmp_path / "word").chmod(0o600)
    monkeypatch.setenv(key_file.PASSPHRASE_FILE, str(tmp_path / "word"))
    assert key_file.service_passphrase() == passphrase
    (tmp_path / "word").chmod(0o640)
    with pytest.raises(FileError, match="for its owner alone"):
        key_file.service_passphrase()
    monkeypatch.setenv(key_file.PASSPHRASE_FILE, "")
    with pytest.raises(FileError, match="to name a file with the passphrase, but it is not set"):
        key_file.service_passphrase()


# ---- protocol/session/{parameters,roster}.py, protocol/transport/events.py --------------------------------------


@pytest.mark.parametrize("modulus", [2**32 + 1, 2**62 + 1, 2**63 - 1])
def test_masks_may_be_below_every_modulus_of_33_to_63_bits(modulus: int) -> None:
    assert RoundSpec("sum", 1, 0, 1, 8, modulus=modulus).payload_bytes == 0


def test_numbers_outside_of_a_roster_have_no_name() -> None:
    roster = world(3).roster
    assert [roster.name(index) for index in (-1, 0, 2, 3)] == [
        "unknown member -1",
        roster.members[0].name,
        roster.members[2].name,
        "unknown member 3",
    ]


def test_a_session_is_told_by_its_first_digits() -> None:
    assert session_name(bytes(range(32))) == "00010203"
