"""Every attack reads the weak designs and not ours.

Masks are fresh in every run, so what is said of ours is a statistical test: each fails by chance once in 10⁹ runs.
"""

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from secure_afl.errors import DataError
from secure_afl.simulations.attacks import designs, report, table
from secure_afl.simulations.attacks.designs import Design
from secure_afl.simulations.attacks.finding import Finding, Gallery, paired, picked, relative, told_apart
from secure_afl.simulations.attacks.population import Clients, Known, Setting, Statistic, draw
from secure_afl.simulations.attacks.reading import (
    collusion,
    differencing,
    few_rows,
    key_recovery,
    labels,
    membership,
    one_row,
    reconstruct,
)
from secure_afl.simulations.attacks.weak import cancelling, small_seeds
from secure_afl.simulations.cli import main
from secure_afl.simulations.data.dataset import Dataset, load
from secure_afl.simulations.data.partition import partition

FALSE_ALARM = 1e-9
runner = CliRunner()


def run(*arguments: str) -> tuple[int, str]:
    result = runner.invoke(main.app, list(arguments), terminal_width=100)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load("digits")


@pytest.fixture(scope="module")
def setting(digits: Dataset) -> Setting:
    return Setting(digits, seed=0, repeats=20)


def found_by(name: str, setting: Setting) -> list[Finding]:
    """What an attack found; every step of progress that it announces is made."""
    steps: list[str] = []
    attack = table.ATTACKS[name]
    findings = attack.measure(setting, steps.append).findings
    assert len(steps) == attack.steps
    return findings


def trials(data: Dataset, design: Design, sessions: int) -> one_row.Trials:
    found, rng = one_row.Trials(Statistic.of(data)), np.random.default_rng(3)
    for _ in range(sessions):
        found.add(design, Setting(data, 0, 20), rng)
    return found


def of(findings: list[Finding], design: str, measured: str = "") -> Finding:
    (found,) = [one for one in findings if design == one.design and measured in one.measured]
    return found


# ---- rows ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["digits", "heart"])
def test_a_plain_upload_gives_the_only_row_away_exactly(source: str) -> None:
    """To the last bit where pixels have a grid, else to 1e-12."""
    found = trials(load(source), designs.PLAIN, 5)
    assert (found.exact, found.picked) == (20, 20)
    assert max(found.errors) <= (0.0 if source == "digits" else 1e-12)


def test_a_masked_upload_gives_no_more_than_guessing(digits: Dataset) -> None:
    """100 rows of 25 real sessions by the same attack: none exact; not nearer than the mean of other people's rows;
    picked among 50 as often as by lot; and as near as what the same attack makes of random bytes.
    """
    found = trials(digits, designs.OURS, 25)
    exactly, picks, closer = found.findings(designs.OURS)
    assert found.exact == 0
    assert exactly.value > exactly.guess
    assert exactly.chance > 0.99
    assert picks.chance > FALSE_ALARM
    assert FALSE_ALARM < closer.chance < 1 - FALSE_ALARM
    # The picks have the power to tell: on plain uploads they are all right, which chance gives once in 50^20.
    assert trials(digits, designs.PLAIN, 5).findings(designs.PLAIN)[1].chance < 1e-30


@pytest.mark.parametrize(
    "design",
    [designs.SCALAR, designs.KEYSTREAM, designs.BOTH_SHARES, designs.ONE_KEY],
    ids=lambda design: design.name,
)
def test_weak_designs_give_the_row_away(design: Design, digits: Dataset) -> None:
    found = trials(digits, design, 1)
    assert found.exact == len(found.errors) > 0


@pytest.mark.parametrize("design", [designs.ASKED_TWICE, *designs.ENCRYPTED], ids=lambda design: design.name)
def test_ours_in_other_forms_gives_no_row_away(design: Design, digits: Dataset) -> None:
    found = trials(digits, design, 2)
    assert found.exact == 0
    assert paired(found.errors, found.guesses) > 0.5


def test_few_rows_are_read_from_a_plain_upload_and_none_from_a_masked_one(digits: Dataset) -> None:
    statistic, rng = Statistic.of(digits), np.random.default_rng(0)
    clients = draw(digits, [5] * 4, rng)
    vectors = statistic.vectors(clients)
    for design, right in ((designs.PLAIN, 5), (designs.OURS, 0)):
        for index, vector in design.read(vectors, statistic).items():
            gram, cross, _ = statistic.parts(vector)
            rows = reconstruct.few_rows(gram, cross, clients.known, rng)
            exact = {tuple(clients.known.plausible(row)) for row in rows} & {
                tuple(x) for x in clients.X[index]
            }
            assert len(exact) == right, (design.name, index)


