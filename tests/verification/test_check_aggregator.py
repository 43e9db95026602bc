"""`check_aggregator` passes a sound secure sum, names the flaw of each flawed one, and passes ours."""

import json
import math
import random
import secrets
import struct
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import default_rng
from scipy.stats import chi2

from secure_afl.crypto.hpke import Suite
from secure_afl.protocol.session.parameters import Profile
from secure_afl.protocol.session.policy import Policy
from secure_afl.sums.aggregation import MaskedAggregator
from secure_afl.sums.encrypted import EncryptedAggregator
from secure_afl.testing import PropertyFailed, check_aggregator, judge_record, leaks, neutral, record, systems
from secure_afl.testing.generators import generators_noted
from secure_afl.testing.judge import PROPERTIES
from secure_afl.testing.judging.history import in_order
from secure_afl.testing.record import Claims, RecordError, claims
from secure_afl.testing.schedules import Ask, Runner, Schedule, session
from secure_afl.testing.systems import (
    Alteration,
    Factory,
    Program,
    PythonTarget,
    RemoteTarget,
    Wire,
    url_asker,
)
from verification import flawed
from verification.answering import Answering
from verification.sound import Sound

LONG = {"seconds": 600.0, "on_fail": "collect"}  # no verdict depends on a clock
QUICK = [
    flawed.ScalesInPlace,
    flawed.ClearsItsInputLater,
    flawed.Coarse,
    flawed.Sorted,
    flawed.SortedSurvivors,
    flawed.Stale,
    flawed.WrongForSeven,
    flawed.WrongFromTheThirdSum,
    flawed.Clips,
    flawed.Crashes,
    flawed.SendsNothing,
    flawed.OneBareWordIn,
    flawed.MasksFromTheThirdSum,
    flawed.ToySeeds,
    flawed.OneKeyForAll,
    flawed.OpensPairsOfSurvivors,
    flawed.OpensPairsOfTheFirstSum,
    flawed.OpensAllOfAll,
    flawed.RenewsAll,
    flawed.SumsTwiceAfterALoss,
    flawed.RelatedForTwoSums,
    flawed.LeavesOneOut,
    flawed.TheLostStayLost,
    flawed.KeepsWhatARefusalLeft,
    flawed.AddsWhatIsLate,
    flawed.MasksAfterALoss,
    flawed.MasksOfARetry,
]


def found(kind: type[flawed.Flawed], seed: int = 0) -> None:
    report = check_aggregator(kind, only=[kind.found_by], seed=seed, examples=10, **LONG)  # type: ignore[arg-type]
    assert report.failed == (kind.found_by,), str(report)
    assert f"seed={seed}" in report[kind.found_by].replay


# ---- flaws ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", QUICK, ids=lambda kind: kind.__name__)
def test_a_flaw_has_one_name(kind: type[flawed.Flawed]) -> None:
    found(kind)


@pytest.mark.long
@pytest.mark.parametrize(
    "kind", [one for one in flawed.FLAWS if one not in QUICK], ids=lambda kind: kind.__name__
)
def test_every_other_flaw_is_found_by_its_name(kind: type[flawed.Flawed]) -> None:
    found(kind, seed=1)


@pytest.mark.long
def test_the_sound_one_has_every_property() -> None:
    report = check_aggregator(Sound, **LONG)  # type: ignore[arg-type]
    assert report.having("not claimed") == ("tampering_changes_no_sum",)
    assert len(report.passed) == len(PROPERTIES) - 1, str(report)


@pytest.mark.slow
def test_a_failure_is_shrunk_and_runs_again_from_its_line() -> None:
    report = check_aggregator(flawed.WrongWhenLostAndLong, only=["any_mixture_is_summed"], **LONG)  # type: ignore[arg-type]
    row = report["any_mixture_is_summed"]
    (smallest,) = Schedule.of(row.schedule).sessions
    assert len(smallest.clients) == 3
    assert [len(one.lost) for one in smallest.sums] == [1]
    assert smallest.sums[0].length == 65
    again = eval(f"dict({row.replay})")
    with pytest.raises(PropertyFailed, match=r"any_mixture_is_summed: expected that .* 65 values"):
        check_aggregator(flawed.WrongWhenLostAndLong, **again)
    assert not check_aggregator(Sound, **again).failed


