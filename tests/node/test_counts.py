"""A first sum of counts, without which no site gives anything to the sums that follow."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from worlds.coded import FLAGS, INSIDE, Coded, flag_table
from worlds.folders import Post

from secure_afl.errors import DataError, DropoutWarning
from secure_afl.models.ridge import FederatedRidgeClassifier
from secure_afl.node import study as study_file
from secure_afl.node.site import Folder, kept
from secure_afl.node.study import RidgeStudy, Study
from secure_afl.protocol.session.errors import FileError, PolicyError, RoundAbortedError
from secure_afl.sums.counted import Counted, Counts
from secure_afl.sums.remote import Elsewhere, RemoteMaskedAggregator
from secure_afl.tables.terms import row_norm

SIX = 1 + 5  # columns of `FLAGS`, ones included


def hospitals(folder: Path, rows_per_column: int) -> Coded:
    return Coded(folder / "here", flag_table(folder), FLAGS, also=f"rows_per_column = {rows_per_column}\n")


def opened(post: Post, parties: Coded) -> tuple[RemoteMaskedAggregator, Study]:
    terms, study = Folder(parties.server).terms()
    return RemoteMaskedAggregator(Elsewhere(terms.parties, post.carrier), terms.policy), study


def test_with_enough_rows_the_model_is_that_without_counts(tmp_path: Path) -> None:
    parties = hospitals(tmp_path, 84 // SIX)
    there = parties.deployed()
    assert np.array_equal(there.weights_, parties.here().weights_)
    for folder in parties.folders:
        counts, weights = kept(folder, "model.npz")
        assert counts.tolist() == [[84, 42, 42]]
        assert np.array_equal(weights, there.weights_)
        assert (folder / "model.safetensors").exists()


def test_balanced_classes_are_those_of_the_pooled_rows(tmp_path: Path) -> None:
    """Each site weighs its rows by the sum of counts that it checked; scikit-learn counts the pooled rows."""
    table = flag_table(tmp_path)
    head, *lines = table.read_text().splitlines()
    ill = [at for at, line in enumerate(lines) if line.endswith("yes")]
    kept = [line for at, line in enumerate(lines) if at not in ill[: len(ill) // 2]]
    table.write_text("\n".join([head, *kept]) + "\n")
    book = f"least_rows = 1\n{FLAGS}"
    parties = Coded(tmp_path / "here", table, book, model='[ridge]\nclass_weight = "balanced"\n')
    there, study = parties.deployed(), Folder(parties.server).terms()[1]
    X, y, *_ = parties.contributed(study)
    reference = FederatedRidgeClassifier(
        row_norm(parties.book), class_weight="balanced", classes=study.classes
    )
    np.testing.assert_allclose(there.weights_, reference.fit_pooled(X, y).weights_, rtol=0, atol=1e-6)
    plain = FederatedRidgeClassifier(row_norm(parties.book), classes=study.classes).fit_pooled(X, y)
    assert abs(there.weights_ - plain.weights_).max() > 1e-2


@pytest.mark.parametrize("weak", [True, False])
def test_a_rare_class_that_weighs_more_is_not_read_from_a_level_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weak: bool
) -> None:
    """Weak design: six rows have the level, and five of them belong to a class of weight 1/100, so the sum shows the sixth
    row.
    """
    if weak:
        monkeypatch.setattr(RidgeStudy, "weighs_classes", False)
    lines = [f"s{at % 3},{at % 50},{at // 3 % 2},{at // 6 % 2},0,no" for at in range(1800)]
    lines += [f"s{at % 3},{at % 50},{at // 3 % 2},{at // 6 % 2},0,yes" for at in range(18)]
    lines += ["s1,40,0,0,1,no"] * 2 + ["s1,30,0,1,1,no"] * 3 + ["s1,45,1,1,1,yes"]
    (tmp_path / "rows.csv").write_text("\n".join(["site,age,a,b,c,sick", *lines]) + "\n")
    book = FLAGS.replace('products = [["a", "b", "c"]]\n', "")
    parties = Coded(
        tmp_path / "here", tmp_path / "rows.csv", book, model='[ridge]\nclass_weight = "balanced"\n'
    )
    found = parties.deployed().statistics_
    of_c = np.rint([*found.gram[-1], *found.cross[-1]])
    if weak:
        assert of_c[2:].tolist() == [1, 1, 1, 0, 1]  # a, b, c and the class of the row
    else:
        assert not of_c.any()  # the site has coded the level as the common one


class Blind(Counts):
    """Of a server that goes on whatever was counted."""

    def check(self, counts: np.ndarray) -> None:
        pass


@dataclass
class Lying:
    """An aggregator of a server that announces other counts than came out, or none."""

    inner: RemoteMaskedAggregator
    announced: Sequence[float] | None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def tell(self, model: bytes, to: Sequence[str]) -> None:
        if self.announced is not None:
            self.inner.tell(np.array(self.announced, "<f8").tobytes(), to)


@pytest.mark.parametrize(
    ("announced", "said"),
    [
        ([84, 42, 42], "at least 90 pooled rows"),
        ([100, 96, 4], "at least 5 pooled rows of the class 'yes'"),
        (None, "the server announced none"),
        ([100, 42, 42], "the server announced none"),  # no counts, so not taken
        ([100, 50, 50], "sum 0 as this party accepted it, the server announced another"),
    ],
)
def test_clients_refuse_a_sum_over_too_few_rows_whatever_the_server_wants(
    announced: Sequence[float] | None, said: str, tmp_path: Path
) -> None:
    """If only the server checked the counts, a server that ignores them would open a Gram matrix of too few rows."""
    parties = hospitals(tmp_path, 15)
    post = Post(parties)
    aggregator, study = opened(post, parties)
    assert study.counts
    blind = Blind(*(getattr(study.counts, one.name) for one in fields(Counts)))
    lying: Any = Lying(aggregator, announced)
    estimator: Any = study.estimator(Counted(lying, blind))
    with pytest.raises(RoundAbortedError):
        estimator.fit_elsewhere(parties.names, study.features)
    assert sum(said in str(one) for one in post.refusals) == 3


def test_a_server_gives_up_where_clients_would_refuse(tmp_path: Path) -> None:
    parties = hospitals(tmp_path, 15)
    post = Post(parties)
    aggregator, study = opened(post, parties)
    with pytest.raises(PolicyError, match=r"at least 90 pooled rows, .* counts 84: nothing more leaves"):
        study.learn(aggregator, parties.names)
    assert not post.refusals


def test_the_sums_are_over_the_survivors_that_were_counted(tmp_path: Path) -> None:
    """Otherwise the count could include a site that is left out of the sum which the count allowed."""
    table = flag_table(tmp_path, sites=5)
    counting, summing = 3, 8  # phases in which clients upload
    for phase, survivors in ((counting, 4), (summing, 0)):
        parties = Coded(tmp_path / str(phase), table, FLAGS, also="rows_per_column = 1\n")
        post = Post(parties, {(phase, 0)})
        aggregator, study = opened(post, parties)
        if not survivors:
            with pytest.raises(RoundAbortedError):
                study.learn(aggregator, parties.names)
            assert sum("survivors of the sums before" in str(one) for one in post.refusals) == 4
            continue
        with pytest.warns(DropoutWarning):
            (counts, _), fitted = study.learn(aggregator, parties.names)
        (one,) = fitted.rounds_
        assert len(one.survivors) == survivors
        assert counts[0, 0] == 84 - 16


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("rows_per_column = -1\n[ridge]\n", "expected rows_per_column of 0"),
        ("rows_per_column = 10\n[ridge]\nrounds = 2\n", "one a study, got it with"),
        (
            '[ridge]\nclass_weight = "balanced"\nrounds = 2\n',
            "expected class_weight with sums that are exact",
        ),
        ('[ridge]\nclass_weight = "even"\n', "Invalid enum value 'even'"),
        (
            "rows_per_column = 10\n[ridge]\n[privacy]\nepsilon = 1.0\ndelta = 1e-6\n",
            r"exact, opened .* with \[privacy\]",
        ),
    ],
)
def test_studies_that_cannot_count_are_refused(lines: str, message: str) -> None:
    with pytest.raises(FileError, match=message):
        study_file.parse(f'backend = "mask"\nmax_rows = 100\n{lines}[codebook]\n{INSIDE}')


@pytest.mark.parametrize(
    "counts", [[5.0, 2, 2], [5.0, -1, 6], [4.5, 2, 2.5], [float("nan"), 1, 1], [float("inf")] * 3]
)
def test_what_is_no_count_is_refused(counts: list[float]) -> None:
    with pytest.raises(DataError, match="expected counts"):
        Counts(1, 1, ("no", "yes"), 100).check(np.array(counts))
