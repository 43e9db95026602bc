"""Features that nobody trains: exact, a function of one sample, the same for every party."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import affine_transform

from secure_afl.errors import DataError
from secure_afl.models.networks.features import cosines, deskewed, sparse, wave_directions, waves
from secure_afl.models.networks.fedacnnl import FedACnnL
from secure_afl.models.networks.grid import to_grid
from secure_afl.models.networks.network import (
    AvgPool,
    Conv,
    Dense,
    Deskew,
    Flatten,
    Fourier,
    Layer,
    Network,
    ReLU,
    Sparse,
    apply_fixed,
)
from secure_afl.simulations.data.dataset import load

torch.set_num_threads(1)  # small tensors: handing over to a second thread costs more than it gives
UNIT = 2.0**-10


def on_grid(values: np.ndarray) -> torch.Tensor:
    return to_grid(torch.tensor(values, dtype=torch.float64))


@settings(max_examples=40)
@given(
    st.sampled_from([Deskew(), AvgPool(3, 2), AvgPool(4, 1)])
    | st.builds(Fourier, st.integers(1, 9), st.floats(0.1, 9), st.integers(0, 9))
    | st.builds(Sparse, st.integers(1, 9), st.integers(1, 4), st.integers(1, 3)),
    st.integers(0, 2**32),
)
def test_a_sample_has_the_same_features_whatever_is_beside_it(layer: Layer, seed: int) -> None:
    draws = np.random.default_rng(seed)
    shape = (7, 2, 6, 5) if isinstance(layer, Deskew | AvgPool) else (7, 8)
    values = on_grid(draws.uniform(-1, 1, shape))
    out = apply_fixed(values, layer)
    order = torch.tensor(draws.permutation(7))
    assert torch.equal(apply_fixed(values[order], layer), out[order])
    assert torch.equal(torch.cat([apply_fixed(values[i : i + 1], layer) for i in range(7)]), out)
    assert torch.equal(out, to_grid(out))
    assert float(out.abs().max()) <= 1


@settings(max_examples=25)
@given(st.integers(1, 2), st.integers(3, 6), st.integers(3, 6), st.integers(0, 2**32))
def test_deskewing_is_exact(channels: int, height: int, width: int, seed: int) -> None:
    """Against the same in fractions, pixel by pixel."""
    draws = np.random.default_rng(seed)
    image = on_grid(draws.uniform(-1, 1, (1, channels, height, width)) * draws.choice([0, 0.01, 1.0]))
    got = deskewed(image)[0].tolist()
    pixels = [[[Fraction(value) for value in row] for row in plane] for plane in image[0].tolist()]
    darkest = min(value for plane in pixels for row in plane for value in row)
    everywhere = [(y, x) for y in range(height) for x in range(width)]
    mass = {(y, x): sum((round((plane[y][x] - darkest) * 128) for plane in pixels), 0) for y, x in everywhere}
    middle_y, middle_x, total = Fraction(height - 1, 2), Fraction(width - 1, 2), sum(mass.values())

    def grid(value: Fraction) -> Fraction:
        return Fraction(round(value * 1024), 1024)

    moved_y = moved_x = slant = Fraction(0)
    if total:
        # The centre is rounded where it is counted from: at a pixel.
        near_y, near_x = (height - 1) // 2, (width - 1) // 2
        centre_y = Fraction(sum(m * y for (y, _), m in mass.items()), total)
        centre_x = Fraction(sum(m * x for (_, x), m in mass.items()), total)
        moved_y = grid(centre_y - near_y) + near_y - middle_y
        moved_x = grid(centre_x - near_x) + near_x - middle_x
        tall = sum(m * (y - centre_y) ** 2 for (y, _), m in mass.items())
        across = sum(m * (y - centre_y) * (x - centre_x) for (y, x), m in mass.items())
        slant = grid(max(min(across / tall, Fraction(1)), Fraction(-1))) if tall else slant

    def read(plane: list[list[Fraction]], y: int, x: int) -> Fraction:
        return plane[y][x] if 0 <= y < height and 0 <= x < width else darkest

    for plane, mine in zip(pixels, got, strict=True):
        for y, x in everywhere:
            from_y, from_x = y + moved_y, x + moved_x + slant * (y - middle_y)
            top, left = from_y.__floor__(), from_x.__floor__()
            down, right = from_y - top, from_x - left
            value = sum(
                (down if v else 1 - down) * (right if h else 1 - right) * read(plane, top + v, left + h)
                for v in (0, 1)
                for h in (0, 1)
            )
            assert abs(Fraction(mine[y][x]) - value) <= Fraction(1, 2048)


def test_a_slanted_stroke_stands_upright_and_an_upright_one_stays() -> None:
    upright = np.full((28, 28), -1.0)
    upright[6:22, 13:15] = 1.0
    slanted = affine_transform(
        upright, np.array([[1.0, 0.0], [0.4, 1.0]]), offset=[2.0, -2.4], order=1, cval=-1.0
    )
    images = on_grid(np.stack([upright, slanted])[:, None])
    out = deskewed(images)
    assert torch.equal(out[0], images[0])
    assert float((out[1] - images[0]).abs().mean()) < 0.05 < float((images[1] - images[0]).abs().mean())
    black = torch.full((1, 1, 5, 4), -1.0, dtype=torch.float64)
    assert torch.equal(deskewed(black), black)


def test_overlapping_pools_are_means_of_their_squares() -> None:
    values = on_grid(np.random.default_rng(0).uniform(0, 6, (3, 2, 9, 8)))
    out = apply_fixed(values, AvgPool(4, 2)).numpy()
    windows = np.lib.stride_tricks.sliding_window_view(values.numpy(), (4, 4), (2, 3))[:, :, ::2, ::2]
    assert out.shape == (3, 2, 3, 3)
    assert np.abs(out - windows.mean(axis=(4, 5))).max() <= UNIT / 2
    assert torch.equal(apply_fixed(values, AvgPool(4)), apply_fixed(values, AvgPool(4, 4)))


def test_no_cosine_is_so_near_halfway_that_a_library_could_round_it_otherwise() -> None:
    """Correct cosines differ from a library's by a unit in the last place or two: 10⁻¹³ grid steps."""
    steps = cosines() * 1024
    assert np.abs(steps - np.floor(steps) - 0.5).min() > 1e-7


