"""A policy in words: whatever is dangerous is said, and the numbers are those that clients insist on."""

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds.cohorts import world
from worlds.strategies import policies

from secure_afl.crypto.hpke import Suite
from secure_afl.protocol.files.explain import explain, warnings
from secure_afl.protocol.session import graph
from secure_afl.protocol.session.errors import PolicyError
from secure_afl.protocol.session.parameters import Profile
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.profile import Trust, Verify

# A setting, and the first words of the warning that it must bring.
DANGEROUS: dict[str, Callable[[Policy], bool]] = {
    "plain": lambda policy: "plain" in policy.backends,
    "bfv": lambda policy: "bfv" in policy.backends,
    "ckks": lambda policy: "ckks" in policy.backends,
    "semi-honest": lambda policy: Profile.SEMI_HONEST in policy.profiles,
    "x25519": lambda policy: Suite.X25519 in policy.suites,
    "verify none": lambda policy: Verify.NONE in policy.verify and Profile.ACTIVE in policy.profiles,
    "trusts_reports any": lambda policy: policy.trusts_reports is Trust.ANY,
    "trusts_reports verified": lambda policy: policy.trusts_reports is Trust.VERIFIED,
    "corrupted below 0.1": lambda policy: policy.corrupted < 0.1,
}


def lines(
    policy: Policy, clients: int | None = None, key_holders: int | None = None
) -> dict[str, tuple[str, ...]]:
    return {section.title: section.lines for section in explain(policy, clients, key_holders)}


@given(policies, st.none() | st.integers(1, 60), st.none() | st.integers(0, 3))
def test_each_danger_is_said_and_nothing_else_is(
    policy: Policy, clients: int | None, key_holders: int | None
) -> None:
    expected = {first for first, dangerous in DANGEROUS.items() if dangerous(policy)}
    assert {text.split(":")[0] for text in warnings(policy)} == expected
    said = explain(policy, clients, key_holders)[-1]
    assert said.title.startswith("Warnings")
    if expected:
        assert said.lines == warnings(policy)
    else:
        assert said.lines == ("None: this policy protects all that the default policy protects.",)


def test_the_default_policy_has_no_warning() -> None:
    assert warnings(Policy()) == ()


@given(policies, st.integers(1, 40))
def test_every_form_in_which_statistics_may_leave_is_named(policy: Policy, clients: int) -> None:
    leaving = lines(policy, clients)["What may leave this client"]
    assert {line.split(":")[0] for line in leaving[1:]} == policy.backends


@given(policies, st.integers(2, 40))
def test_the_numbers_are_those_that_a_client_insists_on(policy: Policy, clients: int) -> None:
    said = lines(policy, clients)
    least = policy.least_survivors(clients)
    counted = " ".join(said["How many may collude with the server, and how many must remain"])
    assert f"{policy.colluders(clients)} client" in counted
    assert f"at least {least} survivors" in counted
    assert ("no client may collude" in counted) is bool(policy.backends & {"bfv", "ckks"})
    follows = said.get(f"Thresholds if all {clients} clients are invited")
    assert (follows is None) is ("no sum is possible" in counted) is (least > clients)
    for line in follows or ():
        if (borne := re.search(r"Up to (\d+) may drop out \((\d+)%\)", line)) is None:
            assert "no session can be set up" in line
            continue
        left = clients - int(borne[1])
        assert int(borne[2]) == round(100 * int(borne[1]) / clients)
        policy.check_group("survivors", left, clients)
        needed = least
        if threshold := re.search(r"the threshold is (\d+): (\d+) of", line):
            assert threshold[1] == threshold[2]
            needed = max(least, int(threshold[1]))
        assert left >= needed
        if "neighbours" not in line:  # else it is a matter of chance
            assert left == needed


