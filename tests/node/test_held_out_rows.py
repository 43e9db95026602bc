"""How good a model is on rows that sites held out of it: a last sum of the session, over the folders of parties."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds.coded import FLAGS, INSIDE, Coded, flag_table
from worlds.folders import Post

from secure_afl.analytic.evaluation import Classified, classified
from secure_afl.errors import DataError
from secure_afl.models.evaluation import Evaluated, HeldOut
from secure_afl.node import held_out
from secure_afl.node import study as study_file
from secure_afl.node.explained import sections
from secure_afl.node.site import HELD_OUT, Folder
from secure_afl.node.study import Rows, Study, packed
from secure_afl.protocol.session.errors import FileError, PolicyError, RoundAbortedError
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.profile import Verify
from secure_afl.protocol.transport.post import Channel, Envelope
from secure_afl.sums.remote import Elsewhere, RemoteMaskedAggregator

PART = 0.25


def hospitals(root: Path, also: str = "", sites: int = 3, least: int = 1) -> Coded:
    book = f"least_rows = {least}\n{FLAGS}"
    return Coded(root / "here", flag_table(root, sites), book, also=f"held_out = {PART}\n{also}")


def learned(
    world: Coded, silent: frozenset[tuple[int, int]] = frozenset()
) -> tuple[Any, Study, Post, list[Any]]:
    """What the server makes of a session: figures, study, the parties' post, and the layers of the model."""
    terms, study = Folder(world.server).terms()
    post = Post(world, set(silent))
    aggregator = RemoteMaskedAggregator(Elsewhere(terms.parties, post.carrier), terms.policy)
    layers, _ = study.learn(aggregator, world.names)
    figures, _ = held_out.evaluated(study, aggregator, len(world.names))
    return figures, study, post, layers


def test_a_site_counts_itself_whatever_another_one_claims() -> None:
    """Weak design: a site without rows of a class claims −1, the pooled number becomes 0, and the only site with rows
    continues.
    """
    agreed = HeldOut(("no", "yes"))
    agreed.check_sites(np.array([3.0, 0.0]))  # all that the server knows
    agreed.check_sites(np.array([3.0, 0.0]), np.array([1.0, 0.0]))
    for total in (0.0, -1.0, 2.0):
        with pytest.raises(DataError, match="rows of the class 'yes', got"):
            agreed.check_sites(np.array([3.0, total]), np.array([1.0, 1.0]))


@pytest.mark.parametrize("also", ["", "rows_per_column = 1\n"])
def test_figures_are_those_of_the_held_out_rows_under_the_model_of_the_others(
    tmp_path: Path, also: str
) -> None:
    world = hospitals(tmp_path, also)
    found, study, post, layers = learned(world)
    assert isinstance(found, Evaluated)
    tables = [Folder(folder).data(study)[:2] for folder in world.folders]
    outs = [held_out.rows(len(X), PART) for X, _ in tables]
    X, y = (
        np.concatenate([table[at][~out] for table, out in zip(tables, outs, strict=True)]) for at in (0, 1)
    )
    reference: Any = study.estimator().fit_pooled(X, y)
    np.testing.assert_allclose(layers[-1], reference.weights_, rtol=1e-6, atol=1e-9)
    X, y = (
        np.concatenate([table[at][out] for table, out in zip(tables, outs, strict=True)]) for at in (0, 1)
    )
    truth = (y[:, None] == np.array(study.classes)).argmax(axis=1)
    exact = classified(truth, reference.class_scores(X), study.classes)
    assert isinstance(found.figures, Classified)
    assert found.figures.rows == exact.rows == 3 * round(28 * PART)
    assert found.figures.accuracy == exact.accuracy
    assert [one.recall for one in found.figures.by_class] == [one.recall for one in exact.by_class]
    (session,) = post.sessions
    for party, folder in enumerate(world.folders):  # each party has the figures by the sum that it checked
        post.ask(party, Envelope(Channel.END, session, packed(layers)))
        assert json.loads((folder / HELD_OUT).read_text()) == json.loads(json.dumps(found.json()))


