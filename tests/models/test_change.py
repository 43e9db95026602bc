"""Rows that come into a sum and leave it: the model is that of the remaining rows, and no difference shows a row."""

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from secure_afl import FederatedPCA, FederatedRidge, FederatedRidgeClassifier, MaskedAggregator, Policy
from secure_afl.analytic.privacy import Privacy
from secure_afl.crypto.hpke import Suite
from secure_afl.errors import DataError
from secure_afl.models.change import Change, change_plan, leverages, most_leverage
from secure_afl.models.sums import FederatedTable
from secure_afl.protocol.session.errors import PolicyError, RoundAbortedError
from secure_afl.protocol.session.parameters import SumPlan
from secure_afl.sums.encrypted import EncryptedAggregator
from secure_afl.testing.faults import Fault, FaultyNetwork

SITES = ("A", "B", "C")


def quick(**arguments: Any) -> MaskedAggregator:
    return MaskedAggregator(Policy(suites=frozenset(Suite)), suite=Suite.X25519, **arguments)


class Rows:
    """Rows of several sites and what is said of them, in the order in which they came."""

    def __init__(self, features: int, seed: int) -> None:
        self.draws = np.random.default_rng(seed)
        self.features = features
        self.X = np.zeros((0, features))
        self.site, self.batch = np.zeros(0, "<U20"), np.zeros(0, "<U20")
        for site in SITES:
            self.bring(site, "base", 40)

    def bring(self, site: str, batch: str, rows: int) -> "Rows":
        self.X = np.vstack([self.X, self.draws.uniform(-1, 1, (rows, self.features))])
        self.site = np.append(self.site, [site] * rows)
        self.batch = np.append(self.batch, [batch] * rows)
        return self

    def kept(self, which: np.ndarray) -> "Rows":
        self.X, self.site, self.batch = self.X[which], self.site[which], self.batch[which]
        return self

    @property
    def y(self) -> np.ndarray:
        """Of each row itself."""
        return np.asarray(self.X.sum(axis=1) > 0.2, dtype=np.int64)

    def fit(self, model: FederatedTable) -> Any:
        return model.fit(self.X, self.y, self.site)

    def update(
        self, model: FederatedTable, *sites: str, leaves: Any = False, name: str = "out", **said: Any
    ) -> Any:
        mine = np.isin(self.site, sites)
        withdrawn = np.where(np.broadcast_to(leaves, len(mine)), name, "")
        return model.update(
            self.X[mine],
            self.y[mine],
            self.site[mine],
            batch=self.batch[mine],
            withdrawn=withdrawn[mine],
            **said,
        )


def classifier(**arguments: Any) -> FederatedRidgeClassifier:
    given: dict[str, Any] = {
        "classes": range(2),
        "data_set": "base",
        "max_rows": 500,
        "aggregator": quick(),
    } | arguments
    return FederatedRidgeClassifier(column_bounds=[1.0, 1.0], **given)


def assert_same(model: Any, other: Any) -> None:
    """Bit for bit."""
    np.testing.assert_array_equal(model.weights_, other.weights_)
    np.testing.assert_array_equal(model.statistics_.gram, other.statistics_.gram)
    np.testing.assert_array_equal(model.statistics_.cross, other.statistics_.cross)
    assert model.statistics_.count == other.statistics_.count
    assert model.certificate_ == other.certificate_


changes = st.lists(
    st.tuples(
        st.booleans(), st.integers(1, 40), st.sets(st.sampled_from(SITES), min_size=1), st.integers(0, 2)
    ),
    min_size=1,
    max_size=4,
)


