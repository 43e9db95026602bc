"""Parties that are killed with SIGKILL at every point of a session; see `tests/long/killed.py` for the whole matrix."""

from dataclasses import replace

import pytest
from long.killed import RUNS, Case, Run, cases, matrix, tried
from long.killed import _phases as phases_of

from secure_afl.protocol.homomorphic.states import SERVER as ENCRYPTED
from secure_afl.protocol.masking.states import SERVER as MASKED
from secure_afl.protocol.session.parameters import Profile
from secure_afl.protocol.session.profile import MODES

ACTIVE, SEMI_HONEST, BFV, BOTH = RUNS


@pytest.mark.parametrize("run", RUNS, ids=" ".join)
def test_the_matrix_has_every_phase(run: Run) -> None:
    """Claim: a server dies in every state in which it waits, and some client or key holder in answering every phase."""
    all_phases = set()
    if run is not BFV:
        mode = next(mode for mode in MODES if mode[0] is Profile(run[1]))
        all_phases |= {state.value for state in MASKED[mode]}
    if run in (BFV, BOTH):
        all_phases |= {state.value for state in ENCRYPTED}
    all_phases -= {"consenting", "answering"} if run is SEMI_HONEST else set()
    parties = ["client", "holder"] if run in (BFV, BOTH) else ["client"]
    for victims in (["server"], ["everybody"], parties):
        assert {phase.rstrip(" 01") for who in victims for phase in phases_of(run, who)} == all_phases
    assert {case.deaths[0][0] for case in cases(run, "server")} >= {"start", "ready 0", "ready 1"}


@pytest.mark.slow
@pytest.mark.parametrize("at", [0, *(pytest.param(at, marks=pytest.mark.long) for at in (1, 2))])
def test_nobody_who_is_killed_makes_a_sum_wrong_or_answers_twice(at: int) -> None:
    """Claim: with the kills of the matrix, a sample of them, no rule is broken and whoever comes back goes on."""
    for case in matrix()[53 * at :: 159]:
        verdict = tried(case)
        assert (verdict.broken, verdict.faults) == ([], []), case.name
        assert verdict.kills


@pytest.mark.slow
@pytest.mark.parametrize("by", [pytest.param("SIGTERM", marks=pytest.mark.long), "SIGTERM, caught"])
def test_whoever_is_stopped_in_order_loses_as_little(by: str) -> None:
    """Claim: SIGTERM at any point, whether the process ends at once or unwinds, is no worse than SIGKILL."""
    alone = [case for case in matrix() if case.victim != "everybody"]
    at = {"SIGTERM": 0, "SIGTERM, caught": 60}[by]
    for case in alone[at::120]:
        verdict = tried(replace(case, by=by))
        assert (verdict.broken, verdict.faults) == ([], []), case.name
        assert verdict.kills


@pytest.mark.long
@pytest.mark.parametrize("run", [ACTIVE, SEMI_HONEST], ids=" ".join)
def test_a_masking_client_that_is_killed_anywhere(run: Run) -> None:
    for case in cases(run, "client"):
        verdict = tried(case)
        assert (verdict.broken, verdict.faults) == ([], []), case.name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("run", "victim", "flaw", "death", "rule"),
    [
        (ACTIVE, "client", "sends first", ("sharing", "lost"), "second answer"),
        (ACTIVE, "client", "sends first", ("collecting 0", "lost"), "second mask"),
        (BFV, "client", "sends first", ("encrypting 1", "lost"), "second mask"),
        (BFV, "holder", "sends first", ("challenging 0", "lost"), "second answer"),
        (SEMI_HONEST, "client", "sends first", ("unmasking 0", "sent"), "both shares"),
        (ACTIVE, "client", "keys stay", ("collecting 0", "committed"), "second mask"),
        (ACTIVE, "client", "log stays", ("collecting 0", "lost"), "second answer"),
        (ACTIVE, "client", "ledger in memory", ("unmasking 1", "sent"), "data in two sessions"),
        (BFV, "holder", "ledger in memory", ("opening 1", "sent"), "data in two sessions"),
    ],
)
def test_seeded_bugs_are_found(run: Run, victim: str, flaw: str, death: tuple[str, str], rule: str) -> None:
    """Claim: the rules are not empty: each is broken by a program that writes too late, or not at all."""
    right = tried(Case(run, victim, (death,)))
    assert (right.broken, right.faults) == ([], [])
    wrong = tried(Case(run, victim, (death,), flaw=flaw))
    assert rule in {text.split(":")[0] for text in wrong.broken}
