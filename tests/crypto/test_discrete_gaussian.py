"""The sampler against the exact distribution. A right sampler fails a test of chance here with a probability below
1e-9, as said at each; draws come from the operating system, so no seed hides a failure."""

import ast
from fractions import Fraction
from math import exp, fsum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from secure_afl.crypto import discrete_gaussian
from secure_afl.crypto.discrete_gaussian import draw
from secure_afl.crypto.errors import CryptoError

FALSE_ALARM = 1e-9


def probabilities(variance: Fraction, widest: int) -> dict[int, float]:
    weights = {y: exp(-(y**2) / 2 / variance) for y in range(-widest, widest + 1)}
    whole = fsum(weights.values())
    return {y: weight / whole for y, weight in weights.items()}


def p_value(draws: np.ndarray, expected: dict[int, float]) -> float:
    """Chi-square; what is expected fewer than 20 times is one cell with the rarest of the others."""
    cells = {y: p * len(draws) for y, p in sorted(expected.items(), key=lambda one: -one[1])}
    common = [y for y, often in cells.items() if often >= 20]
    seen = np.array([np.count_nonzero(draws == y) for y in common])
    often = np.array([cells[y] for y in common])
    seen[-1] += len(draws) - seen.sum()
    often[-1] += len(draws) - often.sum()
    # Not even once in 1e10 tests: these never come.
    assert {int(y) for y in np.unique(draws)} <= {y for y, many in cells.items() if many > 1e-12}
    return float(stats.chisquare(seen, often).pvalue) if len(common) > 1 else 1.0


@pytest.mark.parametrize(
    "variance",
    [Fraction(1, 100), Fraction(1, 4), Fraction(1), Fraction(22, 7), Fraction(16), Fraction(901, 3)],
)
def test_every_probability_is_that_of_the_discrete_gaussian(variance: Fraction) -> None:
    draws = draw(40_000, variance)
    assert draws.dtype == np.int64
    widest = 1 + 40 * (1 + int(float(variance) ** 0.5))
    assert p_value(draws, probabilities(variance, widest)) > FALSE_ALARM