@pytest.mark.slow
@settings(max_examples=8)
@given(changes, st.integers(0, 2**32))
def test_after_any_changes_the_model_is_that_of_the_remaining_rows(
    made: list[tuple[bool, int, set[str], int]], seed: int
) -> None:
    rows, model = Rows(2, seed), classifier()
    rows.fit(model)
    for number, (comes, many, sites, of) in enumerate(made):
        before = rows.X, rows.site, rows.batch
        leaves = np.zeros(len(rows.X), np.bool_)
        if comes:
            for site in sorted(sites):
                rows.bring(site, f"batch {number}", many)
            leaves = np.zeros(len(rows.X), np.bool_)
        else:
            batch = sorted(set(rows.batch))[of % len(set(rows.batch))]
            for site in sites:
                leaves[np.flatnonzero((rows.site == site) & (rows.batch == batch))[:many]] = True
            if set(rows.site[~leaves]) != set(SITES):
                continue  # `fit` knows sites by their rows
        try:
            rows.update(model, *sites, leaves=leaves, name=f"out {number}", least_rows=2)
        except DataError:
            event("waits")
            rows.X, rows.site, rows.batch = before
        else:
            event("comes in" if comes else "leaves")
            rows.kept(~leaves)
    assert_same(model, rows.fit(classifier()))


def test_batches_come_in_and_leave() -> None:
    """The property above is not empty."""
    rows, model = Rows(2, 1), classifier()
    rows.fit(model)
    rows.bring("A", "december", 40).bring("C", "december", 30)
    rows.update(model, "A", "C", least_rows=2)
    assert model.statistics_ is not None
    assert model.statistics_.count == 190
    assert_same(model, rows.fit(classifier()))
    leaves = (rows.batch == "december") & (rows.site == "A")
    leaves |= (rows.site == "B") & (np.arange(len(rows.X)) % 2 == 0)
    rows.update(model, "A", "B", leaves=leaves, least_rows=2)
    rows.kept(~leaves)
    assert model.statistics_.count == 130
    assert_same(model, rows.fit(classifier()))
    scores = model.decision_function(rows.X)
    model.refit(ridge=0.5)
    assert not np.array_equal(model.decision_function(rows.X), scores)


@pytest.mark.parametrize(
    "make",
    [
        lambda: FederatedRidge(
            column_bounds=[1.0, 1.0],
            target_bounds=(-2, 2),
            max_weight=4.0,
            data_set="base",
            aggregator=quick(),
        ),
        lambda: FederatedPCA(column_bounds=[1.0, 1.0], data_set="base", aggregator=quick()),
    ],
    ids=["weights", "components"],
)
def test_other_models_change_as_well(make: Any) -> None:
    rows, model, again = Rows(2, 2), make(), make()
    weights = {"sample_weight": rows.draws.uniform(1, 4, 170)} if isinstance(model, FederatedRidge) else {}
    y = rows.draws.uniform(-2, 2, 170)
    model.fit(rows.X, y[:120], rows.site, **{name: one[:120] for name, one in weights.items()})
    rows.bring("B", "new", 50)
    mine = rows.site == "B"
    model.update(
        rows.X[mine],
        y[mine],
        rows.site[mine],
        **{name: one[mine] for name, one in weights.items()},
        batch=rows.batch[mine],
    )
    again.fit(rows.X, y, rows.site, **weights)
    np.testing.assert_array_equal(model.statistics_.gram, again.statistics_.gram)
    np.testing.assert_array_equal(model.moments_.mean, again.moments_.mean)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["bfv", "bfv+mask"])
def test_encrypted_sums_change_as_well(backend: str) -> None:
    rows, other = Rows(2, 3), classifier(aggregator=EncryptedAggregator(backend))
    rows.fit(other)
    rows.bring("B", "new", 40)
    rows.update(other, "B", least_rows=2)
    assert_same(other, rows.fit(classifier(aggregator=EncryptedAggregator(backend))))


# ---- what the difference of two sums shows ----


def read(before: Any, after: Any) -> tuple[np.ndarray, np.ndarray]:
    """What an adversary computes who has two sums: the features and the class of the row by which they differ."""
    gram = after.gram - before.gram
    sign = np.sign(gram[0, 0])
    return sign * gram[0, 1:], sign * (after.cross - before.cross)[0]


