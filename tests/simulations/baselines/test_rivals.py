"""Each analytic rival has the property that its paper claims, and tells the server what the table says."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from secure_afl.analytic.statistics import Matrix
from secure_afl.models.networks.features import sparse
from secure_afl.simulations.baselines.harness import ClientRows
from secure_afl.simulations.baselines.rivals import (
    Deep,
    Refinement,
    afl,
    deepafl,
    own_solution,
    recovered,
    refined,
    sandwiched,
)
from secure_afl.simulations.experiments.rivals import pooled

CLASSES = 3
DEEP = Deep(hidden=8, width=6, layers=3, ridge=0.1, sandwich=0.1)


def clients(sizes: Sequence[int], seed: int, features: int = 4) -> list[ClientRows]:
    """Labels follow from the rows; every client has rows of one label more than of the others."""
    rng = np.random.default_rng(seed)
    directions = np.random.default_rng(0).standard_normal((features, CLASSES))
    made = []
    for at, size in enumerate(sizes):
        X = rng.uniform(-1, 1, (size + 10, features)).astype(np.float32)
        y = (X @ directions + 0.5 * np.eye(CLASSES)[at % CLASSES]).argmax(axis=1)
        parts = (torch.from_numpy(X), torch.from_numpy(y))
        made.append(
            ClientRows(f"client-{at}", *(part[:size] for part in parts), *(part[size:] for part in parts))
        )
    return made


def together(found: Sequence[ClientRows]) -> tuple[Matrix, Matrix]:
    (one,) = pooled(found)
    X = np.column_stack([np.ones(len(one.y)), one.X.double().numpy()])
    return X, np.eye(CLASSES)[one.y.numpy()]


SIZES = st.lists(st.integers(1, 30), min_size=2, max_size=5)


@given(SIZES, st.integers(0, 99), st.floats(0.01, 10))
def test_afl_is_the_joint_ridge_on_the_pooled_rows(sizes: list[int], seed: int, gamma: float) -> None:
    found = clients(sizes, seed)
    X, Y = together(found)
    alpha = 0.1 * (X * X).sum() / X.shape[1]
    expected = Ridge(alpha=alpha, fit_intercept=False, solver="cholesky").fit(X, Y).coef_.T
    np.testing.assert_allclose(afl("afl", found, CLASSES, 0.1, gamma).weights, expected, atol=1e-8)


def test_afl_in_one_pass_is_its_law_applied_to_one_client_after_another() -> None:
    """The law as published, for two solutions (W_u, C_u) and (W_v, C_v), and its removal of the clients' γ."""
    gamma, uploads = 1.0, [own_solution(client, CLASSES, 1.0) for client in clients([9, 4, 17], 1)]
    W, C = uploads[0]
    one = np.eye(len(C))
    for own, regularised in uploads[1:]:
        R, S, both = np.linalg.inv(C), np.linalg.inv(regularised), np.linalg.inv(C + regularised)
        W = (one - R @ regularised + R @ regularised @ both @ regularised) @ W + (
            one - S @ C + S @ C @ both @ C
        ) @ own
        C = C + regularised
    W = W + gamma * len(uploads) * np.linalg.inv(C - gamma * len(uploads) * one) @ W
    np.testing.assert_allclose(recovered(uploads, gamma, 0.0), W, atol=1e-8)


def test_an_afl_upload_tells_the_server_how_many_rows_of_each_label_a_client_has() -> None:
    for client in clients([9, 4, 17], 2):
        own, regularised = own_solution(client, CLASSES, 1.0)
        counts = (regularised @ own)[0]  # the column of ones
        np.testing.assert_allclose(counts, np.bincount(client.y.numpy(), minlength=CLASSES), atol=1e-9)


@given(st.integers(0, 99))
def test_safles_sum_of_looked_up_embeddings_is_afl_on_sparse_codes(seed: int) -> None:
    """One row of each group's table is looked up, and the rows are added: the linear head of 0/1 codes."""
    groups, bits = 3, 2
    plain = clients([20, 20], seed)

    def coded(X: torch.Tensor) -> torch.Tensor:
        return sparse(X.double(), groups, bits, 2, -1.0, 1.0, 0).float()

    found = [ClientRows(one.name, coded(one.X), one.y, coded(one.X_test), one.y_test) for one in plain]
    weights = afl("safle", found, CLASSES, 0.1).weights
    tables = weights[1:].reshape(groups, 2**bits, CLASSES)
    codes = found[0].X_test.numpy().reshape(-1, groups, 2**bits)
    assert (codes.sum(axis=2) == 1).all()
    looked_up = weights[0] + sum(tables[g, codes[:, g].argmax(axis=1)] for g in range(groups))
    scores = np.column_stack([np.ones(len(codes)), found[0].X_test.numpy()]) @ weights
    np.testing.assert_allclose(looked_up, scores, atol=1e-12)