def test_a_codebook_marks_the_rows_that_are_held_out(tmp_path: Path) -> None:
    world = Coded(
        tmp_path / "here",
        flag_table(tmp_path),
        f'least_rows = 1\nheld_out = "age >= 60 and age < 75"\n{FLAGS}',
    )
    found, study, _, layers = learned(world)
    X, y, out = (
        np.concatenate([getattr(Folder(folder).data(study), part) for folder in world.folders])
        for part in ("X", "y", "marks")
    )
    assert 10 < out.sum() < 30
    reference: Any = study.estimator().fit_pooled(X[~out], y[~out])
    np.testing.assert_allclose(layers[-1], reference.weights_, rtol=1e-6, atol=1e-9)
    assert found.figures.rows == out.sum()
    assert found.figures.accuracy == (reference.predict(X[out]) == y[out]).mean()
    with pytest.raises(DataError, match="expected the marks of held-out rows"):
        study.vector(0, Rows(X, y), "a site")  # no row is learned from because its mark was lost
    lines = " ".join(line for section in sections(*Folder(world.server).terms()) for line in section.lines)
    assert "This party's rows with age >= 60 and age < 75 are held out of the model" in lines


def test_a_number_is_measured(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    dose = draws.uniform(0, 10, 120)
    lines = [f"{'abc'[at % 3]},{one:.17g},{2 * one + draws.normal():.17g}" for at, one in enumerate(dose)]
    (tmp_path / "rows.csv").write_text("\n".join(["site,dose,change", *lines]) + "\n")
    book = 'site = "site"\n[columns]\ndose = { kind = "number", range = [0, 10] }\n'
    book += '[outcome]\nkind = "number"\ncolumn = "change"\nrange = [-10, 30]\n'
    world = Coded(tmp_path / "here", tmp_path / "rows.csv", book, also="held_out = 0.5\n")
    found, *_ = learned(world)
    assert found.figures.rows == 60
    assert 0.7 < found.figures.rmse < 1.4
    assert found.figures.r2 > 0.95


@pytest.mark.slow
def test_a_logistic_regression_is_measured(tmp_path: Path) -> None:
    world = Coded(
        tmp_path / "here",
        flag_table(tmp_path),
        f"least_rows = 1\n{FLAGS}".replace('products = [["a", "b", "c"]]', ""),
        also=f"held_out = {PART}\n",
        model="[logistic]\nsteps = 12\n",
    )
    found, study, _, layers = learned(world)
    tables = [Folder(folder).data(study)[:2] for folder in world.folders]
    outs = [held_out.rows(len(X), PART) for X, _ in tables]
    rows = [(X[~out], y[~out], X[out], y[out]) for (X, y), out in zip(tables, outs, strict=True)]
    X, y, held, truth = (np.concatenate(part) for part in zip(*rows, strict=True))
    reference: Any = study.estimator().fit_pooled(X, y)
    np.testing.assert_allclose(layers[-1], reference.weights_, rtol=1e-6, atol=1e-8)
    assert found.figures.rows == len(truth)
    assert found.figures.accuracy == (reference.predict(held) == truth).mean()


def test_a_site_that_falls_silent_costs_its_figures_not_the_model(tmp_path: Path) -> None:
    """In phase 7 sites say whether they have enough rows; in phase 11 they upload their counts."""
    world = hospitals(tmp_path, sites=5)
    found, *_ = learned(world, frozenset({(7, 0)}))
    assert len(found.survivors) == 4
    assert found.figures.rows == 4 * round(84 / 5 * PART)
    (tmp_path / "few").mkdir()
    found, _, _, layers = learned(hospitals(tmp_path / "few"), frozenset({(7, 0)}))
    assert "nothing was released" in found
    assert layers


def test_of_a_class_that_two_sites_hold_out_nothing_is_counted(tmp_path: Path) -> None:
    """Otherwise the last sum would hold the counts of these two sites, and each could subtract its own."""
    lines = [f"{'abc'[at % 3]},{at % 20},{'no' if at % 3 == 2 or at % 2 else 'yes'}" for at in range(240)]
    (tmp_path / "rows.csv").write_text("\n".join(["site,dose,sick", *lines]) + "\n")
    book = 'site = "site"\n[columns]\ndose = { kind = "number", range = [0, 20] }\n'
    book += '[outcome]\nkind = "classes"\ncolumn = "sick"\nclasses = ["no", "yes"]\n'
    world = Coded(tmp_path / "here", tmp_path / "rows.csv", book, also=f"held_out = {PART}\n")
    terms, study = Folder(world.server).terms()
    aggregator = RemoteMaskedAggregator(Elsewhere(terms.parties, Post(world, set()).carrier), terms.policy)
    study.learn(aggregator, world.names)
    last = len(terms.plan) - 1
    sites = aggregator.sum(last - 1, {})
    assert sites.total.tolist() == [3, 2]
    with pytest.raises(
        DataError, match="at least 3 sites with 5 or more held-out rows of the class 'yes', got 2"
    ):
        held_out.agreed(study).check_sites(sites.total)
    with pytest.raises(RoundAbortedError):  # a server that goes on all the same
        aggregator.sum(last, {})


def test_a_site_counts_for_no_model_but_that_of_the_sums_that_it_checked(tmp_path: Path) -> None:
    """A server that could choose the model could ask whether a site has a certain row."""
    world = hospitals(tmp_path)
    terms, study = Folder(world.server).terms()
    own = Folder(world.folders[0]).data(study)
    for checked, match in ((None, "sums that this party checked"), ({}, "it verified none of that number")):
        with pytest.raises(PolicyError, match=match):
            held_out.vector(study, len(terms.plan) - 1, own, checked, terms.parties.clients)
    assert not any(plan.trusts_server for plan in terms.plan)
    for section in sections(terms, study):
        if "25% of this party's rows are held out of the model" in " ".join(section.lines):
            break
    else:
        pytest.fail("study show says nothing of held-out rows")


@given(st.integers(0, 500), st.integers(0, 50))
def test_a_part_of_the_rows_is_held_out_by_their_number_alone(number: int, percent: int) -> None:
    out = held_out.rows(number, percent / 100)
    assert out.sum() == round(percent / 100 * number)
    assert np.array_equal(out, held_out.rows(number, percent / 100))
    more = held_out.rows(number, 0.5)
    assert not (out & ~more).any()


def test_held_out_rows_are_spread_and_the_same_in_all_versions() -> None:
    assert np.flatnonzero(held_out.rows(20, 0.25)).tolist() == [2, 3, 9, 14, 19]
    halves = held_out.rows(10_000, 0.2).reshape(10, 1000).sum(axis=1)
    assert halves.min() > 150
    assert halves.max() < 250


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("held_out = 0.6\n[ridge]\n", "expected held_out as a part"),
        ("held_out = 0.123\n[ridge]\n", "at most two decimals, got 0.123"),
        ("held_out = -0.1\n[ridge]\n", "expected held_out as a part"),
        ("held_out = nan\n[ridge]\n", "expected held_out as a part"),
        (
            "held_out = 0.2\n[ridge]\n[privacy]\nepsilon = 1.0\ndelta = 1e-6\n",
            r"no \[privacy\] with held_out",
        ),
    ],
)
def test_studies_that_cannot_count_held_out_rows_are_refused(lines: str, message: str) -> None:
    with pytest.raises(FileError, match=message):
        study_file.parse(f'backend = "mask"\nmax_rows = 100\n{lines}[codebook]\n{INSIDE}')
    with pytest.raises(FileError, match="expected the backend mask"):
        study_file.parse(f'backend = "bfv"\nmax_rows = 100\nheld_out = 0.2\n[ridge]\n[codebook]\n{INSIDE}')


def test_a_party_that_checks_no_sums_counts_none() -> None:
    study = study_file.parse(
        f'backend = "mask"\nmax_rows = 100\nheld_out = 0.2\n[ridge]\n[codebook]\n{INSIDE}'
    )
    study.check_policy(Policy())
    marked = f'backend = "mask"\nmax_rows = 100\nheld_out = 0.2\n[ridge]\n[codebook]\nheld_out = "age > 40"\n{INSIDE}'
    with pytest.raises(FileError, match="held_out in the study or in its codebook, got it in both"):
        study_file.parse(
            marked.replace('[codebook]\nheld_out = "age > 40"\n', "[codebook]\n" + 'held_out = "age > 40"\n')
        )
    with pytest.raises(PolicyError, match="sites compute the model"):
        study.check_policy(Policy(verify=frozenset({Verify.NONE})))
