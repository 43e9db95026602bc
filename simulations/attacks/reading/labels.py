"""A client's label histogram and its number of rows: with a column of ones, its statistic contains both."""

import numpy as np

from secure_afl.simulations.attacks import designs
from secure_afl.simulations.attacks.designs import Design
from secure_afl.simulations.attacks.finding import Finding, Result, Watch, paired
from secure_afl.simulations.attacks.population import CLIENTS, Setting, Statistic, draw
from secure_afl.simulations.data.dataset import Floats

NAME = "labels"
_SIZES = (10, 20, 30, 40)
_SESSIONS = 3
DESIGNS = (designs.PLAIN, designs.SCALAR, designs.KEYSTREAM, designs.FLOATS, designs.IN_CLEAR, designs.OURS)
STEPS = len(DESIGNS)


def measure(setting: Setting, watch: Watch) -> Result:
    """Attack clients of different sizes with two labels each. The guess is the sum's histogram and mean count, which the
    server sees in any design.
    """
    rng, statistic = setting.draws(3), Statistic.of(setting.data)
    findings: list[Finding] = []
    for design in DESIGNS:
        watch(f"{NAME}: {design.name}")
        errors: dict[str, list[tuple[float, float]]] = {"labels": [], "counts": []}
        sessions = -(-setting.repeats // CLIENTS) if design is designs.OURS else _SESSIONS
        for _ in range(sessions):
            sizes = [int(size) for size in rng.permutation(_SIZES)]
            clients = draw(setting.data, sizes, rng, per_label=True)
            vectors = statistic.vectors(clients)
            overall = np.sum([statistic.parts(vector)[1][0] for vector in vectors], axis=0)
            for index, vector in design.read(vectors, statistic).items():
                truth = statistic.parts(vectors[index])[1][0]
                _, cross, count = statistic.parts(vector)
                errors["labels"].append((_off(cross[0], truth), _off(overall, truth)))
                most = statistic.bounds.rows
                found = min(max(count, 0.0), float(most))
                errors["counts"].append(
                    (abs(found - truth.sum()), abs(overall.sum() / CLIENTS - truth.sum()))
                )
        findings += _findings(design, errors)
    return Result(findings)


def _off(found: Floats, truth: Floats) -> float:
    """The fraction of rows with a wrong label in the histogram `found`: half the sum of the differences."""
    shares = np.clip(found, 0.0, None)
    shares = shares / shares.sum() if shares.sum() > 0 else np.full(len(truth), 1 / len(truth))
    return float(np.abs(shares - truth / truth.sum()).sum() / 2)


def _findings(design: Design, errors: dict[str, list[tuple[float, float]]]) -> list[Finding]:
    rows = []
    for what, measured in (
        ("labels", "share of labels told wrongly"),
        ("counts", "rows by which a count is off"),
    ):
        mine, guesses = zip(*errors[what], strict=True)
        value, guess = float(np.mean(mine)), float(np.mean(guesses))
        chance = paired(mine, guesses)
        rows.append(Finding(NAME, design.name, design.ours, measured, value, guess, len(mine), chance))
    return rows