@given(SIZES, st.integers(0, 99))
def test_deepafl_does_not_depend_on_how_rows_are_divided(sizes: list[int], seed: int) -> None:
    found = clients(sizes, seed)
    (apart,), (joint,) = (deepafl("deepafl", rows, CLASSES, DEEP, seed) for rows in (found, pooled(found)))
    np.testing.assert_allclose(apart.weights, joint.weights, atol=1e-8)
    assert apart.history.accuracy == joint.history.accuracy


@given(st.integers(0, 999), st.floats(0.01, 10))
def test_a_deepafl_layer_minimises_what_the_classifier_leaves(seed: int, ridge: float) -> None:
    """The gradient of ‖R − FΔW‖² + ridge‖Δ‖² vanishes; that layer lowers the residual."""
    rng = np.random.default_rng(seed)
    F, W, R = (rng.standard_normal(shape) for shape in ((30, 6), (5, CLASSES), (30, CLASSES)))
    delta = sandwiched(F.T @ F, F.T @ R, W, ridge)
    np.testing.assert_allclose(F.T @ (R - F @ delta @ W) @ W.T, ridge * delta, atol=1e-9)
    assert ((R - F @ delta @ W) ** 2).sum() < (R**2).sum()


def test_deepafl_reports_each_depth_with_its_sums() -> None:
    found = deepafl("deepafl", clients([40, 30, 20], 3), CLASSES, DEEP, 0, depths=(0, 2))
    assert [one.history.method for one in found] == [f"deepafl, {layers} layers" for layers in (0, 2, 3)]
    assert [one.history.points[-1].round for one in found] == [1, 5, 7]
    assert [len(one.history.points) for one in found] == [1, 1, 1]
    # A classifier's sum is of 8 · 9/2 + 8 · 3 values, a layer's of 6 · 7/2 + 6 · 3.
    assert [one.history.points[-1].bytes_up for one in found] == [
        8 * (60 + layers * (60 + 39)) for layers in (0, 2, 3)
    ]


@pytest.mark.slow
def test_deepafl_under_masks_is_deepafl() -> None:
    found = clients([40, 30, 20, 25], 4)
    (plain,), (masked,) = (deepafl("deepafl", found, CLASSES, DEEP, 0, masked=m) for m in (False, True))
    np.testing.assert_allclose(masked.weights, plain.weights, atol=1e-4)
    assert (masked.history.trips, masked.history.first_trips) == (3, 3)


def test_apfls_second_stream_is_ridge_on_what_the_first_one_leaves() -> None:
    """And it adds nothing with weight 0, nor depends on what rows other clients hold."""
    found = clients([40, 30, 20], 5)
    common = afl("afl", found, CLASSES, 0.1)
    settings = Refinement(width=50, ridge=0.1, weight=1.0)
    assert refined(common.weights, found, Refinement(50, 0.1, 0.0), 0)[0] == common.history.accuracy
    draws = np.random.default_rng(0).uniform(-1, 1, (5, 50)) / 2
    right = []
    for client in found:
        X, X_test = (
            np.column_stack([np.ones(len(rows)), rows.double().numpy()]) for rows in (client.X, client.X_test)
        )
        F, F_test = (np.maximum(rows[:, 1:] @ draws[1:] + draws[0], 0) for rows in (X, X_test))
        left = np.eye(CLASSES)[client.y.numpy()] - X @ common.weights
        alpha = settings.ridge * (F * F).sum() / len(F)
        stream = Ridge(alpha=alpha, fit_intercept=False).fit(F, left)
        scores = X_test @ common.weights + stream.predict(F_test)
        right.append((scores.argmax(axis=1) == client.y_test.numpy()).mean())
        alone = refined(common.weights, [client], settings, 0)[0]
        assert alone == pytest.approx(right[-1])
    assert refined(common.weights, found, settings, 0)[0] == pytest.approx(np.mean(right))
