"""The laboratory measures right sums only, finds the laws that made its points, and reports what it measured."""

import csv
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from secure_afl.crypto.fixed_point import FixedPoint
from secure_afl.crypto.hpke import Suite
from secure_afl.errors import DataError
from secure_afl.protocol.session.backend import SECURE, Backend
from secure_afl.protocol.session.errors import LocalProtocolError
from secure_afl.protocol.session.parameters import Profile
from secure_afl.simulations.cli.main import app
from secure_afl.simulations.overhead import figures, laws, memory, shown
from secure_afl.simulations.overhead.grid import Axes, Cell
from secure_afl.simulations.overhead.measure import (
    ALL_PHASES,
    CLIENT,
    HOLDER,
    SERVER,
    WORST,
    Cost,
    Drawn,
    WrongSumError,
    check,
    session,
    summary,
    vector,
)
from secure_afl.simulations.overhead.peers import compare
from secure_afl.sums.aggregation import Aggregate

MASKED = Cell(Backend.MASK, 5, 6, 2, 0.2, 5, Suite.X25519, Profile.ACTIVE)
CELLS = {
    "mask": MASKED,
    "bfv+mask": replace(MASKED, backend=Backend.BFV_MASK),
    "bfv": Cell(Backend.BFV, 5, 6, 2, 0.2, 5),
    "ckks": Cell(Backend.CKKS, 5, 6, 2, 0.2),
}
TINY = (
    "--clients 5 --clients 4 --clients 6 --clients 7 --features 6 --features 9 --classes 2 --dropout 0.2 "
    "--dropout 0 --width 5 --suite x25519 --profile active --backend mask --backend bfv --repeats 2"
)


# ---- the grid ------------------------------------------------------------------------------------


def test_the_default_grid_sweeps_every_parameter_of_every_backend() -> None:
    cells = Axes().cells(full=False)
    assert len(cells) == len(set(cells))
    for backend in SECURE:
        mine = [cell for cell in cells if cell.backend == backend]
        for parameter in ("clients", "features", "classes", "dropout"):
            assert len({getattr(cell, parameter) for cell in mine}) > 2
        masked = backend.masked
        assert {cell.profile for cell in mine} == (set(Profile) if masked else {None})
        assert {cell.suite for cell in mine} == (set(Suite) if masked else {None})
        assert len({cell.width for cell in mine}) == {"mask": 5, "ckks": 1}.get(backend, 4)
    # Laws of the semi-honest profile are those of its sparse graphs.
    assert all(
        not cell.complete for cell in cells if cell.profile is Profile.SEMI_HONEST and cell.clients > 20
    )


def test_a_full_grid_is_every_combination() -> None:
    axes = Axes(
        (Backend.MASK, Backend.CKKS), (4, 5), (3,), (1,), (0.0,), (5, 8), (Suite.X25519,), (Profile.ACTIVE,)
    )
    described = [(cell.backend, cell.clients, cell.width) for cell in axes.cells(full=True)]
    assert described == [
        *(("mask", clients, width) for clients in (4, 5) for width in (5, 8)),
        ("ckks", 4, None),
        ("ckks", 5, None),
    ]


@given(st.sampled_from((Backend.MASK, Backend.BFV)), st.integers(4, 7), st.integers(3, 3000))
def test_a_cell_has_the_words_it_says(backend: Backend, width: int, clients: int) -> None:
    """Its precision is the most that they hold."""
    masks = {"suite": Suite.HYBRID, "profile": Profile.ACTIVE} if backend == "mask" else {}
    plan = Cell(backend, clients, 2, 1, width=width, **masks).plan  # type: ignore[arg-type]
    assert plan.spec(clients).width == width
    assert replace(plan, fraction_bits=plan.fraction_bits + 1).spec(clients).width == width + 1


def test_a_peers_cell_is_a_million_values() -> None:
    assert (compare.SIZE.values, compare.SIZE.clients, len(compare.SIZE.silent)) == (10**6, 50, 10)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"backend": "paper"}, "expected backends from"),
        ({"clients": 1}, "expected 2 clients"),
        ({"width": 9}, "expected words of 4 to 8 bytes, got 9"),
        ({"width": None}, "expected words of 4 to 8 bytes"),
        ({"suite": None}, "just where there are masks"),
        ({"backend": Backend.BFV}, "just where there are masks"),
        ({"backend": Backend.BFV_MASK, "width": 8}, "expected words of 4 to 7 bytes, got 8"),
    ],
)
def test_a_cell_that_cannot_be_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        replace(MASKED, **change)


def test_what_the_protocol_refuses_is_refused_before_anything_is_measured() -> None:
    with pytest.raises(LocalProtocolError, match="fewer than the threshold"):
        replace(MASKED, dropout=0.5)
    with pytest.raises(DataError, match="none twice"):
        Axes(clients=(5, 5))