def test_a_cause_is_said_once() -> None:
    report = check_aggregator(flawed.Coarse, on_fail="collect")
    assert report.failed == ("sums_are_right",)
    held_back = [row for row in report.rows if row.verdict == "not judged"]
    assert {row.note for row in held_back} == {"sums_are_right failed"}
    assert len(held_back) + len(report.having("not claimed")) == len(PROPERTIES) - 3


class NoSum(Sound):
    def sum(self, number: int, vectors: Any) -> Any:
        return dict[str, int]()["site 3"]


def test_a_crash_is_no_refusal_and_shows_its_traceback() -> None:
    with pytest.raises(PropertyFailed, match=r"nothing_crashes: (.|\n)*KeyError: 'site 3'(.|\n)*in sum"):
        check_aggregator(NoSum)


class TellsItsShares(flawed.OpensAllOfAll):
    """Reveals what the sum needs, and lets the kit see its shares."""

    def more(self, holder: str) -> list[int]:
        return []


def test_shares_that_a_sum_needs_may_be_opened() -> None:
    name = "only_the_sum_is_opened"
    report = check_aggregator(TellsItsShares, only=[name], **LONG)  # type: ignore[arg-type]
    assert report.passed == (name,), str(report)


class Padded(Sound):
    """Sends 100,000 bytes of noise with every upload."""

    claims = {**Sound.claims, "slow": True}  # noqa: RUF012

    def post(self, phase: str, sender: str, receiver: str, data: bytes) -> bytes | None:
        noise = secrets.token_bytes(100_000) if phase == "upload" else b""
        arrived = super().post(phase, sender, receiver, data + noise)
        return arrived[: len(data)] if arrived else None


@pytest.mark.slow
def test_long_messages_are_kept_on_disk() -> None:
    """Some 20 MB travel in the experiment, and as much was kept in memory."""
    tracemalloc.start()
    try:
        name = "no_vector_travels_in_the_clear"
        assert check_aggregator(Padded, only=[name], **LONG).passed == (name,)  # type: ignore[arg-type]
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_what_is_not_claimed_is_not_held_against_a_system() -> None:
    stated = {**Sound.claims, "related": False, "once": False, "private": False}

    class Modest(Sound):
        claims = stated

        def open(self, clients: list[str], lengths: list[int], data_set: str, related: bool = False) -> None:
            super().open(clients, lengths, data_set, related)

    names = ["a_sum_is_made_once", "related_sums_keep_their_survivors", "no_key_is_common", "sums_are_right"]
    report = check_aggregator(Modest, only=names, **LONG)  # type: ignore[arg-type]
    assert set(report.having("not claimed")) == set(names[:3])


def test_the_secret_keys_of_clients_are_compared_and_not_recorded(tmp_path: Path) -> None:
    class Shares(Sound):
        def keys(self) -> dict[str, list[bytes]]:
            return {who: [who.encode() * 8, b"s" * 32] for who in self.clients}

    with pytest.raises(PropertyFailed, match="5 clients hold the same secret key"):
        check_aggregator(Shares, only=["no_key_is_common"], keep=tmp_path / "record")
    report = check_aggregator(Shares, only=["no_key_is_common"], keep=tmp_path / "record", on_fail="collect")
    assert report.failed
    assert "ssssssss" not in (tmp_path / "record").read_text()


def test_a_system_that_hangs_has_crashed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systems, "PATIENCE", 0.2)

    class Hangs(Sound):
        def sum(self, number: int, vectors: Any) -> Any:
            while True:
                try:
                    threading.Event().wait(1)
                except Exception:  # noqa: BLE001, S112 - what a stranger does
                    continue

    report = check_aggregator(Hangs, only=["sums_are_right"], on_fail="collect", seconds=0.5)
    assert report.failed == ("nothing_crashes",)
    assert "no answer in 0.2 s" in report["nothing_crashes"].note


