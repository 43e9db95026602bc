"""A logistic or Poisson regression over the folders of its parties, each of which computes every step by itself."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from worlds import hearts
from worlds.coded import Coded
from worlds.patience import HANG

from secure_afl.errors import DataError
from secure_afl.node.site import TABLE_MODEL, Folder
from secure_afl.node.study import RegressionStudy, Rows, Study, packed, parse
from secure_afl.protocol.files import policy
from secure_afl.protocol.session.errors import FileError, LocalProtocolError, PolicyError, RoundAbortedError
from secure_afl.protocol.session.parameters import SumPlan
from secure_afl.protocol.session.policy import Policy
from secure_afl.sums.aggregation import Aggregate
from secure_afl.tables import model as models
from secure_afl.tables import shown
from secure_afl.tables.terms import terms

COLUMNS = """
site = "ward"
[columns]
age = { kind = "number", range = [18, 100], unit = "years" }
sex = { kind = "category", levels = ["f", "m"] }
"""
OUTCOMES = {
    "logistic": '[outcome]\nkind = "classes"\ncolumn = "sick"\nclasses = { well = ["0"], ill = ["1"] }\n',
    "poisson": '[outcome]\nkind = "number"\ncolumn = "visits"\nrange = [0, 60]\n',
}


def coded(root: Path, model: str) -> tuple[Coded, pd.DataFrame]:
    draws = np.random.default_rng(5)
    frame = pd.DataFrame(
        {"ward": draws.choice(["A", "B", "C", "D"], 400), "age": draws.integers(20, 90, 400)}
    )
    frame["sex"] = draws.choice(["f", "m"], 400)
    eta = (frame.age - 55) / 30 + 0.7 * (frame.sex == "m") - 0.3
    frame["sick"] = (draws.random(400) < 1 / (1 + np.exp(-eta))).astype(int)
    frame["visits"] = draws.poisson(np.exp(eta / 2))
    root.mkdir()
    frame.to_csv(root / "rows.csv", index=False)
    world = Coded(
        root / "parties", root / "rows.csv", COLUMNS + OUTCOMES[model], model=f"[{model}]\nsteps = 12\n"
    )
    return world, frame


@pytest.mark.long
@pytest.mark.parametrize("model", ["logistic", "poisson"])
def test_a_deployed_regression_is_statsmodels(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, frame = coded(tmp_path / "study", model)
    checked: list[int] = []
    check = RegressionStudy.check_verified

    def noted(study: RegressionStudy, verified: Any, learned: Any) -> Any:
        checked.append(len(verified))
        return check(study, verified, learned)

    monkeypatch.setattr(RegressionStudy, "check_verified", noted)
    fitted = world.deployed()
    family = sm.families.Binomial() if model == "logistic" else sm.families.Poisson()
    design = sm.add_constant(pd.DataFrame({"age": frame.age, "sex": frame.sex == "m"}).astype(float))
    outcome = frame["sick" if model == "logistic" else "visits"].astype(float)
    expected = sm.GLM(outcome, design, family=family).fit(tol=1e-13)
    server = models.load(world.server / TABLE_MODEL)
    for at, values in enumerate((expected.params, expected.bse)):
        ours = np.array([line[3 + at] for line in shown.lines(server)], dtype=np.float64)
        np.testing.assert_allclose(ours, values, rtol=1e-6)
    assert server.about.family == model
    for folder in world.folders:
        own = models.load(folder / TABLE_MODEL)
        assert shown.lines(own) == shown.lines(server)
        assert len(own.about.verified) == fitted.n_iter_ + 2  # moments, gradients, information
    assert fitted.n_iter_ < 12
    assert max(checked) == fitted.n_iter_ + 1  # each announced sum was one that the party had accepted
    assert len(world.here().rounds_) == len(fitted.rounds_)


@pytest.mark.long
def test_the_heart_data_over_real_nodes_are_statsmodels(tmp_path: Path) -> None:
    """Four hospitals by codebook: each node's own model has the coefficients and standard errors of the pooled rows."""
    from secure_afl.simulations.network.loopback import Loopback

    world = Coded(
        tmp_path / "parties", hearts.TABLE, hearts.CODEBOOK.read_text(), model="[logistic]\nsteps = 25\n"
    )
    with Loopback(tmp_path / "network", world.folders, world.server) as network:
        network.run(deadline=HANG, limit=4 * HANG)
    X, y, *_ = world.contributed(Folder(world.server).terms()[1])
    design = sm.add_constant(X, has_constant="add")
    expected = sm.GLM(y == world.book.classes[1], design, family=sm.families.Binomial()).fit(tol=1e-13)
    half = np.array([term.half for term in terms(world.book)])
    for folder in (*world.folders, world.server):
        model = models.load(folder / TABLE_MODEL)
        np.testing.assert_allclose(np.append(model.intercept[1], model.coef[1]), expected.params, rtol=1e-6)
        assert model.ls_se is not None
        np.testing.assert_allclose(model.ls_se[1:, 1] * half, expected.bse[1:], rtol=1e-6)
        assert bool(model.about.verified) == (folder != world.server)