@pytest.mark.parametrize("bits", [1, 2, 5])
def test_a_word_that_does_not_decide_is_extended_exactly(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With words this short, ties are the rule: any slip in them shows."""
    monkeypatch.setattr(discrete_gaussian, "_WORD_BITS", bits)
    for variance in (Fraction(1, 3), Fraction(22, 7)):
        assert p_value(draw(20_000, variance), probabilities(variance, 60)) > FALSE_ALARM


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(1, 10)), min_size=1, max_size=3),
    st.sampled_from([1, 3, 64]),
)
@settings(max_examples=25)
def test_coins_come_up_with_exp_minus_gamma(gammas: list[tuple[int, int]], bits: int) -> None:
    tosses = 2000
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(discrete_gaussian, "_WORD_BITS", bits)
        for p, q in gammas:
            true = discrete_gaussian._exp_minus_wide([p] * tosses, q)
            # Both coins, 75 of them at most in this test: a false alarm has 75·2e-12.
            assert stats.binomtest(int(true.sum()), tosses, exp(-p / q)).pvalue > 1e-12
            if p <= q:
                narrow = discrete_gaussian._exp_minus(np.full(tosses, p, np.uint64), q)
                assert stats.binomtest(int(narrow.sum()), tosses, exp(-p / q)).pvalue > 1e-12


@pytest.mark.parametrize("variance", [Fraction(10**6), Fraction(2**80 + 1, 3), Fraction(2**110)])
def test_wide_ones_are_normal_to_the_last_bit(variance: Fraction) -> None:
    """Above σ = 1000 a discrete Gaussian's distribution function is within 1e-3/√(2π) of the normal one's."""
    draws = draw(20_000, variance)
    scaled = draws / float(variance) ** 0.5
    assert stats.kstest(scaled, "norm").pvalue > FALSE_ALARM
    # Four moments; eight standard errors are passed with a probability below 1e-9, also by the skewed fourth.
    for power, moment, spread in ((1, 0, 1), (2, 1, 2**0.5), (3, 0, 15**0.5), (4, 3, 96**0.5)):
        assert abs(np.mean(scaled**power) - moment) < 8 * spread / len(draws) ** 0.5, power
    # Low digits are uniform, which a sampler that scales floats would not give.
    assert p_value(draws & 15, dict.fromkeys(range(16), 1 / 16)) > FALSE_ALARM


def test_tails_are_as_heavy_as_they_should_be() -> None:
    draws, variance = draw(200_000, Fraction(100)), Fraction(100)
    exact = probabilities(variance, 500)
    for reach in (20, 30, 40):
        beyond = fsum(p for y, p in exact.items() if abs(y) > reach)
        seen = int(np.count_nonzero(np.abs(draws) > reach))
        assert stats.binomtest(seen, len(draws), beyond).pvalue > FALSE_ALARM, reach
    assert int(np.abs(draws).max()) < 90  # beyond: 2·exp(−81/2)·2e5 < 1e-12


def test_draws_are_independent_of_their_place_and_of_one_another() -> None:
    draws = draw(discrete_gaussian._BATCH + 5000, Fraction(10**8)) / 1e4
    for lag in (1, 2, 7):
        # Correlations of independent draws are normal with 1/√n; 6.2 of that have a probability of 6e-10.
        assert abs(np.mean(draws[lag:] * draws[:-lag])) < 6.2 / len(draws) ** 0.5
    assert (
        abs(np.mean(np.abs(draws[:5000])) - np.mean(np.abs(draws[-5000:]))) < 6.2 * 0.61 * (2 / 5000) ** 0.5
    )


@pytest.mark.parametrize("count", [0, 1, 2, 1000])
def test_as_many_as_asked_for(count: int) -> None:
    assert draw(count, Fraction(3)).shape == (count,)


def test_bits_come_from_the_operating_system_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    source = ast.parse(Path(discrete_gaussian.__file__).read_text())
    imported = {
        node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
        for node in ast.walk(source)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    own = {"secure_afl.crypto.errors", "secure_afl.crypto.prg"}
    assert imported == {
        "secrets",
        "collections.abc",
        "fractions",
        "math",
        "os",
        "numpy",
        "numpy.typing",
        *own,
    }
    assert not [
        node for node in ast.walk(source) if isinstance(node, ast.Constant) and type(node.value) is float
    ]
    assert not [
        node for node in ast.walk(source) if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)
    ]

    np.random.seed(0)
    first = draw(50, Fraction(2**60)).tolist()
    np.random.seed(0)
    assert draw(50, Fraction(2**60)).tolist() != first

    def no_bits(size: int) -> bytes:
        raise OSError

    monkeypatch.setattr(discrete_gaussian, "urandom", no_bits)
    with pytest.raises(OSError):  # noqa: PT011
        draw(1, Fraction(1))


@pytest.mark.parametrize(
    ("count", "variance"),
    [
        (-1, Fraction(1)),
        (1.0, Fraction(1)),
        (1, 1.0),
        (1, 1),
        (1, Fraction(0)),
        (1, Fraction(2**110 + 1)),
        (True, Fraction(1)),
    ],
)
def test_other_counts_and_variances_are_refused(count: Any, variance: Any) -> None:
    with pytest.raises(CryptoError, match=r"^expected a .*, got "):
        draw(count, variance)


@pytest.mark.parametrize("variance", [Fraction(1, 2**72), Fraction(1, 10**40)])
def test_tiny_variances_give_zeros(variance: Fraction) -> None:
    """Another integer has a probability below exp(−2⁷¹)."""
    assert not draw(1000, variance).any()


def test_no_draw_leaves_the_range_of_64_bits() -> None:
    """With a scale of 2⁶⁰, one of 55 proposals is at 2⁶² or beyond, and an error."""
    scale, refused, largest = 2**60, 0, 0
    for _ in range(300):
        try:
            proposals = discrete_gaussian._proposals(10, scale)
        except CryptoError as error:
            assert str(error) == "a draw left the range of 64 bits"  # noqa: PT017
            refused += 1
        else:
            largest = max(largest, *(abs(one) for one in proposals.tolist()), 0)
    assert 0 < refused < 150  # a tenth; none, or half of them, in fewer than one of 10⁹ runs
    assert 2**61 < largest < 2**62