class Noisy(Sound):
    """Rounds each vector by itself: the sum's last digits depend on who gave what."""

    claims = {**Sound.claims, "error": 9.0, "slow": True}  # noqa: RUF012

    def encode(self, vector: Any, length: int) -> Any:
        return super().encode(vector, length) & ~np.uint64(0xFF)


class NoisyAndLeaking(Noisy):
    def sum(self, number: int, vectors: Any) -> Any:
        total, survivors = super().sum(number, vectors)
        return SimpleNamespace(total=total, survivors=survivors, debug=vectors[survivors[0]][:1].copy())


@pytest.mark.slow
def test_the_error_of_an_inexact_sum_is_no_leak() -> None:
    only = ["results_tell_only_the_sum"]
    assert check_aggregator(Noisy, only=only, **LONG).passed == tuple(only)  # type: ignore[arg-type]
    assert check_aggregator(NoisyAndLeaking, only=only, **LONG).failed == tuple(only)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong", [{"on_fail": "ignore"}, {"only": ["no such property"]}, {"seconds": 0.0}, {"examples": 0}]
)
def test_arguments_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected "):
        check_aggregator(Sound, **wrong)


@pytest.mark.parametrize(
    "wrong",
    [{"survivor": True}, {"clients": (5, 3)}, {"dropouts": 5}, {"bound": -1.0}, {"fraction_bits": "8"}, 3],
)
def test_claims_that_cannot_be_meant(wrong: Any) -> None:
    with pytest.raises(RecordError, match="expected claims"):
        claims(wrong)


# ---- ours ----------------------------------------------------------------------------------------

SEMI_HONEST = Policy(profiles=frozenset({Profile.SEMI_HONEST}))


def semi_honest() -> Factory:
    return neutral(
        lambda network: MaskedAggregator(SEMI_HONEST, profile=Profile.SEMI_HONEST, network=network),
        largest=5000,
    )


def masked() -> Factory:
    return neutral(lambda network: MaskedAggregator(network=network), largest=5000, slow=True)


def encrypted(backend: str, **stated: Any) -> Factory:
    options: dict[str, Any] = {"release": "sum"} if backend == "ckks" else {}
    return neutral(
        lambda network: EncryptedAggregator(backend, network=network, **options),
        largest=9001,
        slow=True,
        **stated,
    )


@pytest.mark.long
@pytest.mark.parametrize(
    ("factory", "not_judged"),
    [
        pytest.param(masked, (), id="mask, active"),
        pytest.param(semi_honest, (), id="mask, semi-honest"),
        pytest.param(partial(encrypted, "bfv"), ("uploads_look_uniform",), id="bfv"),
        pytest.param(partial(encrypted, "bfv+mask"), ("uploads_look_uniform",), id="bfv+mask"),
        pytest.param(partial(encrypted, "ckks", error=2.0**-4), ("uploads_look_uniform",), id="ckks sums"),
    ],
)
def test_ours_have_every_property(factory: Callable[[], Factory], not_judged: tuple[str, ...]) -> None:
    report = check_aggregator(factory(), on_fail="collect", seconds=20, examples=5)
    assert not report.failed, str(report)
    assert report.having("not judged") == not_judged
    assert len(report.rows) == len(PROPERTIES)


@pytest.mark.slow
def test_ours_bears_altered_messages() -> None:
    suite = Policy(suites=frozenset({Suite.X25519}))
    ours = neutral(lambda network: MaskedAggregator(suite, suite=Suite.X25519, network=network), largest=100)
    for name, said in (
        ("tampering_changes_no_sum", "altered sums"),
        ("late_and_repeated_messages_count_once", "right"),
    ):
        assert said in check_aggregator(ours, only=[name], seconds=4)[name].note


# ---- the record and the offline checker -----------------------------------------------------------