class Adds:
    """In the place of a server and its network: parties' vectors, by what was announced to them."""

    backend, policy = "mask", Policy()

    def __init__(self, study: Study, rows: list[Any]) -> None:
        self.study, self.rows, self.announced = study, rows, b""

    def open(self, clients: Sequence[str], plan: Sequence[SumPlan]) -> None:
        self.numbers = list[int]()

    def sum(self, number: int, contributions: Any) -> Aggregate:
        self.numbers.append(number)
        learned = self.study.unpacked(self.announced)
        total = np.sum(
            [self.study.vector(number, one, "a party", learned) for one in self.rows],
            axis=0,
        )
        return Aggregate(tuple("ABCD"), 0.0, len(total), total)

    def tell(self, model: bytes, to: Sequence[str]) -> None:
        self.study.check_announced(model)
        assert model.startswith(self.announced)
        self.announced = model


@pytest.mark.parametrize("model", ["logistic", "poisson"])
def test_parties_and_server_make_the_model_of_one_process(tmp_path: Path, model: str) -> None:
    world, _ = coded(tmp_path / "study", model)
    _, study = Folder(world.server).terms()
    adds: Any = Adds(study, [Folder(folder).data(study) for folder in world.folders])
    layers, fitted = study.learn(adds, world.names)
    assert adds.numbers == [*range(len(fitted.rounds_) - 1), 13]  # steps that were not needed are left out
    assert [layer.shape for layer in layers] == list(study.shapes())
    whole = packed(layers)
    assert whole.startswith(adds.announced)
    with pytest.raises(DataError, match="got a whole model"):
        study.check_announced(whole)
    study.check_layers(layers)
    for at, match in ((-1, "the server's is another"), (1, "another|gives? none|expected")):
        with pytest.raises(DataError, match=match):
            study.check_layers(
                [layer * (1.0 if one != at % len(layers) else 1.5) for one, layer in enumerate(layers)]
            )
    X, y, *_ = world.contributed(study)
    here: Any = study.estimator()
    np.testing.assert_allclose(layers[-1], here.fit_pooled(X, y).weights_, rtol=1e-9)


def test_a_party_answers_for_no_coefficients_but_its_own(tmp_path: Path) -> None:
    world, _ = coded(tmp_path / "study", "logistic")
    _, study = Folder(world.server).terms()
    rows = Folder(world.folders[0]).data(study)
    twice = Rows(np.vstack([rows.X] * 2), np.concatenate([rows.y] * 2))
    first = np.concatenate([study.vector(0, rows, "A"), [0.0]])[None, :]
    for wrong in (0, 2, 13):
        with pytest.raises(LocalProtocolError, match="expected sum 1 next"):
            study.vector(wrong, twice, "A", [first * 2])
    with pytest.raises(DataError, match="expected an entry error"):
        study.vector(1, rows, "A", [first - 1e-9 * (np.arange(first.size) == first.size - 1)])


def test_a_server_that_announces_other_sums_than_a_party_accepted_is_refused(tmp_path: Path) -> None:
    world, _ = coded(tmp_path / "study", "logistic")
    _, study = Folder(world.server).terms()
    rows = Folder(world.folders[0]).data(study)
    total = study.vector(0, rows, "A")

    def accepted(total: Any) -> Any:
        return SimpleNamespace(total=total, entry_error=1e-9)

    announced = [np.append(total, 1e-9)[None, :]]
    study.check_verified({0: accepted(total)}, announced)
    verified: Any
    for verified, match in (
        ({0: accepted(total + 2.0**-30)}, "announced another"),
        ({1: accepted(total)}, "one that it was not given to check"),
        ({}, "one that it was not given to check"),  # a server that withholds what shows its lie
    ):
        with pytest.raises(PolicyError, match=match):
            study.check_verified(verified, announced)
    with pytest.raises(PolicyError, match="expected the error 1e-09 of an entry"):
        study.check_verified({0: accepted(total)}, [np.append(total, 1.5)[None, :]])


@pytest.mark.slow
def test_parties_that_trust_no_reports_have_no_part(tmp_path: Path) -> None:
    world, _ = coded(tmp_path / "study", "logistic")
    for folder in world.folders:
        (folder / "policy.toml").write_text(policy.text(Policy()))
    with pytest.raises(RoundAbortedError):
        world.deployed()


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[logistic]\n[privacy]\nepsilon = 1.0\ndelta = 1e-6\n", "no accounting over them"),
        ("[poisson]\n", "a range from 0 on"),
        ("[logistic]\nsteps = 0\n", "expected steps"),
    ],
)
def test_what_a_regression_cannot_be(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "codebook.toml").write_text(COLUMNS + OUTCOMES["logistic"])
    content = f'backend = "mask"\ncodebook = "codebook.toml"\nmax_rows = 1000\n{text}'
    with pytest.raises((FileError, DataError), match=match):
        parse(content, tmp_path).plan(4)


def test_without_a_codebook_there_is_no_regression() -> None:
    content = (
        'backend = "mask"\nfeatures = ["a"]\nlabel = "b"\nclasses = ["0", "1"]\nmax_rows = 1000\n[logistic]\n'
    )
    with pytest.raises(FileError, match="expected a codebook"):
        parse(content)
