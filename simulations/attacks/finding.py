"""What an attack found: a number, what guessing gives, and how likely it is that a guess does as well."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom, mannwhitneyu

from secure_afl.simulations.data.dataset import Floats

Watch = Callable[[str], None]
CHANCE = 1e-3
"""An attack succeeds if a guess does as well with at most this probability."""


@dataclass(frozen=True)
class Finding:
    """One row of the table.

    design: whose uploads were attacked; ours: whether that is secure-afl. measured: what `value` is, with its unit.
    guess: the same number for who sees no upload. chance: the probability that a guess does as well as the
    attack did, in `trials` trials. note: what else there is to say, for one that is refused by whom.
    """

    attack: str
    design: str
    ours: bool
    measured: str
    value: float
    guess: float
    trials: int
    chance: float
    note: str = ""

    @property
    def succeeds(self) -> bool:
        return self.chance <= CHANCE

    @property
    def verdict(self) -> str:
        return "succeeds" if self.succeeds else "no better than guessing"


@dataclass(frozen=True, eq=False)
class Gallery:
    """Pictures side by side. lines: for each a name and its pictures, float64 (count, height, width) from 0 to 1."""

    title: str
    lines: tuple[tuple[str, Floats], ...]


@dataclass(frozen=True)
class Result:
    """All that one attack found."""

    findings: list[Finding]
    gallery: Gallery | None = None


def paired(errors: Sequence[float], guesses: Sequence[float]) -> float:
    """The chance of errors below the guesses' as often as they are, if each were as likely below as above."""
    wins = sum(mine < theirs for mine, theirs in zip(errors, guesses, strict=True))
    return picked(wins, len(guesses), 0.5)


def picked(right: int, trials: int, rate: float) -> float:
    """The chance of at least so many right in `trials` independent guesses of which `rate` are right."""
    return float(binom.sf(right - 1, trials, rate))


def told_apart(members: Floats, others: Floats) -> tuple[float, float]:
    """The AUC of scores that should be higher for members, and the chance of one as high without any difference."""
    test = mannwhitneyu(members, others, alternative="greater")
    return float(test.statistic) / (len(members) * len(others)), float(test.pvalue)


def relative(found: Floats, truth: Floats) -> float:
    """The distance from the truth, in its norm; 1 for who says 0."""
    return float(np.linalg.norm(found - truth) / np.linalg.norm(truth))
