"""Networks as data, and arithmetic without rounding."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from worlds.rounding import half_a_unit

from secure_afl.analytic.statistics import SufficientStatistics
from secure_afl.errors import DataError, SolveError
from secure_afl.models.networks.encoder import Encoder
from secure_afl.models.networks.encoders import coded, codes, filters, moments, seeded
from secure_afl.models.networks.features import normalised
from secure_afl.models.networks.grid import check_on_grid, on_weight_grid, to_grid, uniform
from secure_afl.models.networks.network import (
    AvgPool,
    Conv,
    Dense,
    Flatten,
    Layer,
    MaxPool,
    Network,
    ReLU,
    Trained,
    Widen,
    apply_fixed,
    apply_trained,
    patches,
)

torch.set_num_threads(1)  # small tensors: handing over to a second thread costs more than it gives
SEED = bytes(31) + b"\7"


def test_shapes_limits_and_the_head_are_known_beforehand() -> None:
    layers = (Conv(4, 3, stride=2, padding=1), ReLU(2.0), MaxPool(2), Conv(5, 2), ReLU(), AvgPool(2))
    network = Network((3, 16, 12), layers, 7)
    first, second, head = network.trained
    assert (first.inputs, first.positions, first.outputs, first.limit) == (27, 48, 4, 1.0)
    assert (second.shape, second.inputs, second.positions, second.limit) == ((4, 4, 3), 16, 6, 2.0)
    assert (head.layer, head.inputs, head.positions, head.limit) == (Dense(7), 5, 1, 6.0)
    assert network.steps[-2:] == (Flatten(), Dense(7))
    flat = Network((9,), (Dense(4), ReLU()), 2)
    assert [known.inputs for known in flat.trained] == [9, 4]


@pytest.mark.parametrize(
    ("shape", "layers", "what"),
    [
        ((1, 8, 8), (Conv(4, 9),), "does not fit"),
        ((1, 8, 8), (Dense(4),), "does not fit"),
        ((8,), (Conv(4, 3),), "does not fit"),
        ((1, 8, 8), (MaxPool(9),), "does not fit"),
        ((1, 8, 8), (Conv(0, 3),), "does not fit"),
        ((1, 8, 8), (ReLU(0.0),), "does not fit"),
        ((1, 8, 8), (Conv(4, 3), Conv(4, 3)), "a ReLU must bound"),
        ((1, 8, 8), (Conv(4, 3),), "does not fit|a ReLU must bound"),
        ((8, 8), (), "input shape"),
        ((0,), (), "input shape"),
    ],
)
def test_layers_that_do_not_fit_are_refused(
    shape: tuple[int, ...], layers: tuple[Layer, ...], what: str
) -> None:
    with pytest.raises(DataError, match=what):
        Network(shape, layers, 3)


@settings(max_examples=50)
@given(st.integers(1, 40), st.integers(1, 5), st.floats(1e-6, 1e6), st.integers(0, 2**32), st.integers(1, 64))
def test_sums_with_weights_on_the_grid_are_exact(
    inputs: int, outputs: int, scale: float, seed: int, limit: int
) -> None:
    draws = np.random.default_rng(seed)
    weights = draws.normal(size=(inputs + 1, outputs)) * scale
    grid = on_weight_grid(weights, limit)
    assert np.abs(grid - weights).max() <= half_a_unit(weights, limit)
    x = to_grid(torch.tensor(draws.uniform(-limit, limit, (6, inputs))))
    known = Trained(0, Dense(outputs), (inputs,), inputs, 1, outputs, float(limit))
    scores = apply_trained(x, known, torch.tensor(grid))
    order = draws.permutation(inputs)
    other = apply_trained(x[:, order], known, torch.tensor(np.vstack([grid[:1], grid[1:][order]])))
    assert torch.equal(scores, other)  # any order of summation
    for row, got in zip(x.tolist(), scores.tolist(), strict=True):
        for column, value in zip(grid.T.tolist(), got, strict=True):
            terms = zip([1.0, *row], column, strict=True)
            assert Fraction(value) == sum(Fraction(h) * Fraction(w) for h, w in terms)


@pytest.mark.parametrize("weights", [np.full((2, 2), np.nan), np.full((2, 2), 1e12)])
def test_weights_without_a_grid_are_refused(weights: np.ndarray) -> None:
    with pytest.raises(SolveError, match="too large"):
        on_weight_grid(weights, 1.0)


@settings(max_examples=30)
@given(st.integers(2, 7), st.integers(1, 3), st.integers(0, 2**32))
def test_layers_without_weights_stay_on_the_grid_and_within_the_limit(
    side: int, size: int, seed: int
) -> None:
    values = torch.tensor(np.random.default_rng(seed).normal(size=(2, 3, side * size, side * size)) * 10)
    rectified = apply_fixed(values, ReLU(6.0))
    for out in (rectified, apply_fixed(rectified, MaxPool(size)), apply_fixed(rectified, AvgPool(size))):
        assert torch.equal(out * 1024, torch.round(out * 1024))
        assert 0 <= float(out.min()) <= float(out.max()) <= 6
    exact = rectified.numpy().reshape(2, 3, side, size, side, size).mean(axis=(3, 5))
    assert np.abs(apply_fixed(rectified, AvgPool(size)).numpy() - exact).max() <= 2.0**-11 + 1e-12


class CudaDivision(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Divides by a number as CUDA's kernel does: multiplies by 1/number."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten.div.Tensor and not isinstance(args[1], torch.Tensor):
            return args[0] * (1 / args[1])
        return function(*args, **kwargs or {})


@pytest.mark.slow
def test_a_device_that_divides_otherwise_rounds_alike() -> None:
    """Means halfway between two numbers of the grid: the last bit of a quotient decides."""
    side = 14
    units = torch.arange(side**2 // 2, 6000 * side**2, side**2)
    pixels = (units // side**2)[:, None].repeat(1, side**2)
    pixels[:, 0] += units % side**2
    values = (pixels / 1024).to(torch.float64).reshape(-1, 1, side, side)
    patterns = values[:50].reshape(50, -1)[:, :9]
    with CudaDivision():  # type: ignore[no-untyped-call]
        assert not torch.equal(to_grid(values.sum(dim=(2, 3)) / side**2), to_grid(values.mean(dim=(2, 3))))
        pooled, contrasts = apply_fixed(values, AvgPool(side)), normalised(patterns)
    assert torch.equal(pooled, apply_fixed(values, AvgPool(side)))
    assert torch.equal(contrasts, normalised(patterns))


def test_a_convolution_is_a_convolution() -> None:
    draws = np.random.default_rng(0)
    known = Network((2, 9, 7), (Conv(4, 3, stride=2, padding=1), ReLU()), 3).trained[0]
    weights = draws.normal(size=(19, 4))
    x = torch.tensor(draws.uniform(-1, 1, (5, 2, 9, 7)))
    kernel = torch.tensor(weights[1:].T.reshape(4, 2, 3, 3).copy())
    expected = torch.nn.functional.conv2d(x, kernel, torch.tensor(weights[0]), stride=2, padding=1)
    torch.testing.assert_close(apply_trained(x, known, torch.tensor(weights)), expected)


@given(
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 2),
    st.integers(0, 3),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_a_convolution_scores_its_patches_bit_for_bit(
    channels: int, kernel: int, stride: int, padding: int, contrast: bool, seed: int
) -> None:
    """Although it sums over windows instead of normalising each patch."""
    draws = np.random.default_rng(seed)
    layer = Conv(5, kernel, stride, padding, contrast)
    known = Network((channels, 6, 5), (layer, ReLU()), 3).trained[0]
    x = to_grid(
        torch.tensor(draws.uniform(-1, 1, (4, channels, 6, 5)) * draws.choice([0.0, 0.01, 1.0], (4, 1, 1, 1)))
    )
    weights = torch.tensor(on_weight_grid(draws.normal(size=(1 + known.inputs, 5)), known.limit))
    scores = patches(x, layer) @ weights[1:] + weights[0]
    got = apply_trained(x, known, weights)
    assert torch.equal(got.permute(0, 2, 3, 1).reshape(-1, 5), scores)


@given(st.sampled_from(Encoder), st.integers(2, 6), st.integers(0, 3))
def test_codes_split_the_classes_and_are_made_alike_by_everybody(
    encoder: Encoder, classes: int, padding: int
) -> None:
    known = Network((1, 6, 6), (Conv(6, 3, padding=padding), ReLU()), classes).trained[0]
    made = codes(encoder, known, classes, SEED)
    assert made.shape == (classes, known.positions, coded(encoder, known, classes))
    half = classes // 2
    assert ((made == 1).sum(axis=0) == half).all()
    assert ((made == -1).sum(axis=0) == half).all()
    assert ((made == 0).sum(axis=0) == classes - 2 * half).all()
    assert np.array_equal(made, codes(encoder, known, classes, SEED))
    if made.size > 100:
        assert not np.array_equal(made, codes(encoder, known, classes, bytes(32)))
    if encoder is Encoder.REPLICATED:
        assert (made == made[:, :1]).all()


@given(st.sampled_from([Encoder.CLASSWISE, Encoder.SPATIAL, Encoder.MIXED]), st.integers(2, 5))
def test_no_more_channels_are_trained_than_labels_can_tell_apart(encoder: Encoder, classes: int) -> None:
    known = Network((9,), (Dense(40), ReLU()), classes).trained[0]
    made = codes(encoder, known, classes, SEED)
    assert made.shape[2] == classes - 1


@pytest.mark.parametrize("encoder", [one for one in Encoder if one is not Encoder.SEEDED])
def test_every_channel_has_unit_variance(encoder: Encoder) -> None:
    draws = np.random.default_rng(1)
    known = Network((1, 8, 8), (Conv(10, 3), ReLU()), 3).trained[0]
    rows = draws.normal(size=(500, 9)) @ draws.normal(size=(9, 9)) + 3
    X = np.column_stack([np.ones(500), rows])
    cross = X.T @ draws.choice([-1.0, 1.0], (500, coded(encoder, known, 3)))
    gram = X.T @ X
    statistics = SufficientStatistics((gram + gram.T) / 2, cross, 500)
    weights, _ = filters(encoder, known, statistics, 1e-6, 0)
    assert weights.shape == (10, 10)
    out = X @ weights
    np.testing.assert_allclose(out.std(axis=0), 1.0, rtol=1e-6)
    if coded(encoder, known, 3) == 0:
        np.testing.assert_allclose(out.mean(axis=0), 0.0, atol=1e-8)
    mean, covariance = moments(statistics)
    np.testing.assert_allclose(mean, rows.mean(axis=0))
    np.testing.assert_allclose(covariance, np.cov(rows.T, bias=True), atol=1e-9)


def test_classwise_filters_are_half_whitened_sums_over_classes() -> None:
    """Against the definition, on rows: S^(−½)·Σ_c code_c·(rows of class c less the mean), constants left out."""
    draws = np.random.default_rng(2)
    known = Network((2, 3, 3), (Conv(4, 2), ReLU()), 3).trained[0]
    labels = draws.integers(0, 3, 200)
    rows = draws.normal(size=(3, 8))[labels] + draws.normal(size=(200, 8))
    targets = np.array([[1.0, 1, 0, -1], [-1, 0, 1, 1], [0, -1, -1, 1]])[labels]
    X = np.column_stack([np.ones(200), rows])
    gram = X.T @ X
    made, _ = filters(
        Encoder.CLASSWISE, known, SufficientStatistics((gram + gram.T) / 2, X.T @ targets, 200), 1e-3, 0
    )
    shapes = rows.reshape(200, 2, 4)
    shapes = (shapes - shapes.mean(axis=2, keepdims=True)).reshape(200, 8)
    centred = shapes - shapes.mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred / 200)
    root = (vectors / np.sqrt(values.clip(0) + 0.1 * values.mean())) @ vectors.T
    expected = root @ (centred.T @ targets)
    expected = (expected.reshape(2, 4, 4) - expected.reshape(2, 4, 4).mean(axis=1, keepdims=True)).reshape(
        8, 4
    )
    np.testing.assert_allclose(made[1:] * (rows @ made[1:]).std(axis=0), made[1:], rtol=1e-9)
    np.testing.assert_allclose(made[1:], expected / (rows @ expected).std(axis=0), atol=1e-9)
    assert not made[0].any()


@given(st.integers(1, 40), st.integers(0, 2**32), st.sampled_from([1.0, 6.0, 64.0]))
def test_normalised_rows_are_centred_bounded_and_exact(width: int, seed: int, limit: float) -> None:
    draws = np.random.default_rng(seed)
    rows = to_grid(torch.tensor(draws.uniform(-limit, limit, (6, width)) * draws.choice([0.01, 1.0], (6, 1))))
    out = normalised(rows)
    assert torch.equal(out * 1024, torch.round(out * 1024))
    assert float(out.abs().max()) <= 1
    for row, mine in zip(rows.tolist(), out.tolist(), strict=True):
        mean = sum(map(Fraction, row)) / width
        square = float(sum((Fraction(value) - mean) ** 2 for value in row))
        for value, got in zip(row, mine, strict=True):
            assert abs(got - float(Fraction(value) - mean) / np.sqrt(square + 0.1)) <= 2.0**-11 + 1e-12
    order = draws.permutation(width)
    assert torch.equal(normalised(rows[:, order]), out[:, order])  # any order of the sums


def test_random_features_follow_what_they_widen() -> None:
    network = Network((5,), (Widen(300, seed=3), Dense(4), ReLU()), 2)
    assert network.trained[0].inputs == 305
    assert network.trained[0].limit == 6.0
    rows = to_grid(torch.tensor(np.random.default_rng(0).uniform(-1, 1, (9, 5))))
    out = apply_fixed(rows, network.steps[0])
    assert torch.equal(out[:, :5], rows)
    assert torch.equal(out * 1024, torch.round(out * 1024))
    assert 0 <= float(out[:, 5:].min()) < float(out[:, 5:].max()) <= 6
    assert torch.equal(out, apply_fixed(rows, Widen(300, seed=3)))
    assert not torch.equal(out, apply_fixed(rows, Widen(300, seed=4)))
    for layers in ((Dense(4), Widen(3)), (Widen(0),)):
        with pytest.raises(DataError):
            Network((5,), layers, 2)


@given(
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(1, 6),
    st.booleans(),
    st.binary(min_size=32, max_size=32),
)
@example(5, 3, 6, True, bytes(31) + b"\x34")  # a mean of 1.9e-11
def test_seeded_filters_are_alike_for_everybody_centred_and_of_one_norm(
    kernel: int, channels: int, outputs: int, contrast: bool, seed: bytes
) -> None:
    """Centred but for rounding to the weights' grid."""
    layer = Conv(outputs, kernel, contrast=contrast)
    known = Network((channels, 7, 7), (layer, ReLU()), 3).trained[0]
    weights = seeded(known, seed)
    assert weights.shape == (1 + known.inputs, outputs)
    assert weights.tobytes() == seeded(known, seed).tobytes()
    if known.inputs > 1:
        assert weights.tobytes() != seeded(known, bytes(byte ^ 1 for byte in seed)).tobytes()
    gain = 2.0 if contrast else 2.0 / np.sqrt(known.inputs)
    np.testing.assert_allclose(np.sqrt((weights[1:] ** 2).mean(axis=0)), gain)
    assert not weights[0].any()
    if kernel > 1:
        means = weights[1:].reshape(channels, kernel**2, outputs).mean(axis=1)
        np.testing.assert_allclose(means, 0, atol=half_a_unit(weights, known.limit))