# ---- one cell ------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", SECURE)
def test_a_session_of_every_backend(backend: str) -> None:
    cell = CELLS[backend]
    found = session(cell)
    parties = {CLIENT, WORST, SERVER} | (set() if backend == "mask" else {HOLDER})
    assert found.keys() == parties
    for party, phases in found.items():
        whole = phases[ALL_PHASES]
        assert whole.cpu_seconds > 0
        assert whole.wall_seconds > 0
        if party in (SERVER, HOLDER):  # of clients, a median of sums is no sum of medians
            parts = [cost for phase, cost in phases.items() if phase != ALL_PHASES]
            assert whole == pytest.approx(tuple(map(sum, zip(*parts, strict=True))))
    sent, received = (getattr(found[SERVER][ALL_PHASES], one) for one in ("bytes_up", "bytes_down"))
    holder = found[HOLDER][ALL_PHASES] if backend != "mask" else Cost()
    # What the server sends is what the others are sent; one client of five fell silent.
    assert 4 * found[WORST][ALL_PHASES].bytes_down + holder.bytes_down <= sent
    assert received <= 5 * found[WORST][ALL_PHASES].bytes_up + holder.bytes_up
    least = cell.values * 5 if backend == "mask" else 30_000  # one ciphertext
    assert found[CLIENT][ALL_PHASES].bytes_up > least


def test_the_worst_client_and_the_median_one() -> None:
    clients = {index: {"a": Cost(index, 1, 10 - index), "b": Cost(1, index)} for index in (1, 2, 6)}
    found = summary(clients, {})
    assert found[CLIENT] == {ALL_PHASES: Cost(3, 3, 8), "a": Cost(2, 1, 8), "b": Cost(1, 2)}
    assert found[WORST] == {ALL_PHASES: Cost(7, 7, 9), "a": Cost(6, 1, 9), "b": Cost(1, 6)}


def _right(cell: Cell) -> Aggregate:
    encoding = FixedPoint(20, 2**20, cell.clients, 5)
    survivors = [index for index in range(cell.clients) if index not in cell.silent]
    units = sum(encoding.encode(vector(cell, index)).view(np.int64) for index in survivors)
    assert isinstance(units, np.ndarray)
    names = tuple(cell.names()[index] for index in survivors)
    return Aggregate(
        names, encoding.entry_error(4), cell.values, np.ldexp(units.astype(float), -20), units, encoding
    )


@pytest.mark.parametrize(
    "wrong",
    [
        lambda one: replace(one, survivors=one.survivors[1:]),
        lambda one: replace(one, survivors=one.survivors[::-1]),
        lambda one: replace(one, units=one.units + np.eye(1, len(one.units), 3, dtype=np.int64)[0]),
        lambda one: replace(one, units=None),
        lambda one: replace(one, total=one.total + 1e-3),
        lambda one: replace(one, total=one.total * np.nan, encoding=None),
    ],
)
def test_a_wrong_sum_is_never_measured(wrong: Callable[[Any], Aggregate]) -> None:
    right = _right(MASKED)
    check(MASKED, right)
    with pytest.raises(WrongSumError):
        check(MASKED, wrong(right))


def test_contributions_are_drawn_when_they_are_asked_for() -> None:
    drawn = Drawn(MASKED)
    assert list(drawn) == MASKED.names()
    assert len({float(drawn[name][0].sum()) for name in drawn}) == len(drawn) == 5
    assert np.array_equal(drawn["client-0003"][0], vector(MASKED, 3))


@pytest.mark.skipif(not memory.measurable(), reason="only Linux tells a process its own peak")
def test_peak_memory_grows_with_the_vector() -> None:
    """The server holds a sum of 4 MB and one upload, whatever the number of clients; a client its vector at least."""
    small, large = memory.peaks(MASKED), memory.peaks(replace(MASKED, features=1000))
    assert small.keys() == {CLIENT, SERVER}
    for party, most in (((SERVER), 30e6), ((CLIENT), 30e6)):
        assert small[party][ALL_PHASES] == max(small[party].values())
        assert 4e6 < large[party][ALL_PHASES] - small[party][ALL_PHASES] < most
        assert large[party]["sharing"] < large[party]["collecting"]


@pytest.mark.skipif(not memory.measurable(), reason="only Linux tells a process its own peak")
def test_memory_of_a_key_holder_and_a_party_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory.peaks(CELLS["bfv+mask"])[HOLDER][ALL_PHASES] > 0

    def fails(self: object, channel: object, data: bytes) -> bytes:
        return b"nonsense"

    monkeypatch.setattr(memory._Hosted, "answer", fails)
    with pytest.raises(memory.ProcessEndedError):
        memory.peaks(MASKED)


