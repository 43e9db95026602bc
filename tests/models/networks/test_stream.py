"""A client's second stream: chosen by its own leave-one-out errors, learns what no linear head can, and sends nothing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import rbf_kernel
from worlds.cohorts import Tap

from secure_afl.errors import DataError
from secure_afl.models.networks import stream
from secure_afl.models.networks.network import Fourier, Network
from secure_afl.models.networks.pfedacnnl import PFedACnnL
from secure_afl.models.networks.stream import beside, refined_head
from secure_afl.models.personal_head import own_head
from secure_afl.protocol.session.policy import Policy
from secure_afl.sums.aggregation import MaskedAggregator, PlainAggregator

PLAIN = Policy(backends=frozenset({"plain"}))
LINEAR = Network((2,), (), 2)


def quarters(n: int, seed: int, sites: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points in a square whose label is that of their quarter, alternating: no line parts them."""
    draws = np.random.default_rng(seed)
    X = draws.uniform(-1, 1, (sites * n, 2))
    return X, (X[:, 0] * X[:, 1] > 0).astype(np.int64), np.repeat(np.arange(sites), n)


@settings(max_examples=8)
@given(st.integers(4, 30), st.integers(1, 5), st.integers(1, 3), st.integers(0, 2**32))
def test_a_stream_is_never_worse_by_the_clients_own_score(n: int, d: int, classes: int, seed: int) -> None:
    draws = np.random.default_rng(seed)
    labels = draws.integers(0, classes, n)
    rows = np.column_stack([np.ones(n), draws.normal(size=(n, d)) + labels[:, None]])
    anchor, targets = draws.normal(size=(d + 1, 3)), np.eye(3)[labels]
    without = own_head(rows, targets, anchor, labels)
    found, cosines = refined_head(rows, targets, anchor, labels)
    assert found.error <= without.error
    if cosines is None:
        assert np.array_equal(found.weights, without.weights)
    else:  # its score is that of the head on these very inputs
        padded = np.vstack([anchor, np.zeros((cosines.units, 3))])
        again = own_head(beside(rows, cosines), targets, padded, labels)
        assert np.array_equal(found.weights, again.weights)
        assert found.error == again.error


def test_products_of_cosines_are_those_of_a_gaussian_kernel() -> None:
    rows = np.column_stack([np.ones(20), np.random.default_rng(0).uniform(-1, 1, (20, 5))])
    cosines = beside(rows, Fourier(stream.UNITS, 1.5))[:, 6:]
    theirs = rbf_kernel(rows[:, 1:], gamma=1 / (2 * 1.5**2))
    np.testing.assert_allclose(2 * cosines @ cosines.T / stream.UNITS, theirs, atol=0.1)


def test_a_refined_client_learns_what_no_linear_head_can() -> None:
    rows, fresh = quarters(80, 0, 4), quarters(200, 1, 4)
    right = {
        refine: PFedACnnL(LINEAR, refine=refine, max_rows=80, aggregator=PlainAggregator(PLAIN))
        .fit(*rows)
        .predict(fresh[0], fresh[2])
        == fresh[1]
        for refine in (False, True)
    }
    assert right[False].mean() < 0.75
    assert right[True].mean() > 0.9


def test_nothing_is_sent_for_a_stream() -> None:
    """The same frames, and the same common network, with it and without."""
    models, sent = [], []
    for refine in (False, True):
        tap = Tap()
        models.append(
            PFedACnnL(LINEAR, refine=refine, max_rows=80, aggregator=MaskedAggregator(network=tap)).fit(
                *quarters(80, 2, 5)
            )
        )
        sent.append([(one.phase, one.client) for one in tap.seen])
    assert sent[0] == sent[1]
    assert np.array_equal(models[0].weights_[-1], models[1].weights_[-1])
    assert any(own.stream for own in models[1].personal_.values())
    assert not any(own.stream for own in models[0].personal_.values())


def test_rows_that_are_many_equal_or_wide_or_of_one_label_have_no_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    X, y, _ = quarters(30, 3)
    rows = np.column_stack([np.ones(30), X])
    given_ = np.eye(2)[y], np.zeros((3, 2)), y
    assert refined_head(rows, *given_)[1] is not None
    assert refined_head(np.ones((30, 3)), *given_)[1] is None
    assert refined_head(rows, np.eye(2)[0 * y], np.zeros((3, 2)), 0 * y)[1] is None
    monkeypatch.setattr(stream, "_WIDEST", 2)
    assert refined_head(rows, *given_)[1] is None
    monkeypatch.undo()
    monkeypatch.setattr(stream, "_MOST", 1.0)
    assert refined_head(rows, *given_)[1] is None


def test_refine_is_yes_or_no() -> None:
    with pytest.raises(DataError, match="refine as True or False, got 1"):
        PFedACnnL(LINEAR, refine=1, aggregator=PlainAggregator(PLAIN)).fit(*quarters(20, 0, 4))  # type: ignore[arg-type]
