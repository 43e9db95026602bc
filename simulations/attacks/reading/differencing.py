"""Differencing: subtract two sums whose difference should reveal nothing (So et al., arXiv 2106.03328)."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from secure_afl.protocol.session.errors import RoundAbortedError
from secure_afl.simulations.attacks.finding import Finding, Result, Watch, paired, relative
from secure_afl.simulations.attacks.population import Clients, Setting, Statistic, draw
from secure_afl.simulations.attacks.reading.reconstruct import one_row
from secure_afl.simulations.attacks.tap import Tap
from secure_afl.simulations.data.dataset import Floats
from secure_afl.sums.aggregation import Aggregate, MaskedAggregator

NAME = "differencing"
_CLIENTS, _ROWS, _VICTIM = 5, 20, 0
_SESSIONS = 12
_NAMES = [f"client {index}" for index in range(_CLIENTS)]
_OURS = "secure-afl, mask"
STEPS = 3
Sums = tuple[Floats, Floats | None]
"""The first sum, and the second one unless it was refused."""


def measure(setting: Setting, watch: Watch) -> Result:
    """Three ways to obtain two sums, each without and with the rule that forbids it."""
    rng, statistic = setting.draws(5), Statistic.of(setting.data)
    findings = []
    for attack in (_without_a_client, _with_one_record_more, _between_two_layers):
        watch(f"{NAME}:{attack.__name__.replace('_', ' ')}")
        findings += attack(setting, statistic, rng)
    return Result(findings)


def _without_a_client(setting: Setting, statistic: Statistic, rng: np.random.Generator) -> list[Finding]:
    """A second session over the same rows, in which one client falls silent."""

    def sums(vectors: Sequence[Floats], forget: bool) -> Sums:
        server = _Server(statistic)
        first = server.session(vectors)
        if forget:
            server.aggregator.renew("rows", may_expose=True)
        server.tap.silent = frozenset({_VICTIM})
        return first.total, server.second(lambda: server.session(vectors))

    return _vectors(
        "a session without one client",
        ("no ledger", "a data set serves one session: the second is refused"),
        sums,
        setting,
        statistic,
        rng,
    )


def _between_two_layers(setting: Setting, statistic: Statistic, rng: np.random.Generator) -> list[Finding]:
    """Two sums of one session over the same rows; one client is lost in between."""

    def sums(vectors: Sequence[Floats], forget: bool) -> Sums:
        plan = [replace(statistic.plan, statistic=f"layer {n}", same_survivors=not forget) for n in (1, 2)]
        server = _Server(statistic)
        server.aggregator.open(_NAMES, plan)
        first = server.sum(0, vectors)
        server.tap.silent = frozenset({_VICTIM})
        return first.total, server.second(lambda: server.sum(1, vectors))

    return _vectors(
        "a client lost between two layers",
        ("layers over any survivors", "related sums have the same survivors: the second is refused"),
        sums,
        setting,
        statistic,
        rng,
    )


def _vectors(
    how: str,
    designs: tuple[str, str],
    sums: Callable[[Sequence[Floats], bool], Sums],
    setting: Setting,
    statistic: Statistic,
    rng: np.random.Generator,
) -> list[Finding]:
    """The distance of the difference from the lost client's vector. The guess is a client's share of the first sum."""
    measured, findings = f"{how}: relative error of its vector", []
    for forget, note in zip((True, False), designs, strict=True):
        errors, guesses = [], []
        for _ in range(_SESSIONS):
            vectors = statistic.vectors(draw(setting.data, [_ROWS] * _CLIENTS, rng, per_label=True))
            first, second = sums(vectors, forget)
            guess = first / _CLIENTS
            errors.append(relative(guess if second is None else first - second, vectors[_VICTIM]))
            guesses.append(relative(guess, vectors[_VICTIM]))
        design = note if forget else _OURS
        mean, guessed = float(np.mean(errors)), float(np.mean(guesses))
        chance = paired(errors, guesses)
        findings.append(
            Finding(
                NAME,
                design,
                not forget,
                measured,
                mean,
                guessed,
                _SESSIONS,
                chance,
                "" if forget else note,
            )
        )
    return findings


def _with_one_record_more(setting: Setting, statistic: Statistic, rng: np.random.Generator) -> list[Finding]:
    """A second session under the same name of the rows, to which one client has added a record."""
    findings = []
    for forget in (True, False):
        errors, guesses, exact = [], [], 0
        for _ in range(_SESSIONS):
            clients = draw(setting.data, [_ROWS] * _CLIENTS, rng)
            record, known = clients.X[_VICTIM][-1], clients.known
            server = _Server(statistic)
            first = server.session(statistic.vectors(_without_last(clients)))
            if forget:
                server.aggregator.renew("rows", may_expose=True)
            vectors = statistic.vectors(clients)
            second = server.second(lambda server=server, vectors=vectors: server.session(vectors))  # type: ignore[misc]
            found = known.guess
            if second is not None:
                gram, cross, _ = statistic.parts(second - first.total)
                found = one_row(gram, cross, known)
            exact += known.exact(found, record)
            errors.append(float(np.sqrt(np.mean((found - record) ** 2))))
            guesses.append(float(np.sqrt(np.mean((known.guess - record) ** 2))))
        findings.append(
            Finding(
                NAME,
                "no ledger" if forget else _OURS,
                not forget,
                "one record added: RMS error of a feature of it",
                float(np.mean(errors)),
                float(np.mean(guesses)),
                _SESSIONS,
                0.0 if exact else paired(errors, guesses),
                f"{exact} of {_SESSIONS} records exact"
                + ("" if forget else "; a data set serves one session: the second is refused"),
            )
        )
    return findings


def _without_last(clients: Clients) -> Clients:
    """The clients before the victim got its last row."""
    X, y = list(clients.X), list(clients.y)
    X[_VICTIM], y[_VICTIM] = X[_VICTIM][:-1], y[_VICTIM][:-1]
    return Clients(tuple(X), tuple(y), clients.known)


class _Server:
    """A server of real masked sums over clients that keep their ledgers."""

    def __init__(self, statistic: Statistic) -> None:
        self.tap = Tap()
        self.aggregator = MaskedAggregator(network=self.tap)
        self._plan = statistic.plan

    def session(self, vectors: Sequence[Floats]) -> Aggregate:
        self.aggregator.open(_NAMES, [self._plan])
        return self.sum(0, vectors)

    def sum(self, number: int, vectors: Sequence[Floats]) -> Aggregate:
        given = {name: (vector, "rows") for name, vector in zip(_NAMES, vectors, strict=True)}
        return self.aggregator.sum(number, given)

    def second(self, ask: Callable[[], Aggregate]) -> Floats | None:
        """What the clients release of a sum that the server must not request."""
        try:
            return ask().total
        except RoundAbortedError:
            return None