@given(
    st.lists(st.integers(-(2**44), 2**44), min_size=1, max_size=9),
    st.integers(0, 60),
    st.floats(0.1, 64.0),
)
@example([0], 57, 33.0)  # finer than the finest grid for that limit
def test_weights_that_are_on_the_grid_are_exact(units: list[int], bits: int, limit: float) -> None:
    """Tiny weights, too, have no finer grid than 2⁻⁶²·max(limit, 1), which is 2⁻⁵⁶ here."""
    units = [*units, 1]  # so that no fewer bits do
    weights = np.ldexp(np.array(units, np.float64)[:, None], -bits)
    largest = max(limit, 1.0) * sum(map(abs, units)) * 2**10  # |Σ h·w| in units of 2^-(10 + bits)
    if largest <= 2**51 and np.abs(weights).sum() <= 2**30 and bits <= 56:
        check_on_grid(weights, limit)
    elif largest >= 2**53:
        with pytest.raises(DataError, match=r"on the grid|too large"):
            check_on_grid(weights, limit)


@given(
    st.lists(
        st.floats(-(2.0**26), 2.0**26) | st.sampled_from([2.0**20, 1 - 2.0**-53]), min_size=1, max_size=9
    ),
    st.floats(0.1, 64.0),
)
def test_what_was_put_on_the_grid_is_on_it(weights: list[float], limit: float) -> None:
    check_on_grid(on_weight_grid(np.array(weights)[:, None], limit), limit)