# ---- laws ----------------------------------------------------------------------------------------

FORMS = (laws.LINEAR, laws.COMPLETE_SERVER, laws.SPARSE_CLIENT, laws.SPARSE_SERVER, laws.VALUES)
coefficient = st.floats(1e-3, 1e3)


@given(st.sampled_from(FORMS), st.data())
def test_the_law_that_made_the_points_is_found(form: laws.Form, data: st.DataObject) -> None:
    true = data.draw(st.lists(coefficient, min_size=len(form.terms) + 1, max_size=len(form.terms) + 1))
    x = data.draw(st.lists(st.integers(2, 500), min_size=len(true) + 1, max_size=9, unique=True))
    points = np.array(x, float)
    y = (form.rows(points) @ np.array(true)).tolist()
    law = laws.fit(form, x, y)
    assert law is not None
    assert law.error < 1e-6
    assert law.r2 > 1 - 1e-6
    assert (law.lowest, law.highest, law.points) == (min(x), max(x), len(x))
    assert all(one >= 0 for one in law.coefficients)
    inside = (min(x) + max(x)) / 2
    assert law(inside) == pytest.approx(float((form.rows(np.array([inside])) @ np.array(true))[0]), rel=1e-5)


@given(st.lists(st.floats(0.1, 10), min_size=3, max_size=3), st.floats(-0.3, 0.3))
def test_coefficients_are_recovered_and_noise_shows_as_error(true: list[float], noise: float) -> None:
    x = [10.0, 20.0, 40.0, 80.0, 160.0]
    y = (laws.COMPLETE_SERVER.rows(np.array(x)) @ np.array(true)).tolist()
    law = laws.fit(laws.COMPLETE_SERVER, x, y)
    assert law is not None
    assert law.coefficients == pytest.approx(true, rel=1e-6, abs=1e-6)
    low, high = laws.extrapolated(laws.COMPLETE_SERVER, x, y, laws.FAR)
    assert low == pytest.approx(law(laws.FAR), rel=1e-6)
    assert high == pytest.approx(law(laws.FAR), rel=1e-6)
    y[2] *= 1 + noise
    noisy = laws.fit(laws.COMPLETE_SERVER, x, y)
    assert noisy is not None
    fitted = [noisy(at) / value - 1 for at, value in zip(x, y, strict=True)]
    assert noisy.error == pytest.approx(max(map(abs, fitted)))
    low, high = laws.extrapolated(laws.COMPLETE_SERVER, x, y, laws.FAR)
    assert 0 < low <= high


def test_dropouts_may_make_it_cheaper() -> None:
    x = [0.0, 0.1, 0.2, 0.3]
    law = laws.fit(laws.DROPOUTS, x, [3 - 2 * p + p * (1 - p) for p in x])
    assert law is not None
    assert law.coefficients == pytest.approx((3, -2, 1))


def test_too_few_points_make_no_law() -> None:
    assert laws.fit(laws.LINEAR, [1, 2], [1, 2]) is None
    assert laws.fit(laws.LINEAR, [1, 2, 3], [0, 1, 2]) is None


# ---- the report ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of a tiny grid, its own figures compared with themselves, beside those peers that are here."""
    out = tmp_path_factory.mktemp("overhead")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "SIZE", replace(MASKED, features=10))
        result = CliRunner().invoke(
            app, ["overhead", *TINY.split(), "--peers", "--out", str(out)], terminal_width=160
        )
    assert result.exit_code == 0, result.output
    assert "TenSEAL as NVFlare uses it" in result.output
    return out