def test_a_withdrawn_row_is_read_from_the_difference_of_two_sums() -> None:
    """The weak design takes any change (least_rows=1); ours lets one row, and few rows, wait."""
    rows, model = Rows(2, 4), classifier()
    rows.fit(model)
    before = model.statistics_
    victim = np.flatnonzero(rows.site == "B")[7]
    leaves = np.arange(len(rows.X)) == victim
    for few in (leaves, np.cumsum(rows.site == "B") <= 4):
        with pytest.raises(DataError, match="expected at least 5 rows"):
            rows.update(model, "B", leaves=few & (rows.site == "B"))
    with pytest.raises(DataError, match="rows could be read from the difference"):
        rows.update(model, "B", leaves=(np.cumsum(rows.site == "B") <= 6) & (rows.site == "B"))
    assert model.statistics_ is before
    rows.update(model, "B", leaves=leaves, least_rows=1)
    features, label = read(before, model.statistics_)
    np.testing.assert_allclose(features, rows.X[victim], atol=1e-12)
    assert label.argmax() == rows.y[victim]


def test_the_last_row_of_a_batch_is_read_from_sums_that_are_not_neighbours() -> None:
    """A batch of enough rows comes in, and all but one leave: each change is large enough, both together show the row."""
    rows, model = Rows(2, 5), classifier()
    rows.fit(model)
    before = model.statistics_
    rows.bring("A", "new", 60)
    rows.update(model, "A")
    (last,) = np.flatnonzero(rows.batch == "new")[-1:]
    leaves = (rows.batch == "new") & (np.arange(len(rows.X)) != last)
    with pytest.raises(DataError, match="what stays of the batch 'new', got 1"):
        rows.update(model, "A", leaves=leaves)
    rows.update(model, "A", leaves=leaves, least_rows=1)
    np.testing.assert_allclose(read(before, model.statistics_)[0], rows.X[last], atol=1e-12)


def test_sites_that_replace_all_rows_would_leave_another_one_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the other sites replace all their rows, only A's rows of the first fit remain: here its single row."""
    rows = Rows(2, 6)
    model: Any = classifier()
    rows.kept((rows.site != "A") | (np.cumsum(rows.site == "A") == 1))
    others = [site for site in SITES if site != "A"]
    rows.fit(model)
    brought = model.statistics_
    for site in others:
        rows.bring(site, f"new {site}", 60)
        rows.update(model, site)
    new = model.statistics_.gram - brought.gram
    for site in others:
        leaves = (rows.site == site) & (rows.batch == "base")
        with pytest.raises(DataError, match="of the data set of `fit` to stay, got 0"):
            rows.update(model, site, leaves=leaves)
        with monkeypatch.context() as weak:
            weak.setattr(Change, "check", lambda *said: None)
            rows.update(model, site, leaves=leaves)
        rows.kept(~leaves)
    alone = model.statistics_.gram - new
    np.testing.assert_allclose(alone[0, 1:], rows.X[rows.site == "A"][0], atol=1e-9)


def test_rows_of_weight_0_do_not_count() -> None:
    weights = np.r_[np.ones(4), np.zeros(30)]
    columns = np.column_stack([np.ones(34), np.random.default_rng(0).uniform(-1, 1, 34)])
    rows = np.arange(34)
    change = Change("A", {"base": rows[:0]}, {"base": rows[:0]}, rows, "new")
    with pytest.raises(DataError, match="in the batch 'new', got 4"):
        change.check(columns, np.sqrt(weights), "base", 5)


