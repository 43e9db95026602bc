"""An attack's result: a number, the number for guessing, and the probability that a guess does as well."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom, mannwhitneyu

from secure_afl.simulations.data.dataset import Floats

Watch = Callable[[str], None]
CHANCE = 1e-3
"""An attack succeeds if a guess does as well with this probability at most."""


@dataclass(frozen=True)
class Finding:
    """One row of the table.

    design: the attacked design; ours: whether it is secure-afl. measured: the meaning of `value`, with its unit.
    guess: the same number for an attacker who sees no upload. chance: the probability that a guess does as well as the
    attack in `trials` trials. note: further facts, for a refused attack who refuses it.
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
    """Pictures side by side. lines: a name and its pictures each, float64 (count, height, width) from 0 to 1."""

    title: str
    lines: tuple[tuple[str, Floats], ...]


@dataclass(frozen=True)
class Result:
    """All results of one attack."""

    findings: list[Finding]
    gallery: Gallery | None = None


def paired(errors: Sequence[float], guesses: Sequence[float]) -> float:
    """Sign test: the probability of so many errors below the guesses' errors, if below and above were equally likely."""
    wins = sum(mine < theirs for mine, theirs in zip(errors, guesses, strict=True))
    return picked(wins, len(guesses), 0.5)


def picked(right: int, trials: int, rate: float) -> float:
    """The probability of at least `right` successes in `trials` independent guesses with success rate `rate`."""
    return float(binom.sf(right - 1, trials, rate))


def told_apart(members: Floats, others: Floats) -> tuple[float, float]:
    """The AUC of scores that should be higher for members, and the probability of such an AUC by chance."""
    test = mannwhitneyu(members, others, alternative="greater")
    return float(test.statistic) / (len(members) * len(others)), float(test.pvalue)


def relative(found: Floats, truth: Floats) -> float:
    """The distance from the truth, relative to the truth's norm; guessing 0 scores 1."""
    return float(np.linalg.norm(found - truth) / np.linalg.norm(truth))