@pytest.mark.parametrize("profile", list(Profile))
@pytest.mark.parametrize("clients", [4, 7, 12, 30, 400])
def test_the_threshold_that_is_said_is_one_that_the_policy_takes(clients: int, profile: Profile) -> None:
    policy = Policy(
        profiles=frozenset({profile}), suites=frozenset({Suite.X25519}), corrupted=0.05, dropout=0.1
    )
    (line,) = lines(policy, clients)[f"Thresholds if all {clients} clients are invited"]
    said = re.match(
        rf"{profile.value}: the threshold is (\d+): (\d+) of (?:each client and its (\d+))?", line
    )
    assert said
    assert said[1] == said[2]
    degree = int(said[3] or clients - 1)
    parties = world(min(clients, 30), policy)  # keys cost time; numbers alone decide below
    near = graph.Neighbourhood(degree, int(said[1]))
    if clients <= 30:
        policy.check(parties.propose(profile=profile, near=near), clients)
        lower = graph.Neighbourhood(degree, graph.least_threshold(profile, clients, degree) - 1)
        less = parties.propose(profile=profile, near=lower)
        with pytest.raises(PolicyError, match="threshold"):
            policy.check(less, clients)
    assert near == graph.choose(clients, profile, corrupted=policy.colluders(clients), dropout=policy.dropout)
    assert bool(said[3]) is (degree < clients - 1)


def test_key_holders_are_counted_where_they_matter() -> None:
    encrypted = Policy(backends=frozenset({"mask", "bfv+mask"}))
    title = "What may leave this client"
    assert "names no key holder" in lines(encrypted, 5, 0)[title][-1]
    assert "names 1 key holder;" in lines(encrypted, 5, 1)[title][-1]
    assert "names 3 key holders;" in lines(encrypted, 5, 3)[title][-1]
    for text in (*lines(encrypted, 5)[title], *lines(Policy(), 5, 0)[title]):
        assert "The roster names" not in text


def test_a_client_that_lies_in_a_regression_is_named() -> None:
    (warning,) = warnings(Policy(trusts_reports=Trust.VERIFIED))
    assert "one other client that lies about its own numbers" in warning


def test_who_sees_a_sum_is_said() -> None:
    title = "Who sees a sum"
    for policy in (
        Policy(verify=frozenset({Verify.NONE})),
        Policy(profiles=frozenset({Profile.SEMI_HONEST})),
        Policy(backends=frozenset({"bfv"})),
    ):
        assert lines(policy)[title][1:] == ("No client is given a sum.",)
    assert "every client in the sum" in lines(Policy())[title][1]


def test_whose_help_a_lying_server_needs_is_said() -> None:
    title, tags, replay = "Against which server it protects", Verify.TAGS, Verify.REPLAY
    for verify, words in (
        ({tags}, "if no client of the session helps it"),
        ({tags, replay}, "if no client of the session helps it"),
        ({replay}, "even if clients of the session help it"),
    ):
        said = " ".join(lines(Policy(verify=frozenset(verify)))[title])
        assert words in said
    assert "another sum" not in " ".join(lines(Policy(verify=frozenset(Verify)))[title])
    (warning,) = warnings(Policy(trusts_reports=Trust.VERIFIED))
    assert "one other client that lies about its own numbers" in warning


def test_a_server_that_is_not_borne_is_not_named() -> None:
    title = "Against which server it protects"
    assert lines(Policy(backends=frozenset({"plain"})))[title] == (
        "Against none: the server sees everything.",
    )
    assert "Not a server that lies." in lines(Policy(profiles=frozenset({Profile.SEMI_HONEST})))[title]
    assert any(
        "only in sessions of the active profile" in line
        for line in lines(Policy(profiles=frozenset(Profile)))[title]
    )
    assert any("quantum" in line for line in lines(Policy())[title])
    assert not any("quantum" in line for line in lines(Policy(suites=frozenset(Suite)))[title])
    assert "in the clear" in lines(Policy(backends=frozenset({"mask", "plain"})))[title][-1]