@pytest.mark.slow
def test_a_record_gives_the_same_verdicts_offline(tmp_path: Path) -> None:
    names = ["sums_are_right", "the_lost_are_left_out", "inputs_are_left_alone"]
    for kind in (Sound, flawed.NamesAll, flawed.ScalesInPlace):
        live = check_aggregator(kind, only=names, keep=tmp_path / "record", **LONG)  # type: ignore[arg-type]
        offline = judge_record(record.read(tmp_path / "record"), names)
        assert offline.failed == live.failed


def lines(*objects: dict[str, Any]) -> Iterator[record.Record]:
    for one in objects:
        yield msgspec.json.decode(json.dumps(one), type=record.Record)


def numbers(*values: float) -> str:
    return msgspec.json.decode(msgspec.json.encode(record.numbers(values)), type=str)


def session_of_two(survivors: list[str], *total: float) -> list[dict[str, Any]]:
    """A record as another language would write it."""
    start: list[dict[str, Any]] = [
        {"type": "system", "version": 1, "claims": {"name": "elsewhere", "cohort": 3, "fraction_bits": 2}},
        {"type": "session", "clients": ["a", "b", "c"], "lengths": [2]},
        *(
            {"type": "input", "number": 0, "client": who, "digest": who, "values": numbers(1.5, 2)}
            for who in "abc"
        ),
        {"type": "message", "number": 0, "phase": "up", "sender": "a", "receiver": "server", "data": "AAAA"},
    ]
    return [*start, {"type": "sum", "number": 0, "values": numbers(*total), "survivors": survivors}]


def test_a_record_of_another_language_is_judged() -> None:
    good = judge_record(lines(*session_of_two(["a", "b", "c"], 4.5, 6)))
    assert not good.failed
    assert {"sums_are_right", "inputs_are_left_alone"} <= set(good.passed)
    assert "the record has no session that shows it" in good["two_sums_share_no_mask"].note
    wrong = judge_record(lines(*session_of_two(["a", "b", "c"], 4.5, 4)))
    assert wrong.failed == ("sums_are_right",)
    assert (
        "1 of 2 entries are wrong for the 3 survivors, entry 1 first, by -2" in wrong["sums_are_right"].note
    )


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda one: one.replace('"version":1', '"version":2'), "line 1: expected version 1, got 2"),
        (lambda one: one.replace('"type":"session"', '"type":"round"'), "line 2: "),
        (lambda one: one.replace('"fraction_bits":2', '"bits":2'), "line 1: "),
        (lambda one: one[:-5], "line 7: "),
    ],
)
def test_a_bad_line_of_a_record_is_named(spoil: Callable[[str], str], says: str, tmp_path: Path) -> None:
    path = tmp_path / "record"
    record.write(path, lines(*session_of_two(["a"], 4.5, 6)))
    path.write_text(spoil(path.read_text().rstrip("\n")))
    with pytest.raises(RecordError, match=says):
        judge_record(record.read(path))


@pytest.mark.parametrize(
    "out_of_order",
    [
        [],
        session_of_two(["a"], 1)[1:],
        [*session_of_two(["a"], 1)[:2], {"type": "input", "number": 4, "client": "a", "digest": ""}],
    ],
)
def test_a_record_out_of_order_is_refused(out_of_order: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match="expected "):
        judge_record(lines(*out_of_order))


def test_every_line_of_a_record_fits_the_schema() -> None:
    shapes = record.schema()
    assert {one["$ref"].rpartition("/")[2] for one in shapes["anyOf"]} == {
        one.__name__ for one in record.Record.__args__
    }
    assert set(shapes["$defs"]["Message"]["required"]) >= {"number", "phase", "sender", "receiver", "data"}