@pytest.mark.parametrize("bad", [np.inf, np.nan, 2.0**31])
def test_weights_that_could_overflow_are_on_no_grid(bad: float) -> None:
    with pytest.raises(DataError, match="not finite or too large"):
        check_on_grid(np.array([[1.0], [bad]]), 1.0)


def test_seeded_filters_are_smooth_and_of_a_dense_layer_uniform() -> None:
    known = Network((1, 28, 28), (Conv(64, 7, contrast=True), ReLU()), 3).trained[0]
    filters_ = seeded(known, SEED)[1:].reshape(7, 7, 64)
    step = np.square(np.diff(filters_, axis=0)).mean() / np.square(filters_).mean()
    assert 0.2 < step < 1.0  # 2 for white noise
    dense = seeded(Network((400,), (Dense(50), ReLU()), 3).trained[0], SEED)[1:]
    assert abs(np.square(dense).mean() * 400 / 4 - 1) < 1e-9
    assert np.abs(dense).max() < 1.1 * np.sqrt(3) * 2 / 20


@given(st.integers(1, 50), st.integers(1, 9))
def test_public_draws_are_odd_even_spread_and_of_their_shape(rows: int, columns: int) -> None:
    drawn = uniform(SEED, (rows, columns))
    assert drawn.shape == (rows, columns)
    assert (drawn % 2 == 1).all()
    assert np.abs(drawn).max() < 2**16
    many = uniform(SEED, (1000, 40))
    assert abs(many.mean()) < 2**16 * 0.02
    assert abs(many.var() * 3 / 2.0**32 - 1) < 0.05