def read(report: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((report / "overhead.json").read_text())
    return found


@pytest.mark.long
def test_the_page_names_machine_versions_command_and_every_number_is_inside(report: Path) -> None:
    found, page = read(report), (report / "overhead.html").read_text()
    command = found["command"]
    assert command == (
        "secure-afl overhead --backend mask --backend bfv --clients 5 --clients 4 --clients 6 --clients 7 "
        "--features 6 --features 9 --classes 2 --dropout 0.2 --dropout 0.0 --width 5 --suite x25519 "
        "--profile active --repeats 2 --peers"
    )
    assert command in page
    assert found["machine"]["processor"] in page
    for name, number in found["machine"]["versions"].items():
        assert f"{name} {number}" in page
    assert f"{found['machine']['cores']} cores" in page
    assert "extrapolation" in page
    assert shown.amount("cpu_seconds", found["cells"][0]["costs"][0]["median"]) in page
    # Nothing is fetched, nothing runs.
    assert "http" not in page.replace("http-equiv", "")
    assert "<script" not in page
    assert page.count('src="data:image/svg+xml;base64,') == len(list((report / "plots").iterdir())) > 3


@pytest.mark.long
def test_csv_and_json_agree(report: Path) -> None:
    found = read(report)
    rows = list(csv.DictReader(io.StringIO((report / "overhead.csv").read_text())))
    cells = found["cells"] + found["peers"]["cells"]
    expected = [(cell, row) for cell in cells for row in cell["costs"]]
    assert len(rows) == len(expected)
    for line, (cell, row) in zip(rows, expected, strict=True):
        for name in figures.CELL_COLUMNS:
            assert line[name] == ("" if cell[name] is None else str(cell[name]))
        for name in ("party", "phase", "quantity"):
            assert line[name] == row[name]
        for name in ("median", "q1", "q3"):
            assert float(line[name]) == row[name]
        assert int(line["repeats"]) == len(row["values"])


@pytest.mark.long
def test_medians_and_quartiles_are_of_the_repeats(report: Path) -> None:
    found = read(report)
    quantities = set()
    for row in (row for cell in found["cells"] for row in cell["costs"]):
        assert row["median"] == pytest.approx(float(np.median(row["values"])))
        assert row["q1"] <= row["median"] <= row["q3"]
        assert len(row["values"]) == (1 if row["quantity"] == figures.MEMORY else 2)
        quantities.add(row["quantity"])
    assert quantities == {*Cost._fields} | ({figures.MEMORY} if memory.measurable() else set())


@pytest.mark.long
def test_laws_are_fitted_to_the_medians_of_their_axis(report: Path) -> None:
    found = read(report)
    mine = [one for one in found["laws"] if (one["backend"], one["axis"]) == ("bfv", "clients")]
    assert {(one["party"], one["quantity"]) for one in mine} >= {
        (SERVER, "cpu_seconds"),
        (CLIENT, "bytes_up"),
    }
    for one in mine:
        assert (one["points"], one["lowest"], one["highest"], one["form"]) == (4, 4, 7, "a + b·n")
        far = one["extrapolation"]
        assert far["clients"] == 10**6
        assert far["beyond"] == pytest.approx(10**6 / 7)
        assert far["low"] <= far["value"] * (1 + 1e-9)
        assert far["value"] <= far["high"] * (1 + 1e-9)


@pytest.mark.long
def test_ratios_are_of_the_medians(report: Path) -> None:
    found = read(report)["peers"]
    ours = found["cells"][0]
    names = [cell["backend"] for cell in found["cells"][1:]]
    assert [one["peer"] for one in found["ratios"]] == names
    missing = [peer.name for peer in compare.PEERS if peer.installed is None]
    assert len(names) + len(missing) == len(compare.PEERS)
    for name, said in zip(missing, found["absent"], strict=True):
        assert said.startswith(name)
        assert "secure-afl[peers]" in said
    for cell, one in zip(found["cells"][1:], found["ratios"], strict=True):
        mine, theirs = (_total(each, SERVER, "cpu_seconds") for each in (ours, cell))
        assert one["server_cpu"] == pytest.approx(theirs / mine)
        mine, theirs = (
            _total(each, CLIENT, "bytes_up") + _total(each, CLIENT, "bytes_down") for each in (ours, cell)
        )
        assert one["our_bytes"] == pytest.approx(mine / theirs)


def _total(cell: Mapping[str, Any], party: str, quantity: str) -> float:
    row = figures.found(cell, party, quantity)
    assert row is not None
    return float(row["median"])


@pytest.mark.parametrize(
    "peer",
    [
        pytest.param(peer, id=peer.package, marks=pytest.mark.long if peer.package == "declearn" else ())
        for peer in compare.PEERS
    ],
)
def test_a_peer_makes_the_sum(peer: compare.Peer) -> None:
    """It checks it itself; without `peers` most are skipped."""
    if peer.installed is None:
        pytest.skip(f"{peer.package} is not installed")
    found = peer.session(replace(MASKED, dropout=0.2 if peer.dropouts else 0.0))
    assert found.keys() == {CLIENT, WORST, SERVER}
    assert found[SERVER][ALL_PHASES].bytes_down > found[CLIENT][ALL_PHASES].bytes_up > 4 * MASKED.values


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--dropout", "0.6"], "fewer than the threshold"),
        (["--backend", "plain"], "expected backends from"),
        (["--backend", "bfv", "--width", "8"], "expected words of 4 to 7 bytes"),
        (["--clients", "5", "--clients", "5"], "none twice"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_the_work(
    arguments: list[str], said: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["overhead", "--out", str(out), *arguments])
    assert result.exit_code == 1
    assert said in " ".join(result.output.split())
    assert not out.exists()
