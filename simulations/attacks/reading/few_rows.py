"""Reconstruction: the rows of a client, or of all clients together, with fewer rows than features."""

from dataclasses import dataclass

import numpy as np

from secure_afl.simulations.attacks import designs
from secure_afl.simulations.attacks.designs import Design
from secure_afl.simulations.attacks.finding import Finding, Gallery, Result, Watch
from secure_afl.simulations.attacks.population import CLIENTS, Known, Setting, Statistic, draw
from secure_afl.simulations.attacks.reading.reconstruct import alike, few_rows
from secure_afl.simulations.data.dataset import Floats

NAME = "few-rows"
_SIZES = (2, 5, 10, 20, 40)  # rows a client, of plain uploads
_SIZE = 5  # of the other designs
_DRAWN = 20  # more than the number of labels, so that labels alone do not determine the rows
_OTHERS = (designs.SCALAR, designs.KEYSTREAM, designs.FLOATS, designs.BOTH_SHARES, designs.OURS)
_SUMMED = (5, 8)  # rows a client, of sums that are opened
STEPS = len(_SIZES) + len(_OTHERS) + len(_SUMMED)


def measure(setting: Setting, watch: Watch) -> Result:
    """Attack plain uploads of growing size, then the other designs, then our sums opened as planned."""
    rng, statistic = setting.draws(2), Statistic.of(setting.data)
    findings: list[Finding] = []
    gallery = None
    cases = [(designs.PLAIN, size) for size in _SIZES] + [(design, _SIZE) for design in _OTHERS]
    for design, size in cases:
        watch(f"{NAME}: {design.name}, {size}")
        clients = draw(setting.data, [size] * CLIENTS, rng)
        reads = design.read(statistic.vectors(clients), statistic)
        if design is designs.PLAIN:
            reads = {0: reads[0]}
        attacked = [
            _attack(clients.X[index], clients.known, statistic.parts(read), rng)
            for index, read in reads.items()
        ]
        right = sum(one.right for one in attacked)
        findings.append(_finding(design, size, right, len(attacked)))
        if design is designs.PLAIN and size == _DRAWN:
            labels = np.eye(len(setting.data.classes))[clients.y[0]]
            gallery = _gallery(setting, attacked[0], alike(clients.X[0], labels, rng))
    for size in _SUMMED:
        watch(f"{NAME}: {designs.OURS.name}, the sum of {CLIENTS} x {size}")
        clients = draw(setting.data, [size] * CLIENTS, rng)
        parts = statistic.parts(designs.opened_sum(statistic.vectors(clients), statistic))
        right, rows = _attack(np.concatenate(clients.X), clients.known, parts, rng).right, CLIENTS * size
        findings.append(
            Finding(
                NAME,
                designs.OURS.name,
                ours=True,
                measured=f"rows read exactly in the sum of all, {size} a client, share",
                value=right / rows,
                guess=0.0,
                trials=rows,
                chance=float(not right),
                note=f"{right} of {rows} rows exact; {designs.OPENED}",
            )
        )
    return Result(findings, gallery)


@dataclass(frozen=True, eq=False)
class _Attacked:
    """The true rows, the nearest found row for each (or a guess), and the number of exact ones."""

    true: Floats
    nearest: Floats
    right: int


def _attack(
    true: Floats, known: Known, parts: tuple[Floats, Floats, float], rng: np.random.Generator
) -> _Attacked:
    rows = few_rows(parts[0], parts[1], known, rng)
    if not len(rows):
        return _Attacked(true, np.tile(known.guess, (len(true), 1)), 0)
    distances = np.linalg.norm(true[:, None] - rows[None], axis=2)
    nearest = rows[distances.argmin(axis=1)]
    right = sum(known.exact(found, one) for found, one in zip(nearest, true, strict=True))
    return _Attacked(true, nearest, right)


def _finding(design: Design, size: int, right: int, clients: int) -> Finding:
    # A guess never gives a row exactly, so an exact row is not a guess.
    chance, note = float(not right), f"{right} of {size * clients} rows exact"
    share = right / (size * clients)
    measured = f"rows read exactly, {size} a client, share"
    return Finding(NAME, design.name, design.ours, measured, share, 0.0, size * clients, chance, note)


def _gallery(setting: Setting, attacked: _Attacked, same: Floats) -> Gallery | None:
    """The rows, what the attack reads, and non-pictures with the same Gram matrix and cross-covariance."""
    shape = setting.data.shape
    if len(shape) < 3:
        return None
    lines = (
        ("original", attacked.true),
        ("plain upload", attacked.nearest),
        ("same statistic, no picture", same),
    )
    title = f"the {len(attacked.true)} rows of one client"
    return Gallery(title, tuple((name, rows.reshape(-1, *shape).mean(axis=1)) for name, rows in lines))
