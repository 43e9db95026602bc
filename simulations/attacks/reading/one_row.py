"""Reconstruction: the row of a client with a single row, and single rows in the sum of many."""

import secrets

import numpy as np

from secure_afl.simulations.attacks import designs
from secure_afl.simulations.attacks.designs import Design
from secure_afl.simulations.attacks.finding import Finding, Gallery, Result, Watch, paired, picked
from secure_afl.simulations.attacks.population import CLIENTS, Known, Setting, Statistic, controlled, draw
from secure_afl.simulations.attacks.reading.reconstruct import one_row, standing_rows
from secure_afl.simulations.attacks.tap import decoded
from secure_afl.simulations.attacks.weak.weak_masks import encoding_of
from secure_afl.simulations.data.dataset import Floats

NAME = "one-row"
DESIGNS = (designs.PLAIN, *designs.WEAK, designs.ASKED_TWICE, *designs.ENCRYPTED, designs.OURS)
STEPS = len(DESIGNS) + 1
_SUMS, _ROWS = 12, 150  # that are opened, and rows a client in them
_OF = 50  # rows to pick the true one from
_SHOWN = 10


def measure(setting: Setting, watch: Watch) -> Result:
    """The same attack on all designs, then on our sums opened as planned."""
    rng, statistic = setting.draws(1), Statistic.of(setting.data)
    findings, lines = [], []
    for design in DESIGNS:
        watch(f"{NAME}: {design.name}")
        trials = Trials(statistic)
        for _ in range(-(-setting.repeats // CLIENTS) if design is designs.OURS else design.sessions):
            trials.add(design, setting, rng)
        findings += trials.findings(design)
        lines.append((design.name, trials))
    watch(f"{NAME}: {designs.OURS.name}, the sum of {CLIENTS} x {_ROWS}")
    findings.append(_standing(statistic, setting, rng))
    return Result(findings, _gallery(setting, lines))


def _standing(statistic: Statistic, setting: Setting, rng: np.random.Generator) -> Finding:
    """How many sums of many rows reveal a row through a feature that only this row has."""
    shown = exact = read = 0
    for _ in range(_SUMS):
        clients = controlled(setting.data, draw(setting.data, [_ROWS] * CLIENTS, rng))
        gram, _, _ = statistic.parts(designs.opened_sum(statistic.vectors(clients), statistic))
        rows, true = standing_rows(gram, clients.known), np.concatenate(clients.X)
        right = sum(any(clients.known.exact(row, one) for one in true) for row in rows)
        shown, exact, read = shown + bool(right), exact + right, read + len(rows)
    return Finding(
        NAME,
        designs.OURS.name,
        ours=True,
        measured=f"sums of {CLIENTS * _ROWS} rows that show a row, share",
        value=shown / _SUMS,
        guess=0.0,
        trials=_SUMS,
        chance=float(not shown),
        note=f"{exact} of {read} rows read are exact; a feature that only one row has; {designs.OPENED}",
    )


class Trials:
    """The same attack on many clients of one design."""

    def __init__(self, statistic: Statistic) -> None:
        self.statistic = statistic
        self.errors: list[float] = []
        self.guesses: list[float] = []
        self.noise: list[float] = []
        self.exact = self.picked = 0
        self.pictures: list[tuple[Floats, Floats]] = []

    def add(self, design: Design, setting: Setting, rng: np.random.Generator) -> None:
        """One session of clients with a row each."""
        clients = draw(setting.data, [1] * CLIENTS, rng)
        known = clients.known
        for index, vector in design.read(self.statistic.vectors(clients), self.statistic).items():
            true = clients.X[index][0]
            found = self._attacked(vector, known)
            self.errors.append(_rms(found, true))
            self.guesses.append(_rms(known.guess, true))
            self.exact += known.exact(found, true)
            # Other people's rows are drawn like the true one: without an upload each is picked equally often.
            others = known.other[rng.choice(len(known.other), _OF - 1, replace=False)]
            nearest = np.linalg.norm(others - found, axis=1).min()
            self.picked += bool(np.linalg.norm(true - found) < nearest)
            self.pictures.append((true, found))
            if design is designs.OURS:
                self.noise.append(_rms(self._attacked(self._random(), known), true))

    def _attacked(self, vector: Floats, known: Known) -> Floats:
        gram, cross, _ = self.statistic.parts(vector)
        return one_row(gram, cross, known)

    def _random(self) -> Floats:
        """An upload of random bytes."""
        length = self.statistic.plan.length
        words = np.frombuffer(secrets.token_bytes(8 * length), "<u8").astype(np.uint64)
        return decoded(words, encoding_of(self.statistic, CLIENTS))

    def findings(self, design: Design) -> list[Finding]:
        if not self.errors:
            return []
        count, exact = len(self.errors), self.exact
        chance = 0.0 if exact else paired(self.errors, self.guesses)

        def row(measured: str, value: float, guess: float, chance: float, note: str = "") -> Finding:
            return Finding(NAME, design.name, design.ours, measured, value, guess, count, chance, note)

        rows = [
            row(
                "RMS error of a feature",
                float(np.mean(self.errors)),
                float(np.mean(self.guesses)),
                chance,
                f"{exact} of {count} rows exact; {design.flaw}",
            )
        ]
        if design in (designs.PLAIN, designs.FLOATS, designs.OURS):
            chance = picked(self.picked, count, 1 / _OF)
            rows.append(row(f"true row picked among {_OF}, share", self.picked / count, 1 / _OF, chance))
        if self.noise:
            closer = sum(mine < theirs for mine, theirs in zip(self.errors, self.noise, strict=True))
            note = "the same attack on random bytes is the guess here"
            chance = picked(closer, count, 0.5)
            rows.append(
                row("closer to the row than from random bytes, share", closer / count, 0.5, chance, note)
            )
        return rows


def _rms(found: Floats, true: Floats) -> float:
    return float(np.sqrt(np.mean((found - true) ** 2)))


def _gallery(setting: Setting, lines: list[tuple[str, Trials]]) -> Gallery | None:
    """Some original pictures for each design and, below, the attack's reconstructions."""
    shape = setting.data.shape
    if len(shape) < 3:
        return None
    shown: list[tuple[str, Floats]] = []
    for name, trials in lines:
        for at, what in enumerate(("original", name)):
            rows = [pair[at] for pair in trials.pictures[:_SHOWN]]
            if rows:
                shown.append((what, np.array(rows).reshape(-1, *shape).mean(axis=1)))
    return Gallery("a client's only row", tuple(shown))