def test_a_row_that_alone_has_a_feature_is_read_from_the_opened_sum() -> None:
    """The sum of `secure-afl run --least-rows 1`: a patient of 690 with a flag that nobody else has stands in it with all
    features.
    """
    data = load("heart")
    held = [part.train for part in partition(data, "site", None, seed=0)]
    statistic, known = Statistic.of(data), Known(-1.0, 1.0, None, data.X)
    clients = Clients(tuple(data.X[mine] for mine in held), tuple(data.y[mine] for mine in held), known)
    total = designs.opened_sum(statistic.vectors(clients), statistic)
    rows, pooled = reconstruct.standing_rows(statistic.parts(total)[0], known), np.concatenate(clients.X)
    counts = np.isin(pooled, (0.0, 1.0)).all(axis=0) * pooled.sum(axis=0)
    expected = {tuple(pooled[pooled[:, at] == 1][0].round(6)) for at in np.flatnonzero(counts == 1)}
    assert expected
    assert {tuple(row) for row in rows} == expected


@pytest.mark.slow
def test_what_the_opened_sum_tells_is_among_the_findings(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Masks do not help there, and the table says so."""
    monkeypatch.setattr(one_row, "DESIGNS", ())
    monkeypatch.setattr(one_row, "_SUMS", 2)
    monkeypatch.setattr(few_rows, "_SIZES", ())
    monkeypatch.setattr(few_rows, "_OTHERS", ())
    for attack, measured in (
        (one_row, "600 rows that show a row"),
        (few_rows, "in the sum of all, 5 a client"),
    ):
        found = of(attack.measure(setting, lambda step: None).findings, designs.OURS.name, measured)
        assert found.ours
        assert found.succeeds
        assert found.note.endswith(designs.OPENED)


def test_columns_of_0_and_1_single_patients_out_unless_levels_are_merged(digits: Dataset) -> None:
    """Four hospitals, divided 5 times: what is read is a whole row, and from ours none is read."""
    before, after = found_by("leverage", Setting(load("heart"), seed=0, repeats=5))
    assert (before.succeeds, before.ours, before.value) == (True, False, 4 / 5)
    assert before.note.startswith("4 of 4 rows read are exact")
    assert (after.succeeds, after.ours, after.value) == (False, True, 0.0)
    assert after.note.startswith("0 of 0 rows")
    assert found_by("leverage", Setting(digits, seed=0, repeats=20)) == []  # no columns of 0 and 1


def test_images_of_one_label_are_told_apart_although_a_rotation_has_their_statistic() -> None:
    """Four images of one digit: Gram matrix and labels fix them up to a rotation; the range of pixels fixes the rotation."""
    data = load("mnist5k")
    X, rng = data.X[data.y == 3][:4], np.random.default_rng(0)
    Y = np.zeros((4, 10))
    Y[:, 3] = 1.0
    others = reconstruct.alike(X, Y, rng)
    np.testing.assert_allclose(others.T @ others, X.T @ X, atol=1e-9)
    np.testing.assert_allclose(others.T @ Y, X.T @ Y, atol=1e-9)
    assert np.linalg.norm(others[:, None] - X[None], axis=2).min() > 0.1
    known = draw(data, [1], rng).known
    ones = np.column_stack([np.ones(4), X])
    rows = reconstruct.few_rows(ones.T @ ones, ones.T @ Y, known, rng)
    assert {tuple(known.plausible(row)) for row in rows} == {tuple(row) for row in X}
    with pytest.raises(DataError, match="expected more rows than labels, got 2 rows"):
        reconstruct.alike(X[:2], np.eye(2), rng)


def test_nothing_is_read_as_rows_where_a_client_has_more_rows_than_features(digits: Dataset) -> None:
    clients = draw(digits, [100], np.random.default_rng(0))
    gram, cross, _ = (statistic := Statistic.of(digits)).parts(statistic.vectors(clients)[0])
    assert reconstruct.few_rows(gram, cross, clients.known, np.random.default_rng(0)).shape == (0, 64)


# ---- 28-bit seeds --------------------------------------------------------------------------------


@given(st.lists(st.integers(0, small_seeds.SEEDS - 1), min_size=1, max_size=20, unique=True))
def test_seeds_and_first_outputs_are_those_of_the_real_generator(numbers: list[int]) -> None:
    chosen = small_seeds.seeds(np.array(numbers))
    assert len(set(chosen.tolist())) == len(numbers)
    assert not (chosen & np.uint32(0x80808080)).any()
    real = [np.random.RandomState(seed).randint(0, 2**32, 1, np.uint32)[0] for seed in chosen.tolist()]
    assert small_seeds.first_outputs(chosen).tolist() == real


def test_the_search_finds_the_one_seed_that_fits(digits: Dataset) -> None:
    """Among 2^17 seeds; the command tries all 2^28, which takes a minute."""
    statistic = Statistic.of(digits)
    vectors = statistic.vectors(draw(digits, [1] * 4, np.random.default_rng(0)))
    read = small_seeds.read(vectors, statistic, window=2**17)
    assert relative(read[0], vectors[0]) < 1e-9
    upload = np.array([5, 6, 7], np.uint64) + small_seeds.mask(int(small_seeds.seeds(np.array([9]))[0]), 3)
    assert small_seeds.search(upload, 5, 0, 9) is None
    assert small_seeds.search(upload, 5, 0, 10) == 9
    assert small_seeds.search(upload, 5, small_seeds.SEEDS - 2, 12) == 9  # around the end


# ---- labels, membership --------------------------------------------------------------------------


def test_labels_and_counts(setting: Setting) -> None:
    findings = found_by(labels.NAME, setting)
    for design in (designs.PLAIN, designs.SCALAR, designs.KEYSTREAM):
        for measured in ("labels", "count"):
            found = of(findings, design.name, measured)
            assert found.succeeds, found
            assert found.value < 0.01 * found.guess
    assert of(findings, designs.FLOATS.name, "count").succeeds
    assert of(findings, designs.IN_CLEAR.name, "count").value == 0.0
    for name, measured in (
        (designs.IN_CLEAR.name, "labels"),
        (designs.OURS.name, "labels"),
        (designs.OURS.name, "count"),
    ):
        found = of(findings, name, measured)
        assert found.chance > FALSE_ALARM
        assert found.value > found.guess


def test_membership_is_told_by_sums_and_not_by_masked_uploads_or_noisy_sums(setting: Setting) -> None:
    findings = found_by(membership.NAME, setting)
    assert of(findings, "plain upload").value > 0.8
    assert of(findings, "secure-afl, mask", "upload").chance > FALSE_ALARM
    for what in ("sum", "model"):  # ours does not help against this, and the table says so
        plain, noisy = of(findings, "secure-afl, mask", what), of(findings, "secure-afl with ε = 1", what)
        assert plain.succeeds
        assert "privacy.md" in plain.note
        assert noisy.value < plain.value - 0.02
        assert noisy.chance > FALSE_ALARM


# ---- sums ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_differencing(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(differencing, "_SESSIONS", 3)
    findings = found_by(differencing.NAME, setting)
    assert len(findings) == 6
    for found in findings:
        if found.ours:  # there is no second sum, so the guess is all that the server has
            assert found.value == found.guess > 0.1
            assert "the second is refused" in found.note
        else:
            assert found.value < 1e-9


def test_collusion_reads_nothing_below_the_threshold_and_all_from_it_on(setting: Setting) -> None:
    statistic, rng = Statistic.of(setting.data), np.random.default_rng(0)
    vectors = statistic.vectors(draw(setting.data, [10] * 7, rng))
    for colluders in (0, 1, 4, 5, 6):
        read, total = collusion.masked(vectors, statistic, colluders)
        honest = total - np.sum(vectors[7 - colluders :], axis=0)
        assert relative(honest, np.sum(vectors[: 7 - colluders], axis=0)) < 1e-9
        error = relative(read, vectors[0])
        assert error < 1e-9 if colluders >= 5 else error > 100


def test_one_client_is_enough_against_bfv_alone(setting: Setting) -> None:
    """As the threat model says, and why a policy must name bfv."""
    statistic = Statistic.of(setting.data)
    vectors = statistic.vectors(draw(setting.data, [10] * 4, np.random.default_rng(0)))
    assert relative(cancelling.read(vectors, statistic), vectors[0]) < 1e-9


def test_two_raw_ckks_sums_give_the_key_away_and_two_of_ours_do_not(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_recovery, "_SESSIONS", 2)
    weak, ours = found_by(key_recovery.NAME, setting)
    assert (weak.ours, ours.ours) == (False, True)
    assert weak.value < 1e-6
    assert ours.value > 100
    assert ours.note.startswith("the key opened 0 of 2")


# ---- numbers, rows, the command ------------------------------------------------------------------


def test_chances() -> None:
    assert paired([1.0, 1.0], [1.0, 1.0]) == 1.0  # equal is not better
    assert paired([0.0] * 10, [1.0] * 10) == pytest.approx(2.0**-10)
    assert picked(0, 10, 0.02) == 1.0
    assert picked(2, 2, 0.02) == pytest.approx(0.02**2)
    assert told_apart(np.arange(10.0) + 10, np.arange(10.0))[0] == 1.0
    assert relative(np.zeros(3), np.ones(3)) == 1.0


def test_no_row_is_drawn_twice_and_too_few_rows_are_refused(digits: Dataset) -> None:
    clients = draw(digits, [300, 300, 300, 300], np.random.default_rng(0))
    rows = [tuple(row) for part in (*clients.X, clients.known.other) for row in part]
    assert len(rows) == len(digits.y)
    assert sorted(rows) == sorted(map(tuple, digits.X))
    with pytest.raises(DataError, match="expected data for clients of"):
        draw(digits, [600, 600, 600], np.random.default_rng(0))
    two = draw(digits, [20, 30], np.random.default_rng(0), per_label=True)
    assert [sorted(set(y.tolist())) for y in two.y] == [[0, 1], [1, 2]]


@pytest.mark.slow
def test_the_command_shows_and_writes_what_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(few_rows, "_SIZES", (20,))
    monkeypatch.setattr(few_rows, "_OTHERS", (designs.OURS,))
    monkeypatch.setattr(few_rows, "_SUMMED", (5,))
    monkeypatch.setattr(reconstruct, "_TRIES", 1)
    out = tmp_path / "out"
    options = f"--data digits --only few-rows --only ckks-key --json {out}/a.json --out {out}"
    monkeypatch.setattr(key_recovery, "_SESSIONS", 1)
    code, output = run("attack", *options.split())
    assert code == 0, output
    found = json.loads((out / "a.json").read_text())
    assert [one["attack"] for one in found["findings"]] == ["few-rows"] * 3 + ["ckks-key"] * 2
    assert {one["verdict"] for one in found["findings"]} == {"succeeds", "no better than guessing"}
    page = (out / "attacks.html").read_text()
    markdown = (out / "attacks.md").read_text()
    for one in found["findings"]:
        assert one["design"] in re.sub(r"[\s│]+", " ", output)
        assert one["design"] in page
        assert one["design"] in markdown
    # The page needs nothing else: pictures are in it.
    assert re.findall(r'(?:src|href)="([^"]{11})', page) == ["data:image/"]
    (inline,) = re.findall(r'base64,([^"]+)"', page)
    assert base64.b64decode(inline) == (out / "pictures-1.png").read_bytes()


def test_the_commands_names_are_those_of_the_table() -> None:
    code, output = run("attack", "--help")
    assert code == 0
    text = re.sub(r"[\s│]+", " ", output)
    assert f"One of {', '.join(table.ATTACKS)};" in text
    code, output = run("attack", "--only", "magic")
    assert code == 1
    assert "expected attacks from one-row, few-rows" in re.sub(r"\s+", " ", output)


def test_numbers_and_pictures() -> None:
    shown = [report.number(value) for value in (0.0, 1.0, 0.25, 44694.2, 3e-13, 7e6)]
    assert shown == ["0", "1", "0.25", "44,694", "3e-13", "7e+06"]
    gallery = Gallery("one <b>", (("line", np.zeros((2, 4, 4))), ("other", np.ones((1, 4, 4)))))
    assert report.picture(gallery).startswith(b"\x89PNG")
    assert "one &lt;b&gt;" in report.page(
        {"data": "x", "seed": 0, "repeats": 1, "findings": []}, [("one <b>", b"")]
    )