def test_a_row_that_stands_out_in_its_batch_waits() -> None:
    """One of 60 rows has a value that no other has: the difference of the sums would show it, as an opened sum would."""
    rows, model = Rows(2, 6), classifier()
    rows.fit(model)
    before = model.statistics_
    rows.bring("A", "new", 60)
    rows.X[120:, 1], rows.X[130, 1] = 0.0, 1.0
    with pytest.raises(DataError, match="none stands out"):
        rows.update(model, "A")
    rows.update(model, "A", least_rows=1)
    assert before is not None
    assert model.statistics_ is not None
    gram = model.statistics_.gram - before.gram
    assert gram[2, 2] == 1.0
    np.testing.assert_allclose(gram[2, 1:], rows.X[130], atol=1e-12)


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.integers(1, 60), st.integers(1, 4))
def test_leverages_are_those_of_the_hat_matrix(seed: int, rows: int, columns: int) -> None:
    draws = np.random.default_rng(seed)
    X = draws.integers(0, 3, (rows, columns)) * 10.0 ** draws.integers(-6, 6, columns)
    found = leverages(X)
    np.testing.assert_allclose(
        found,
        np.diag(
            X
            / (abs(X).max(axis=0) + (X == 0).all(axis=0))
            @ np.linalg.pinv(X / (abs(X).max(axis=0) + (X == 0).all(axis=0)))
        ),
        atol=1e-6,
    )
    assert (leverages(np.vstack([X, draws.normal(size=(5, columns))]))[:rows] <= found + 1e-9).all()
    assert most_leverage(1) == 1.0


# ---- what is refused ----


def test_sites_that_disagree_about_least_rows_refuse_the_change() -> None:
    """The number is part of the sum's name, so a server that plans with another one asks for another sum."""
    fit, session = SumPlan("ridge statistics 1 of 1, agreed", 3, 9.0), bytes(range(32))
    plans = [change_plan(fit, session, least, 3, "a" * 36) for least in (5, 4, 999_999)]
    assert len({one.statistic for one in plans}) == 3
    assert len({one.spec(3) for one in plans}) == 3
    assert plans[0].spec(3) != change_plan(fit, session[::-1], 5, 3, "a" * 36).spec(3)


def test_a_batch_comes_in_once_and_a_withdrawal_is_made_once() -> None:
    aggregator = quick()
    rows, model = Rows(2, 7), classifier(aggregator=aggregator)
    rows.fit(model)
    rows.bring("A", "new", 60)
    rows.update(model, "A")
    leaves = rows.batch == "new"
    rows.update(model, "A", leaves=leaves, name="all of it")
    with pytest.raises(DataError, match="all rows that are in the sum"):
        rows.update(model, "A")  # the batch that left, again
    with pytest.raises(DataError, match="all rows that are in the sum"):
        rows.update(model, "A", leaves=leaves, name="once more")
    rows.kept(~leaves)
    half = (rows.site == "A") & (np.arange(len(rows.X)) % 2 == 0)
    with pytest.raises(DataError, match="expected a new name for a withdrawal, got 'all of it' again"):
        rows.update(model, "A", leaves=half, name="all of it")
    # The ledger knows the batch, whatever an estimator knows.
    used = {name: aggregator.parties.members[name][1].used("base: added new") for name in SITES}
    assert used["A"] is not None
    assert used["B"] is None
    other = classifier(data_set="other", aggregator=aggregator)
    rows.batch[:] = "other"
    rows.fit(other)
    other.data_set = "base"  # a name that would make it the same batch
    rows.bring("A", "new", 60)
    with pytest.raises(RoundAbortedError) as aborted:
        rows.update(other, "A")
    assert "'base: added new' was used in session" in "".join(aborted.value.__notes__)
    # The same rows under a name that is free.
    rows.batch[rows.batch == "new"] = "newer"
    rows.update(other, "A")