@pytest.mark.parametrize("limit", [1.0006, 0.4999, 6.0, 64.0])
def test_no_activation_is_above_the_limit_that_everybody_was_told(limit: float) -> None:
    known = Network((3,), (Dense(2), ReLU(limit)), 2).trained[1]
    top = float(apply_fixed(torch.tensor([[1e3]], dtype=torch.float64), ReLU(limit)))
    assert limit - 2.0**-10 <= top <= known.limit <= limit + 2.0**-10


def test_what_could_not_be_computed_exactly_is_refused() -> None:
    with pytest.raises(DataError, match="a ReLU must bound its inputs"):
        Network((1, 8, 8), (Conv(2, 3), AvgPool(2), ReLU()), 3)
    with pytest.raises(DataError, match="too many to normalise exactly"):
        Network((2000, 9, 9), (Conv(3, 9, contrast=True), ReLU()), 3)
    wide = (Conv(200, 1), ReLU(64.0), Conv(3, 9, contrast=True), ReLU())
    with pytest.raises(DataError, match="16200 inputs up to 64 are too many to normalise exactly"):
        Network((1, 9, 9), wide, 3)
    assert Network((1, 9, 9), (Conv(200, 1), ReLU(4.0), *wide[2:]), 3).trained[1].limit == 1.0
    with pytest.raises(DataError, match="too many to normalise exactly"):
        Network((100_000,), (Widen(5),), 3)


def test_limits_follow_the_layers() -> None:
    """The limit of a contrast-normalised patch is 1 for any input; of widened rows it is the larger of the two."""
    assert (
        Network((1, 9, 9), (Conv(2, 3), ReLU(2.0), Conv(2, 3, contrast=True), ReLU()), 3).trained[1].limit
        == 1.0
    )
    assert Network((4,), (Dense(3), ReLU(8.0), Widen(5)), 3).trained[1].limit == 8.0
    assert Network((4,), (Dense(3), ReLU(2.0), Widen(5)), 3).trained[1].limit == 6.0


def test_channels_have_codes_of_their_own() -> None:
    known = Network((1, 6, 6), (Conv(6, 3), ReLU()), 4).trained[0]
    for encoder in (Encoder.CLASSWISE, Encoder.SPATIAL, Encoder.MIXED):
        made = codes(encoder, known, 4, SEED)
        assert len(np.unique(made.reshape(-1, made.shape[2]), axis=1).T) == made.shape[2]
        assert (
            len(np.unique(made.transpose(1, 0, 2).reshape(known.positions, -1), axis=0))
            > known.positions // 2
        )
