"""A budget of differential privacy that lasts over sessions."""

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm
from typer.testing import CliRunner
from worlds.folders import RIDGE, Federation, Post, learned

from secure_afl.analytic.privacy import Privacy, composed
from secure_afl.models.ridge import FederatedRidgeClassifier
from secure_afl.node.preflight import _ledger
from secure_afl.node.site import Folder
from secure_afl.protocol.files import policy
from secure_afl.protocol.session.errors import PolicyError, RoundAbortedError
from secure_afl.protocol.session.ledger import Budget, Ledger, Spending
from secure_afl.protocol.session.parameters import spending
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.transport.post import Channel, Envelope
from secure_afl.simulations.cli.main import app
from secure_afl.sums.aggregation import Aggregate, MaskedAggregator

NOISY = f"{RIDGE}[privacy]\nepsilon = 1.0\ndelta = 1e-6\n"


def limited(federation: Federation, sessions: int) -> float:
    """Each party's policy bears as many sessions of the federation's study. Gives its ε."""
    spends = spending(federation.terms()[0].plan)
    assert spends
    epsilon = composed([spends] * sessions, 1e-6) * 1.01
    for folder in (*federation.folders, federation.server):
        at = folder / "policy.toml"
        at.write_text(policy.text(replace(policy.read(at), budget_epsilon=epsilon)))
    return epsilon


def session(federation: Federation) -> Post:
    post = Post(federation)
    try:
        learned(federation, post)
    finally:
        for number in post.sessions:
            for party in range(len(federation.folders)):
                post.ask(party, Envelope(Channel.END, number))
    return post


def shown(folder: Path) -> str:
    result = CliRunner().invoke(app, ["budget", str(folder)], terminal_width=100)
    assert result.exit_code == 0, result.output
    return re.sub(r"\s+", " ", result.output)


@pytest.mark.slow
def test_a_data_set_serves_sessions_with_noise_until_its_budget_is_spent(tmp_path: Path) -> None:
    federation = Federation(tmp_path, study=NOISY)
    site = federation.folders[0]
    assert "No budget: a data set serves one session." in shown(site)
    epsilon = limited(federation, 2)
    assert "No data set was used yet." in shown(site)
    for _ in range(2):
        assert not session(federation).refusals
    post = Post(federation)
    with pytest.raises(RoundAbortedError):
        learned(federation, post)
    spent = composed([spending(federation.terms()[0].plan)] * 2, 1e-6)  # type: ignore[list-item]
    assert sum(f"ε = {epsilon - spent:.3g} is left" in str(one) for one in post.refusals) == 4
    said = shown(site)
    assert f"'rows' has spent ε = {spent:.3g} at δ = 1e-06 in 2 session(s)" in said
    assert f"ε = {epsilon - spent:.3g} is left" in said
    for folder in federation.folders:
        Folder(folder).give_up()
    with pytest.raises(PolicyError, match="is left; this session would bring it to"):
        _ledger(Folder(site), federation.terms()[0], Folder(site).data_set)


@pytest.mark.parametrize("first", [NOISY, RIDGE])
def test_without_noise_or_a_budget_a_data_set_serves_one_session(first: str, tmp_path: Path) -> None:
    """Neither may an exact sum follow a noisy one, nor a noisy one an exact one: the exact one has spent everything."""
    federation = Federation(tmp_path, study=first)
    limited_to = {NOISY: RIDGE, RIDGE: NOISY}
    if first == NOISY:
        limited(federation, 5)
    session(federation)
    for folder in (*federation.folders, federation.server):
        (folder / "study.toml").write_text(f'backend = "mask"\n{limited_to[first]}')
    for folder in federation.folders:
        Folder(folder).approve("an operator", "another study")
    if first == RIDGE:
        limited(federation, 5)
    post = Post(federation)
    with pytest.raises(RoundAbortedError):
        learned(federation, post)
    assert sum("was used in session" in str(one) for one in post.refusals) == 4


def asked(times: int, epsilon: float) -> list[np.ndarray]:
    """The Gram matrices of noisy sums of the same rows, as many as clients with this budget allow."""
    draws = np.random.default_rng(3)
    X, y, site = draws.uniform(-1, 1, (60, 10)) / 4, draws.integers(0, 2, 60), np.arange(60) % 6
    aggregator, answers = MaskedAggregator(Policy(budget_epsilon=epsilon)), list[np.ndarray]()
    for _ in range(times):
        model = FederatedRidgeClassifier(
            1.0, classes=[0, 1], privacy=Privacy(8.0, 1e-6), aggregator=aggregator
        )
        try:
            (one,) = model.fit(X, y, site).rounds_
        except (PolicyError, RoundAbortedError):
            break
        assert isinstance(one, Aggregate)
        answers.append(one.total[:66])
    return answers


@pytest.mark.slow
def test_noise_is_not_averaged_away_over_sessions() -> None:
    """The mean of many noisy answers has little noise left."""
    answers = asked(10, 1e9)
    noise = np.linalg.norm(answers[0] - answers[1])
    left = np.linalg.norm(np.mean(answers[:5], axis=0) - np.mean(answers[5:], axis=0))
    assert left < 0.75 * noise  # 0.45 is expected
    assert len(asked(3, 14.0)) == 2


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(0, 5), st.sampled_from([None, 0.5, 1.0])), max_size=14
    )
)
def test_no_order_of_sessions_spends_more_than_the_budget(
    wanted: list[tuple[str, int, float | None]],
) -> None:
    """A data set serves sessions with noise within the budget, or one session without noise, but not both."""
    ledger, budget = Ledger(), Budget(2.0, 1.0)
    served: dict[str, dict[int, float | None]] = {"a": {}, "b": {}}
    for data_set, number, epsilon in wanted:
        spends = None if epsilon is None else Spending(epsilon, 1e-6, 3.0, 1)
        before = served[data_set]
        if number in before and before[number] != epsilon:
            continue  # a session says one thing
        noisy = epsilon is not None and None not in before.values()
        fits = noisy or not before or number == next(reversed(before))
        fits &= (
            epsilon is None or math.fsum(one or 0.0 for one in (before | {number: epsilon}).values()) <= 2.0
        )
        if fits:
            ledger.use(data_set, bytes([number]) * 32, spends=spends, budget=budget)
            before.pop(number, None)
            before[number] = epsilon  # the latest is last
        else:
            with pytest.raises(PolicyError, match=r"is left; this session|was used in session"):
                ledger.use(data_set, bytes([number]) * 32, spends=spends, budget=budget)


@pytest.mark.parametrize("multipliers", [[1.0], [4.0] * 9, [0.7, 20.0, 3.0], [50.0] * 200])
def test_composition_is_the_exact_one_of_gaussian_noise_and_little_more(multipliers: list[float]) -> None:
    """Balle and Wang 2018: k sums with multipliers z are one with the multiplier (Σ 1/z²)^-½."""
    delta = 1e-5
    mu = np.sqrt(sum(z**-2.0 for z in multipliers))

    def left(epsilon: float) -> float:
        return (
            float(norm.cdf(mu / 2 - epsilon / mu) - np.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu))
            - delta
        )

    exact = brentq(left, 0.0, 100.0)
    found = composed([Spending(1.0, 1e-6, z, 1) for z in multipliers], delta)
    assert exact <= found <= 1.25 * exact
    assert composed([], delta) == 0.0
    assert composed([Spending(1.0, 0.5, 1.0, 1)], 2.0**-21) == np.inf