@given(st.integers(1, 6), st.floats(0.05, 20), st.integers(0, 2**32))
def test_waves_are_cosines_of_exact_projections(inputs: int, width: float, seed: int) -> None:
    rows = on_grid(np.random.default_rng(seed).uniform(-6, 6, (4, inputs)))
    out = waves(rows, 5, width, 3)
    assert torch.equal(out[:, :inputs], rows)
    drawn = wave_directions(inputs, 5, width, 3)
    for row, got in zip(rows.tolist(), out[:, inputs:].tolist(), strict=True):
        for column, value in zip(drawn.T.tolist(), got, strict=True):
            turns = sum(Fraction(h) * Fraction(w) for h, w in zip([1.0, *row], column, strict=True))
            exact = np.cos(2 * np.pi * float(turns - turns.__floor__()))
            assert abs(value - exact) <= UNIT / 2 + np.pi / 2**14


def test_waves_approximate_the_gaussian_kernel() -> None:
    rows = on_grid(np.random.default_rng(1).uniform(-1, 1, (30, 6)))
    made = waves(rows, 20_000, 1.5, 7)[:, 6:]
    kernel = np.exp(-np.square(rows[:, None].numpy() - rows[None].numpy()).sum(2) / (2 * 1.5**2))
    np.testing.assert_allclose(2 * (made @ made.T).numpy() / 20_000, kernel, atol=0.05)


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2**32))
def test_sparse_codes_have_one_1_in_each_group_and_follow_the_comparisons(
    groups: int, bits: int, levels: int, seed: int
) -> None:
    draws = np.random.default_rng(seed)
    rows = on_grid(draws.uniform(-1, 1, (20, 3)))
    out = sparse(rows, groups, bits, levels, -1.0, 1.0, 5).reshape(20, groups, 2**bits)
    assert ((out == 0) | (out == 1)).all()
    assert (out.sum(dim=2) == 1).all()
    # Rows on the same side of every threshold have the same code.
    thresholds = -1 + 2 * np.arange(1, levels + 1) / (levels + 1)
    sides = (rows.numpy()[:, :, None] > thresholds).sum(axis=2)
    for side, code in zip(sides, out, strict=True):
        same = (sides == side).all(axis=1)
        assert torch.equal(out[torch.tensor(same)], code.expand(int(same.sum()), -1, -1))