@settings(max_examples=20)
@given(
    st.integers(0, 2**32), st.sampled_from(["random", "shifted", "ends", "one number"]), st.integers(1, 30)
)
def test_vectors_fit_the_claims_and_trades_leave_the_sum(seed: int, kind: str, length: int) -> None:
    from secure_afl.testing.schedules import vector

    stated = Claims(bound=100.0, fraction_bits=4)

    def made(ask: Ask) -> Any:
        return [vector(stated, seed, ask, place, place) for place in range(3)]

    asked = Ask(length=length, kind=kind, part="last", traders=3)
    for one in made(asked):
        assert one.shape == (length,)
        assert (abs(one) <= 100).all()
        assert ((one * 16) % 1 == 0).all()
    if kind == "shifted":
        other = made(msgspec.structs.replace(asked, by=3))
        assert (sum(other) == sum(made(asked))).all()
        assert all(a[-1] != b[-1] for a, b in zip(other, made(asked), strict=True))


# ---- programs and servers ------------------------------------------------------------------------

REMOTE = ["sums_are_right", "the_lost_are_left_out", "bad_values_are_refused", "tampering_changes_no_sum"]


def verdicts(ask: Any) -> None:
    report = check_aggregator(RemoteTarget(ask), only=REMOTE, **LONG)  # type: ignore[arg-type]
    assert report.passed == tuple(REMOTE[:3]), str(report)
    assert report["tampering_changes_no_sum"].verdict == "not claimed"


@pytest.mark.slow
def test_a_program_is_checked() -> None:
    program = Program(f"{sys.executable} -m verification.answering", cwd=Path(__file__).parents[1])
    try:
        verdicts(program)
    finally:
        program.close()


@pytest.mark.slow
def test_who_does_not_list_lost_messages_is_not_said_to_leave_clients_out() -> None:
    answering = Answering(Sound)

    def ask(request: dict[str, Any]) -> dict[str, Any]:
        answer = answering(request)
        return {**answer, "messages": [one for one in answer["messages"] if not one["lost"]]}

    names = ["sums_are_right", "later_sums_are_right", "the_lost_are_left_out", "any_mixture_is_summed"]
    report = check_aggregator(RemoteTarget(ask), only=names, examples=3, **LONG)  # type: ignore[arg-type]
    assert not report.failed, str(report)


def test_a_program_that_ends_has_crashed() -> None:
    program = Program(f"{sys.executable} -c pass")
    with pytest.raises(Exception, match="no answer to 'claims'"):
        check_aggregator(RemoteTarget(program))
    program.close()