def test_what_is_no_change_of_the_sum_is_refused() -> None:
    rows, model = Rows(2, 8), classifier()
    with pytest.raises(DataError, match="expected a sum that can change"):
        rows.update(model, "A")
    rows.fit(model)
    rows.bring("A", "new", 60)
    halves = (rows.batch == "base") & (np.arange(len(rows.X)) % 2 == 0)
    with pytest.raises(
        DataError, match="A: expected one batch that comes in, or one withdrawal, got new, out"
    ):
        rows.update(model, "A", leaves=halves)
    with pytest.raises(DataError, match="withdrawals of rows that are in the sum"):
        rows.update(model, "A", leaves=rows.batch == "new")
    changed, mine = rows.X.copy(), rows.site == "A"
    changed[3] *= 0.5
    with pytest.raises(DataError, match="in that order, got 40 rows with other statistics"):
        model.update(changed[mine], rows.y[mine], rows.site[mine], batch=rows.batch[mine])
    with pytest.raises(DataError, match="do not have the columns, bounds and targets of the fit"):
        rows.update(model.set_params(max_rows=499), "A")
    model.set_params(max_rows=500)
    for said, wrong in (("batch", ["new"]), ("batch", [" new"] * 100), ("withdrawn", [1.0] * 100)):
        mine = rows.site == "A"
        given = {"batch": rows.batch[mine]} | {said: wrong}
        with pytest.raises(DataError, match=f"expected .*{said}"):
            model.update(rows.X[mine], rows.y[mine], rows.site[mine], **given)
    with pytest.raises(DataError, match="fit anew"):
        rows.kept(rows.batch == "base").update(model, "A", leaves=True)
    rows.site[rows.site == "A"] = "D"
    with pytest.raises(DataError, match=r"expected sites that are in the sum \(A, B, C\), got 'D'"):
        rows.update(model, "D")
    with pytest.raises(DataError, match="expected a sum that can change"):
        rows.update(pickle.loads(pickle.dumps(model)), "D")


def test_sums_with_noise_in_waves_or_without_units_do_not_change() -> None:
    rows = Rows(2, 9)
    encrypted = EncryptedAggregator("ckks", release="sum")
    for model in (
        classifier(privacy=Privacy(50.0, 1e-5, dropout=0.0, corrupted=0.0)),
        classifier(rounds=2),
        classifier(aggregator=encrypted),
        FederatedRidgeClassifier(
            column_bounds=[1.0, 1.0], classes=range(2), data_set="base", aggregator=quick()
        ).fit_pooled(rows.X, rows.y),
    ):
        if not hasattr(model, "weights_"):
            rows.fit(model)
        with pytest.raises(DataError, match="expected a sum that can change"):
            rows.update(model, "A")


def test_a_change_is_of_all_sites_or_none() -> None:
    """If a site were lost, nobody would know whether its rows are in; all sites can repeat the same change."""
    faults: list[Fault] = []
    aggregator = quick(network=FaultyNetwork(faults))
    rows, model = Rows(2, 10), classifier(aggregator=aggregator)
    rows.fit(model)
    before = model.weights_
    rows.bring("A", "new", 60)
    faults.append(Fault("drop", "collecting", frozenset({2})))
    with pytest.raises(RoundAbortedError) as aborted:
        rows.update(model, "A")
    assert "the model and the sum are those from before" in "".join(aborted.value.__notes__)
    assert model.weights_ is before
    faults.clear()
    with pytest.raises(RoundAbortedError):
        rows.update(model, "A")  # the ledger: a vector may have left
    with pytest.raises(PolicyError, match="may_expose"):
        aggregator.renew("base: added new")
    aggregator.renew("base: added new", may_expose=True)
    # A server that opened the sum of 60 rows and said that it failed would have the 61st.
    one_more = Rows(2, 10).bring("A", "new", 60).bring("A", "new", 1)
    with pytest.raises(
        DataError, match="A: the session of the change 'new' failed, and these are not its rows"
    ):
        one_more.update(model, "A")
    rows.update(model, "A")
    assert_same(model, rows.fit(classifier()))


def test_only_policy_says_who_may_be_asked() -> None:
    """A change is asked of as many sites as its sum had; a policy that has become stricter refuses it before anything
    leaves.
    """
    rows, model = Rows(2, 11), classifier()
    rows.fit(model)
    rows.bring("A", "new", 60)
    model.aggregator = MaskedAggregator(Policy(minimum_honest=3))
    with pytest.raises(PolicyError):
        rows.update(model, "A")