def test_codes_cover_every_input_before_they_use_one_twice() -> None:
    rows = on_grid(np.eye(12) - 0.5)
    out = sparse(rows, 3, 4, 1, -1.0, 1.0, 0)
    assert len(torch.unique(out, dim=0)) == 12


def test_sums_of_codes_are_whole_numbers_and_travel_as_such() -> None:
    network = Network((6,), (Sparse(4, 3, 2, -1.0, 1.0),), 2)
    (head,) = network.trained
    assert (head.inputs, head.limit, head.bits) == (32, 1.0, 0)
    (plan,) = FedACnnL(network, max_rows=100).plan(5)
    assert (plan.fraction_bits, plan.bound, plan.exact) == (0, 100.0, True)
    after = Network((6,), (Sparse(4), Dense(3), ReLU(0.5)), 2).trained
    assert [known.bits for known in after] == [0, 10]
    assert Network((6,), (Sparse(4), ReLU(0.3)), 2).trained[0].bits == 10


@pytest.mark.parametrize(
    ("shape", "layers", "what"),
    [
        ((8,), (Deskew(),), "does not fit"),
        ((3, 200, 200), (Deskew(),), "too large to deskew exactly"),
        ((1, 8, 8), (Conv(2, 3), Deskew(), ReLU()), "a ReLU must bound"),
        ((1, 8, 8), (AvgPool(4, -1),), "does not fit"),
        ((1, 3, 3), (AvgPool(4, 1),), "does not fit"),
        ((8,), (Fourier(3, 0.0),), "does not fit"),
        ((8,), (Fourier(3, float("nan")),), "does not fit"),
        ((1, 8, 8), (Fourier(3, 1.0),), "does not fit"),
        ((8,), (Dense(3), Fourier(3, 1.0)), "a ReLU must bound"),
        ((8,), (Sparse(3, 13),), "does not fit"),
        ((8,), (Sparse(3, low=1.0),), "does not fit"),
        ((8,), (Dense(3), Sparse(3)), "a ReLU must bound"),
    ],
)
def test_layers_that_do_not_fit_are_refused(
    shape: tuple[int, ...], layers: tuple[Layer, ...], what: str
) -> None:
    with pytest.raises(DataError, match=what):
        Network(shape, layers, 3)


def test_pictures_of_the_usual_sizes_can_be_deskewed() -> None:
    for shape in ((1, 28, 28), (3, 32, 32), (1, 64, 64)):
        assert Network(shape, (Deskew(), Flatten()), 3).trained[0].limit == 1.0


@pytest.mark.slow
def test_deskewing_helps_on_digits() -> None:
    data = load("mnist5k")
    plain, better = (
        FedACnnL(Network(data.shape, (*first, AvgPool(4, 3)), 10), ridge=1e-2)
        .fit_pooled(data.X[::2], data.y[::2])
        .score(data.X[1::2], data.y[1::2])
        for first in ((), (Deskew(),))
    )
    assert better > plain + 0.02