@contextmanager
def serving(ask: Callable[[dict[str, Any]], dict[str, Any]]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            answer = json.dumps(ask(json.loads(body))).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.slow
def test_a_server_is_checked() -> None:
    with serving(Answering(Sound)) as url:
        verdicts(url_asker(url))


def test_an_address_must_be_one() -> None:
    with pytest.raises(ValueError, match="expected an address"):
        url_asker("file:///etc/passwd")


# ---- the instruments -----------------------------------------------------------------------------


def test_no_randomness_tells_an_input() -> None:
    source = random.Random(3)
    for symbols in (256, 64, 16, 10, 3, 2):
        for _ in range(10):
            groups = [
                [bytes(source.randrange(symbols) for _ in range(300)) for _ in range(5)] for _ in range(4)
            ]
            assert leaks.telling(groups) is None
    header = [[b"a header" + source.randbytes(20) for _ in range(5)] for _ in range(4)]
    assert leaks.telling(header) is None


@given(st.binary(max_size=80), st.binary(max_size=80), st.binary(min_size=30, max_size=40))
def test_blocks_that_come_again_are_counted(one: bytes, two: bytes, common: bytes) -> None:
    assert leaks.come_again(one + common, two + common, []) >= len(common) - 15
    assert leaks.come_again(one + common, two + common, [common]) <= leaks.come_again(one, two, []) + 48


def test_a_header_before_a_key_is_no_key() -> None:
    pem = b"-----BEGIN PUBLIC KEY-----\nMIIBojANBgkqhkiG9w0BAQEFAAOCAY8AMIIBigKCAYEA"
    first, second, other = (b"\xc5\x02" + pem + bytes([number]) * 40 for number in range(3))
    assert leaks.common_keys(first, second, leaks.runs([other])) is None
    key = random.Random(1).randbytes(32)
    assert leaks.common_keys(first + key, second + key, leaks.runs([other])) == key


@pytest.mark.parametrize("degrees", [3, 31, 255])
def test_the_limit_of_chi_square_has_about_the_chance_that_is_said(degrees: int) -> None:
    assert 1e-11 < chi2.sf(leaks.chi_square_limit(degrees), degrees) < 1e-7


@pytest.mark.parametrize(
    ("encode", "called"),
    [
        (lambda x: struct.pack("<d", x), "float64"),
        (lambda x: str(x).encode(), "text"),
        (lambda x: round(math.ldexp(x, 18)).to_bytes(6, "little", signed=True), "integer"),
    ],
)
def test_a_leak_is_given_a_word(encode: Callable[[float], bytes], called: str) -> None:
    vector = np.array([1e7 / 3, 12.0])
    assert called in leaks.recognised([encode(vector[0])], vector, [0])
    assert not leaks.recognised([b"nothing of it"], vector, [0])


MADE_BEFORE = np.random.default_rng(3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "use",
    [
        random.random,
        lambda: random.Random(5),
        lambda: random.seed(5),
        np.random.random,
        lambda: np.random.seed(5),
        lambda: default_rng(1),
        lambda: np.random.Generator(np.random.PCG64(4)),
        lambda: np.random.RandomState(5),
        lambda: MADE_BEFORE.integers(4),
    ],
)
def test_every_use_of_a_toy_generator_is_noted(use: Callable[[], object]) -> None:
    with generators_noted() as used:
        use()
    assert used
    with generators_noted() as used:
        random.SystemRandom().random()
    assert not used
    assert isinstance(np.random.RandomState(1), np.random.RandomState)


@pytest.mark.parametrize(
    "handling", ["repeat", "late", "a sum late", "another's", "earlier", "flip", "cut", "lengthen"]
)
def test_the_wire_alters_what_it_is_told_to(handling: str) -> None:
    wire = Wire(clients=frozenset({"a", "b"}))
    wire.begin(0, {}, None)
    assert wire.carry("up", "a", "server", b"before") == [b"before"]
    wire.carry("up", "b", "server", b"of b")
    wire.begin(0, {}, Alteration(handling, "up", True, "a"))
    arrived = wire.carry("up", "a", "server", b"data")
    late = dict[str, list[bytes]]({"late": [], "a sum late": []})
    expected = {"repeat": [b"data", b"data"], **late, "another's": [b"of b"], "earlier": [b"before"]}
    assert arrived == expected[handling] if handling in expected else arrived != [b"data"]
    assert wire.carry("down", "server", "a", b"back") == [b"back"]
    wire.alteration = None
    assert wire.carry("next", "a", "server", b"more") == [b"more", *([b"data"] if handling == "late" else [])]
    wire.begin(-1, {}, None)
    assert wire.carry("up", "a", "server", b"new") == [
        b"new",
        *([b"data"] if handling == "a sum late" else []),
    ]


def test_a_lost_client_is_lost_from_its_phase_on() -> None:
    wire = Wire(clients=frozenset({"a", "b"}))
    wire.begin(0, {"a": "second"}, None)
    assert wire.carry("first", "a", "server", b"1")
    assert not wire.carry("second", "server", "a", b"2")
    assert not wire.carry("third", "a", "server", b"3")
    assert wire.carry("third", "b", "server", b"3")
    wire.begin(1, {}, None)
    assert wire.carry("first", "a", "server", b"1")


def test_schedules_are_lines() -> None:
    one = Schedule(
        sessions=(session((0, 1, 2), [Ask(length=4, lost={1: "upload"}, alter=("flip", "x", True, -1))]),)
    )
    assert Schedule.of(one.line()) == one
    (system,) = in_order(Runner(PythonTarget(Sound), PythonTarget(Sound).claims).run(one))
    assert system.held[0].asked[0].lost == {"ash"}


def test_every_property_says_what_it_claims() -> None:
    assert len({one.name for one in PROPERTIES}) == len(PROPERTIES)
    known = set(Claims.__struct_fields__)
    assert all(one.claim and set(one.needs) <= known for one in PROPERTIES)
