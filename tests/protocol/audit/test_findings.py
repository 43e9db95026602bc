"""All that the checker of audit logs says, with file and line, of logs that tell another story than what happened."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from msgspec import structs
from worlds.encrypted import EVERY_BACKEND
from worlds.scripted import PRESENT, Scripted, begun_anew, honest

from secure_afl.crypto.identity import Identity
from secure_afl.protocol.audit.check import verify
from secure_afl.protocol.audit.events import (
    Aborted,
    Agreed,
    Begun,
    Closed,
    Refused,
    Released,
    Resumed,
    Role,
)
from secure_afl.protocol.files.roster import Parties
from secure_afl.protocol.homomorphic.agreement import Release
from secure_afl.protocol.session.parameters import RidgeSystem, SumPlan
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.roster import Member, Roster

Change = Callable[[Scripted], None]
CASES: list[tuple[Callable[[], Scripted], Change, list[str]]] = []


def case(start: Callable[[], Scripted], *expected: str) -> Callable[[Change], Change]:
    """A story that is changed, and all that is found then."""

    def listed(change: Change) -> Change:
        CASES.append((start, change, list(expected)))
        return change

    return listed


mask, bfv, layered = (partial(honest, backend) for backend in ("mask", "bfv", "bfv+mask"))
related = [SumPlan(name, 3, 1.0, same_survivors=True) for name in ("a", "b")]
"""Two sums of the same rows."""

UNKNOWN = "belongs to a session that this log does not record as agreed on"
OPEN = (
    "the log ends here without its closing entry: its party is still at work or stopped, or the last lines "
    "were removed"
)
HOSPITAL_0_IS_SILENT = "server, line 4: “advertise” (100 bytes) arrived from hospital-0, whose log hospital-0 does not mention this session"
THREE = "hospital-0, hospital-2, hospital-3"


# ---- whose log of which session ------------------------------------------------------------------


@case(mask, f"server, line 42: {OPEN}")
def _the_end_is_missing(scripted: Scripted) -> None:
    scripted.remove("server", 43)


@case(
    mask,
    f"hospital-0, line 9: {UNKNOWN}",
    "server, line 18: “upload” of round 0 (103 bytes) arrived from hospital-0, whose log hospital-0 does not record sending it",
)
def _a_message_of_a_session_that_was_not_agreed_on(scripted: Scripted) -> None:
    scripted.change("hospital-0", 9, session=bytes(32))


@case(mask)
def _a_refusal_before_anything_is_agreed_on(scripted: Scripted) -> None:
    scripted.insert("hospital-0", 2, Refused(b"", bytes(32), 5, "WireError"))


@case(
    mask,
    "hospital-0, line 2: the rosters in this log differ from those in the terms of the session",
    *(f"hospital-0, line {line}: {UNKNOWN}" for line in range(3, 20)),
    HOSPITAL_0_IS_SILENT,
)
def _another_roster_than_that_of_the_terms(scripted: Scripted) -> None:
    scripted.change("hospital-0", 2, roster=Roster(scripted.roster.members[:3]))


@case(
    bfv,
    "key holder 1, line 2: the rosters in this log differ from those in the terms of the session",
    *(f"key holder 1, line {line}: {UNKNOWN}" for line in range(3, 13)),
    "server, line 4: “key announcement” (148 bytes) arrived from key holder 1, whose log key holder 1 does not mention "
    "this session",
)
def _no_key_holders_where_the_terms_name_some(scripted: Scripted) -> None:
    scripted.change("key holder 1", 2, holders=None)


@case(layered)
def _key_holders_beside_masks(scripted: Scripted) -> None:
    """A party that has both rosters in one file names both, also where only clients take part."""
    scripted.change("hospital-0", 2, holders=scripted.key_holders)


@case(mask, "hospital-0, line 3: the cohort names a client that is not in the roster")
def _a_cohort_that_is_not_in_the_roster(scripted: Scripted) -> None:
    terms = structs.replace(scripted.parameters(), cohort=(0, 1, 2, 4))
    scripted.insert("hospital-0", 3, Agreed(terms, scripted.roster, policy=EVERY_BACKEND))


@case(mask, "server, line 3: server already holds this session, as its server's log")
def _a_server_that_agrees_twice(scripted: Scripted) -> None:
    scripted.insert("server", 2)


@case(mask)
def _a_client_that_is_invited_twice(scripted: Scripted) -> None:
    """And says the same again; what follows is of that session."""
    scripted.insert("hospital-0", 2)


@case(mask, "hospital-0, line 3: the session was agreed on before, with another plan or policy")
def _a_client_that_agrees_to_two_things(scripted: Scripted) -> None:
    scripted.insert("hospital-0", 2)
    planned(scripted, "hospital-0", 3, bound=11.0)


@case(
    mask,
    "hospital-0, line 2: the log is not signed with hospital-9's key in the session's roster",
    *(f"hospital-0, line {line}: {UNKNOWN}" for line in range(3, 20)),
    HOSPITAL_0_IS_SILENT,
)
def _another_name_than_that_of_the_roster(scripted: Scripted) -> None:
    scripted.change("hospital-0", 1, party="hospital-9")


@case(
    mask,
    "hospital-0, line 2: the log is not signed with hospital-0's key in the session's roster",
    *(f"hospital-0, line {line}: {UNKNOWN}" for line in range(3, 20)),
)
def _another_key_than_that_of_the_roster(scripted: Scripted) -> None:
    scripted.identities["hospital-0"] = Identity.generate()
    scripted.change("hospital-0", 1, key=scripted.identities["hospital-0"].verify_key)


@case(mask, HOSPITAL_0_IS_SILENT)
def _a_client_that_says_nothing(scripted: Scripted) -> None:
    scripted.remove("hospital-0", *range(2, 20))


@case(
    bfv,
    "server, line 4: “key announcement” (148 bytes) arrived from key holder 1, whose log key holder 1 does not mention "
    "this session",
)
def _a_key_holder_that_says_nothing(scripted: Scripted) -> None:
    scripted.remove("key holder 1", *range(2, 13))


@case(
    mask,
    "hospital-0, line 5: “directory” names hospital-1, whose log hospital-1 has no “advertise”: that log ends early or is incomplete",
)
def _a_client_that_says_nothing_and_was_never_heard(scripted: Scripted) -> None:
    scripted.remove("hospital-1", *range(2, len(scripted.events["hospital-1"])))
    scripted.remove("server", 5, 10, 14)


@case(mask, "hospital-0, line 2: the server's log does not mention this session: server")
def _a_server_that_says_nothing(scripted: Scripted) -> None:
    scripted.remove("server", *range(2, 43))


# ---- plans and policies --------------------------------------------------------------------------


def planned(scripted: Scripted, party: str, line: int = 2, **fields: Any) -> None:
    """Another plan of the first sum."""
    agreed = scripted.events[party][line - 1]
    assert isinstance(agreed, Agreed)
    scripted.change(party, line, plan=(structs.replace(agreed.plan[0], **fields), *agreed.plan[1:]))


NOT_PLANNED = "the session's sums differ from this party's plan"
DIFFERS = "the plan differs from that of hospital-0 in hospital-0"


@case(mask, f"hospital-2, line 2: {NOT_PLANNED}", f"hospital-2, line 2: {DIFFERS}")
def _another_length(scripted: Scripted) -> None:
    planned(scripted, "hospital-2", length=8)


@case(mask, f"hospital-3, line 2: {NOT_PLANNED}", f"hospital-3, line 2: {DIFFERS}")
def _another_statistic(scripted: Scripted) -> None:
    planned(scripted, "hospital-3", statistic="pulse")


@case(mask, *(f"hospital-{number}, line 2: {DIFFERS}" for number in (1, 2, 3)))
def _another_bound_at_the_first_client(scripted: Scripted) -> None:
    planned(scripted, "hospital-0", bound=11.0)


@case(mask, f"hospital-1, line 2: {DIFFERS}")
def _another_bound_at_the_second_client(scripted: Scripted) -> None:
    planned(scripted, "hospital-1", bound=11.0)


@case(
    mask,
    *(f"hospital-{number}, line 2: {DIFFERS}" for number in (1, 2, 3)),
    "hospital-0, line 10: against the party's own policy: expected at least 4 clients in a sum, the server named 3",
)
def _fewer_survivors_than_a_sum_was_planned_with(scripted: Scripted) -> None:
    planned(scripted, "hospital-0", survivors=4)


@case(mask, "hospital-0, line 2: the log does not record the party's policy")
def _no_policy(scripted: Scripted) -> None:
    scripted.change("hospital-0", 2, policy=None)


AGAINST = "against the party's own policy:"
TOO_FEW = f"{AGAINST} expected at least 4 clients in a sum, the server named 3"


@case(mask, f"hospital-0, line 10: {TOO_FEW}", f"hospital-0, line 16: {TOO_FEW}")
def _fewer_survivors_than_a_client_asks_for(scripted: Scripted) -> None:
    scripted.change("hospital-0", 2, policy=strict(minimum_honest=3))


@case(bfv, f"key holder 1, line 5: {TOO_FEW}", f"key holder 1, line 9: {TOO_FEW}")
def _fewer_survivors_than_a_key_holder_asks_for(scripted: Scripted) -> None:
    scripted.change("key holder 1", 2, policy=strict(minimum_honest=3))


@case(
    bfv,
    f"hospital-1, line 2: {AGAINST} expected at least 5 clients, the server named 4",
)
def _a_smaller_cohort_than_a_client_asks_for(scripted: Scripted) -> None:
    scripted.change("hospital-1", 2, policy=strict(minimum_honest=4))


def strict(**fields: Any) -> Policy:
    return Policy(
        **{name: getattr(EVERY_BACKEND, name) for name in ("backends", "profiles", "suites")} | fields
    )


def only(backend: str) -> Policy:
    return strict(backends=frozenset({backend}))


@case(
    mask,
    f"hospital-1, line 2: {AGAINST} the backend 'mask' is not allowed by this client's policy, which allows ckks",
)
def _masks_that_a_policy_does_not_allow(scripted: Scripted) -> None:
    scripted.change("hospital-1", 2, policy=only("ckks"))


@case(
    bfv,
    f"hospital-1, line 2: {AGAINST} the backend 'bfv' is not allowed by this client's policy, which allows ckks",
)
def _bfv_that_a_policy_does_not_allow(scripted: Scripted) -> None:
    scripted.change("hospital-1", 2, policy=only("ckks"))


@case(
    layered,
    f"hospital-1, line 8: {AGAINST} the backend 'bfv+mask' is not allowed by this client's policy, which allows bfv",
)
def _masks_under_bfv_that_a_policy_does_not_allow(scripted: Scripted) -> None:
    scripted.change("hospital-1", 8, policy=only("bfv"))


def weights() -> Scripted:
    """Of a system that the key holder solves."""
    plan = [SumPlan("system", 6, 1.0, system=RidgeSystem(2, 1, 1.0))]
    return honest("ckks", plan=plan, release=Release.WEIGHTS)


@case(
    weights,
    f"hospital-1, line 2: {AGAINST} the backend 'ckks' is not allowed by this client's policy, which allows bfv",
)
def _ckks_that_a_policy_does_not_allow(scripted: Scripted) -> None:
    scripted.change("hospital-1", 2, policy=only("bfv"))


@case(weights)
def _weights_are_not_as_long_as_the_sum(scripted: Scripted) -> None:
    scripted.change("server", 22, values=9)


@case(mask, *(f"hospital-{number}, line 16: belongs to a round that was not planned" for number in PRESENT))
def _an_answer_for_the_round_behind_the_last(scripted: Scripted) -> None:
    shown_as(scripted, round=2)


@case(mask, *(f"hospital-{number}, line 16: belongs to a round that was not planned" for number in PRESENT))
def _an_answer_for_no_round(scripted: Scripted) -> None:
    shown_as(scripted, round=None)


def shown_as(scripted: Scripted, **fields: Any) -> None:
    """Other survivors of the second round, in all logs."""
    scripted.change("server", 34, **fields)
    for index in PRESENT:
        scripted.change(scripted.names[index], 16, **fields)


OTHERS = "sums planned over the same clients were answered for over different clients"


def two_related_sums() -> Scripted:
    scripted = Scripted("mask", plan=related).begin()
    return scripted.sum(0).sum(1, (0, 1, 2, 3)).end()


@case(two_related_sums, *(f"hospital-{number}, line 2: {OTHERS}" for number in PRESENT))
def _related_sums_over_different_clients(scripted: Scripted) -> None:
    del scripted


@case(lambda: Scripted("mask").begin().sum(0).sum(1, (0, 1, 2, 3)).end())
def _unrelated_sums_over_different_clients(scripted: Scripted) -> None:
    del scripted


@case(lambda: honest("mask", plan=related))
def _related_sums_over_the_same_clients(scripted: Scripted) -> None:
    del scripted


def encrypted_related_sums() -> Scripted:
    scripted = Scripted("bfv", plan=related).begin()
    return scripted.sum(0).sum(1, (0, 1, 2, 3)).end()


@case(
    encrypted_related_sums,
    *(f"hospital-{number}, line 2: {OTHERS}" for number in PRESENT),
    f"key holder 1, line 2: {OTHERS}",
)
def _related_sums_that_a_key_holder_opened_over_different_clients(scripted: Scripted) -> None:
    del scripted


@case(
    encrypted_related_sums,
    "server, line 36: “opened” of round 1 (131 bytes) arrived from key holder 1, whose log key holder 1 does not record sending it",
    *(f"hospital-{number}, line 2: {OTHERS}" for number in PRESENT),
)
def _related_sums_of_which_a_key_holder_opened_one(scripted: Scripted) -> None:
    scripted.remove("key holder 1", 12)


@case(lambda: begun_anew(plan=related).sum(1).end())
def _related_sums_of_which_one_was_begun_anew(scripted: Scripted) -> None:
    del scripted


@case(
    mask,
    "hospital-0, line 14: round 0 was already answered for",
    "hospital-0, line 15: round 0 was already answered for",
)
def _other_answers_for_a_round(scripted: Scripted) -> None:
    for line in (14, 15):
        scripted.insert("hospital-0", line, scripted.events["hospital-0"][12])
        scripted.change("hospital-0", line, digest=bytes([line]) * 32)


@case(bfv, "key holder 1, line 9: round 0 was already answered for")
def _another_opening_of_a_round(scripted: Scripted) -> None:
    scripted.insert("key holder 1", 9, scripted.events["key holder 1"][7])
    scripted.change("key holder 1", 9, digest=bytes(32))


# ---- messages ------------------------------------------------------------------------------------


@case(mask)
def _messages_that_the_network_repeats(scripted: Scripted) -> None:
    """To a server, and to a client that gives the same answer again."""
    scripted.insert("server", 18)
    scripted.insert("hospital-0", 13)
    scripted.insert("hospital-0", 12)


@case(
    mask,
    "hospital-3, line 10: “survivors” of round 0 (50 bytes) arrived from the server, whose log server does not record sending it",
)
def _a_message_that_was_for_others(scripted: Scripted) -> None:
    scripted.change("server", 21, to=(0, 2))


@case(
    mask,
    "server, line 4: “advertise” (1,000 bytes) is described differently in hospital-0",
)
def _another_size_at_the_server(scripted: Scripted) -> None:
    scripted.change("server", 4, size=1000)


@case(mask, "hospital-0, line 8: “sum request” of round 0 (53 bytes) is described differently in server")
def _other_participants_at_a_client(scripted: Scripted) -> None:
    scripted.change("hospital-0", 8, members=(0, 1, 2))


# ---- what was opened -----------------------------------------------------------------------------


def claimed(number: int, over: str, *lines: int) -> list[str]:
    """Of survivors whom the server claims, and clients were shown others on these lines."""
    return [
        f"server, line {(29, 42)[number]}: round {number}: the server reports a sum over {over}, but hospital-{index} was shown "
        f"{THREE} (hospital-{index}, line {line})"
        for index, line in zip(PRESENT, lines, strict=True)
    ]


@case(
    mask,
    "server, line 29: round 0: the server reports a sum over hospital-0, hospital-2, but uploads came from "
    + THREE,
    *claimed(0, "hospital-0, hospital-2", 10, 10, 10),
    "server, line 29: round 0: expected the answers of at least 3 clients before it is opened, got 2",
)
def _fewer_survivors_than_there_were(scripted: Scripted) -> None:
    scripted.change("server", 29, survivors=(2, 0))


ALL = "hospital-0, hospital-1, hospital-2, hospital-3"


@case(
    mask,
    f"server, line 42: round 1: the server reports a sum over {ALL}, but uploads came from {THREE}",
    *claimed(1, ALL, 16, 16, 16),
)
def _more_survivors_than_there_were(scripted: Scripted) -> None:
    scripted.change("server", 42, survivors=(0, 1, 2, 3))


@case(
    mask,
    f"server, line 29: round 0: the server reports a sum over no client, but uploads came from {THREE}",
    *claimed(0, "no client", 10, 10, 10),
    "server, line 29: round 0: expected the answers of at least 3 clients before it is opened, got 0",
)
def _a_sum_over_nobody(scripted: Scripted) -> None:
    scripted.change("server", 29, survivors=())


@case(
    bfv,
    "server, line 22: round 0: the server reports a sum over hospital-0, hospital-2, but uploads came from "
    + THREE,
    *(
        f"server, line 22: round 0: the server reports a sum over hospital-0, hospital-2, but {name} was shown {THREE} ({name}, "
        f"line {line})"
        for name, line in (("hospital-0", 7), ("hospital-2", 7), ("hospital-3", 7), ("key holder 1", 5))
    ),
)
def _fewer_contributors_than_there_were(scripted: Scripted) -> None:
    scripted.change("server", 22, survivors=(0, 2))


@case(
    mask,
    f"server, line 29: round 0: the server reports a sum over {THREE}, but uploads came from hospital-2, hospital-3",
)
def _an_upload_from_nobody(scripted: Scripted) -> None:
    scripted.change("server", 18, sender=None)


@case(
    mask,
    "server, line 26: round 0: the server reports a sum over hospital-0, hospital-2, but uploads came from no client",
    *(
        f"server, line 26: round 0: the server reports a sum over hospital-0, hospital-2, but hospital-{index} was shown {THREE} "
        f"(hospital-{index}, line 10)"
        for index in PRESENT
    ),
    "server, line 26: round 0: expected the answers of at least 3 clients before it is opened, got 2",
)
def _a_sum_without_uploads(scripted: Scripted) -> None:
    scripted.change("server", 29, survivors=(0, 2))
    scripted.remove("server", 18, 19, 20)


@case(lambda: honest("bfv+mask", masked=(0, 1, 2, 3)))
def _one_that_masked_and_did_not_encrypt(scripted: Scripted) -> None:
    del scripted


@case(
    layered,
    f"server, line 41: round 0: the server reports a sum over {ALL}, but uploads came from {THREE}",
    *(
        f"server, line 41: round 0: the server reports a sum over {ALL}, but {name} was shown {THREE} ({name}, line {line})"
        for name, line in (("hospital-0", 15), ("hospital-2", 15), ("hospital-3", 15), ("key holder 1", 5))
    ),
    "server, line 41: round 0: expected the answers of at least 4 clients before it is opened, got 3",
    "server, line 50: round 0: masks were removed from a sum that the key holders did not open for these clients",
)
def _masks_that_came_off_another_sum(scripted: Scripted) -> None:
    scripted.change("server", 41, survivors=(0, 1, 2, 3))


@case(
    layered,
    f"server, line 50: round 0: the server reports a sum over {ALL}, but uploads came from {THREE}",
    *(
        f"server, line 50: round 0: the server reports a sum over {ALL}, but hospital-{index} was shown {THREE} "
        f"(hospital-{index}, line 17)"
        for index in PRESENT
    ),
    "server, line 50: round 0: masks were removed from a sum that the key holders did not open for these clients",
)
def _masks_that_came_off_more_than_was_uploaded(scripted: Scripted) -> None:
    scripted.change("server", 50, survivors=(0, 1, 2, 3))


@case(
    layered,
    "server, line 40: round 0 was answered for, and no line records its outcome",
    "server, line 49: round 0: masks were removed from a sum that the key holders did not open for these clients",
)
def _masks_that_came_off_what_was_not_opened(scripted: Scripted) -> None:
    scripted.remove("server", 41)


@case(layered, "hospital-0, line 2: the server's log does not mention this session: server")
def _a_server_that_says_nothing_of_the_masks(scripted: Scripted) -> None:
    assert scripted.masks
    silent(scripted, scripted.masks.transcript())


@case(layered, "hospital-0, line 8: the server's log does not mention this session: server")
def _a_server_that_says_nothing_of_what_was_encrypted(scripted: Scripted) -> None:
    assert scripted.agreement
    silent(scripted, scripted.agreement.transcript())


def silent(scripted: Scripted, session: bytes) -> None:
    """The server says nothing of a session."""
    scripted.events["server"] = [
        one
        for one in scripted.events["server"]
        if (one.terms.transcript() if isinstance(one, Agreed) else getattr(one, "session", None)) != session
    ]


@case(
    mask,
    "server, line 29: round 2: it was not planned",
    "server, line 28: round 0 was answered for, and no line records its outcome",
)
def _a_sum_that_was_not_planned(scripted: Scripted) -> None:
    scripted.change("server", 29, round=2)


@case(
    mask,
    "server, line 29: round 0: it was opened 2 times",
    "server, line 30: round 0: it was opened 2 times",
)
def _a_sum_that_was_opened_twice(scripted: Scripted) -> None:
    scripted.insert("server", 29)


@case(mask, "server, line 29: round 0: expected a sum of 7 values, got 6")
def _a_sum_of_another_length(scripted: Scripted) -> None:
    scripted.change("server", 29, values=6)


@case(bfv, "server, line 22: round 0: expected a sum of 7 values, got 8")
def _an_encrypted_sum_of_another_length(scripted: Scripted) -> None:
    scripted.change("server", 22, values=8)


FEW = "server, line 28: round 0: expected the answers of at least 3 clients before it is opened, got 2"


@case(mask, FEW)
def _a_sum_that_too_few_helped_to_open(scripted: Scripted) -> None:
    scripted.remove("server", 28)


@case(mask, FEW)
def _an_answer_that_came_after_the_sum_was_opened(scripted: Scripted) -> None:
    log = scripted.events["server"]
    log[27], log[28] = log[28], log[27]


@case(
    mask,
    "server, line 28: “reveal” of round 0 (222 bytes) arrived from hospital-1, whose log hospital-1 does not record sending it",
    FEW.replace("28", "29"),
)
def _an_answer_of_one_that_dropped_out(scripted: Scripted) -> None:
    scripted.change("server", 28, sender=1)


@case(lambda: honest("mask", (0, 1, 2, 3)))
def _a_sum_that_enough_helped_to_open(scripted: Scripted) -> None:
    """Of four survivors, three."""
    assert isinstance(scripted.events["server"][31], Released)
    scripted.remove("server", 31)


@case(
    lambda: honest("bfv", (0, 1, 2, 3)),
    "server, line 23: round 0: expected the answers of at least 4 clients before it is opened, got 3",
)
def _an_encrypted_sum_that_one_did_not_vouch_for(scripted: Scripted) -> None:
    assert isinstance(scripted.events["server"][23], Released)
    scripted.remove("server", 21)


@case(begun_anew)
def _a_round_that_was_begun_anew(scripted: Scripted) -> None:
    del scripted


@case(
    begun_anew,
    "server, line 32: round 0: expected the answers of at least 3 clients before it is opened, got 2",
)
def _an_answer_that_was_for_the_first_time(scripted: Scripted) -> None:
    """And came late, before what was asked then."""
    log = scripted.events["server"]
    assert isinstance(log[32], Released)
    scripted.remove("server", 29)


@case(mask, "server, line 28: round 0 was answered for, and no line records its outcome")
def _a_sum_of_which_nothing_is_said(scripted: Scripted) -> None:
    scripted.remove("server", 29)


@case(bfv, "server, line 34: round 1 was answered for, and no line records its outcome")
def _an_encrypted_sum_of_which_nothing_is_said(scripted: Scripted) -> None:
    scripted.remove("server", 35)


def aborted(scripted: Scripted, number: int | None) -> None:
    released: Any = scripted.events["server"][28]
    scripted.events["server"][28] = Aborted(released.session, "too few", number)


@case(mask)
def _a_sum_that_was_given_up(scripted: Scripted) -> None:
    aborted(scripted, 0)


@case(mask, "server, line 28: round 0 was answered for, and no line records its outcome")
def _another_sum_that_was_given_up(scripted: Scripted) -> None:
    aborted(scripted, 1)


@case(
    mask,
    *(
        f"server, line {line}: “reveal” (222 bytes) is described differently in hospital-{index}"
        for line, index in zip((26, 27, 28), PRESENT, strict=True)
    ),
    "server, line 28: round None was answered for, and no line records its outcome",
)
def _answers_for_no_round(scripted: Scripted) -> None:
    scripted.remove("server", 29)
    for line in (26, 27, 28):
        scripted.change("server", line, round=None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("start", "change", "expected"), CASES, ids=[one.__name__[1:] for _, one, _ in CASES]
)
def test_what_is_found(start: Callable[[], Scripted], change: Change, expected: list[str]) -> None:
    scripted = start()
    change(scripted)
    assert list(map(str, scripted.report().findings)) == expected


# ---- other logs than one of each party -----------------------------------------------------------


def test_of_two_logs_with_one_key_the_first_sound_one_is_taken() -> None:
    scripted = mask()
    logs = scripted.logs()
    damaged = logs["hospital-0"].replace(b'"number":9', b'"number":8')
    report = verify({"damaged": damaged} | logs | {"copy": logs["hospital-0"], "again": damaged})
    assert [(one.file, one.line) for one in report.findings if one.file not in ("copy", "again")] == [
        ("damaged", 9)
    ]
    assert [str(one) for one in report.findings if one.line == 1] == [
        "copy, line 1: the log of hospital-0 was already given, as hospital-0",
        "again, line 1: the log of hospital-0 was already given, as hospital-0",
    ]
    assert [str(one) for one in report.notes if one.file == "damaged"] == [
        "damaged, line 1: the log of hospital-0 is not compared with others"
    ]
    assert [one.file for one in report.logs] == ["damaged", *logs, "copy", "again"]
    assert [len(one.chain.entries) for one in report.logs] == [19, 20, 12, 20, 20, 43, 20, 19]


def test_what_is_no_log_is_none_of_the_logs() -> None:
    scripted = mask()
    report = verify({"notes.txt": b"no log\n"} | scripted.logs())
    assert [one.file for one in report.findings] == ["notes.txt"]
    assert [one.file for one in report.logs] == list(scripted.events)


def test_an_unfinished_last_line() -> None:
    logs = mask().logs()
    for torn in (b"{", b'{"number":21'):
        findings = verify(logs | {"hospital-0": logs["hospital-0"] + torn}).findings
        assert list(map(str, findings)) == [
            f"hospital-0, line 21: an unfinished line of {len(torn)} bytes: the program stopped, or it was cut"
        ]


@pytest.mark.parametrize(
    ("line", "removed", "scripted"),
    [
        (20, 0, "had stopped without closing its log; 0 bytes of an unfinished line were removed"),
        (2, 0, "had stopped without closing its log; 0 bytes of an unfinished line were removed"),
        (21, 0, ""),
        (21, 1, "had stopped without closing its log; 1 bytes of an unfinished line were removed"),
    ],
)
def test_a_program_that_had_stopped_is_a_note(line: int, removed: int, scripted: str) -> None:
    """Unless it had closed its log completely."""
    session = honest(present=(0, 1, 2, 3))
    session.events["hospital-0"].insert(line - 1, Resumed(removed))
    if line == 21:
        session.add("hospital-0")
        session.events["hospital-0"].append(Closed())
    report = session.report()
    assert not report.findings
    assert list(map(str, report.notes)) == (
        [f"hospital-0, line {line}: hospital-0 {scripted}"] if scripted else []
    )


def test_two_servers_of_one_session() -> None:
    """The first log counts as the server's; a second one, and a stranger's log of another session, are told apart from it."""
    scripted = mask()
    identity = Identity.generate()
    begun = Begun(scripted.events["server"][0].version, "server", Role.SERVER, identity.verify_key)  # type: ignore[union-attr]
    scripted.identities["other"], scripted.events["other"] = (
        identity,
        [begun, *scripted.events["server"][1:3], Closed()],
    )
    assert list(map(str, scripted.report().findings)) == [
        "other, line 2: server already holds this session, as its server's log",
        f"other, line 3: {UNKNOWN}",
    ]


def test_a_server_of_another_session() -> None:
    scripted, other = mask(), mask()
    logs = scripted.logs(*scripted.names) | {
        f"far {name}": log for name, log in other.logs("server", "hospital-1").items()
    }
    report = verify(logs)
    assert list(map(str, report.findings)) == [
        "hospital-0, line 2: the server's log does not mention this session: far server"
    ]
    assert [one.transcript for one in report.sessions] == [
        one.masks.transcript() for one in (scripted, other) if one.masks
    ]


# ---- the parties that are known ------------------------------------------------------------------


def test_parties_are_those_that_are_known() -> None:
    for scripted in (mask(), bfv(), layered()):
        assert not verify(scripted.logs(), scripted.parties).findings


@pytest.mark.parametrize("without_the_servers", [False, True])
@pytest.mark.parametrize("left", range(2, 19))
def test_a_log_that_was_cut_and_closed_again_is_found(left: int, without_the_servers: bool) -> None:
    """Over Flower every message ends in `log closed`, so a cut log looks complete. Messages to other parties name what it
    lacks, even without the server's log.
    """
    scripted = mask()
    scripted.events["hospital-0"] = [*scripted.events["hospital-0"][:left], Closed()]
    parties = [name for name in scripted.events if not (without_the_servers and name == "server")]
    report = scripted.report(*parties)
    early = [one.text for one in report.findings if "hospital-0" in one.text]
    only_the_server_knows = left >= 17  # of the last reveal: nobody else is told who gave it
    assert bool(early) is not (without_the_servers and only_the_server_knows)
    assert verify(
        {"hospital-0": scripted.logs("hospital-0")["hospital-0"]}
    ).missing  # alone it is not said to be all
    assert bool(report.missing) is without_the_servers


def test_sums_over_different_survivors_are_found_without_the_servers_log() -> None:
    scripted = mask()
    scripted.change("hospital-2", 10, members=(0, 1, 2))
    report = scripted.report("hospital-0", "hospital-2", "hospital-3")
    assert any(
        "was told of a sum over hospital-0, hospital-1, hospital-2" in one.text for one in report.findings
    )


def test_a_server_that_is_a_party_of_its_own_sums() -> None:
    scripted = mask()
    begun: Any = scripted.events["server"][0]
    scripted.identities["server"] = scripted.identities["hospital-1"]
    scripted.events["server"][0] = structs.replace(begun, key=scripted.identities["hospital-1"].verify_key)
    said = "server, line 2: the server's log is signed with the key of hospital-1, a party of its own sums"
    assert said in list(map(str, scripted.report("server", "hospital-0", "hospital-2").findings))


def test_parties_that_are_not_those_that_are_known() -> None:
    scripted = bfv()
    key = Identity.generate().verify_key
    clients = Roster((*scripted.roster.members[:3], Member("hospital-3", key)))
    assert scripted.key_holders
    holders = Roster((Member("key holder 1", key),))
    begins = {one: one.digest.hex()[:16] for one in (scripted.roster, scripted.key_holders, clients, holders)}

    def found(parties: Parties, *logs: str) -> list[str]:
        return list(map(str, verify(scripted.logs(*logs), parties).findings))

    def other(what: str, named: Roster, given: str, at: str = "hospital-0, line 2") -> str:
        return (
            f"{at}: the session's {what} are those of roster {begins[named]}…, not of the given one ({given})"
        )

    assert found(Parties(clients, scripted.key_holders)) == [
        other("clients", scripted.roster, f"{begins[clients]}…")
    ]
    assert found(Parties(scripted.roster, holders)) == [
        other("key holders", scripted.key_holders, f"{begins[holders]}…")
    ]
    assert found(Parties(scripted.roster)) == [other("key holders", scripted.key_holders, "none")]
    assert found(Parties(scripted.roster), "server") == [
        other("key holders", scripted.key_holders, "none", "server, line 2")
    ]
    # Who knows key holders besides has no quarrel with a session that needs none.
    masked = mask()
    assert not verify(masked.logs(), Parties(masked.roster, holders)).findings


# ---- notes ---------------------------------------------------------------------------------------


def test_key_holders_have_no_part_in_masks() -> None:
    """Even if clients, whose roster file lists both roles, name key holders."""
    scripted = honest()
    holders = Roster((Member("key holder 1", Identity.generate().verify_key),))
    for name in scripted.names:
        scripted.change(name, 2, holders=holders)
    report = scripted.report()
    assert not report.findings
    assert {one.text.split(") ")[-1] for one in report.notes} == {"did not reach the server"}
    assert [one.holders for one in report.sessions] == [None]


def test_what_was_lost_or_refused_is_a_note() -> None:
    scripted = mask()
    survivors: Any = scripted.events["hospital-0"][15]
    refused = Refused(
        survivors.session, survivors.frame.digest, survivors.frame.size, "PolicyError", "too few"
    )
    scripted.events["hospital-0"][15] = refused
    scripted.remove("hospital-3", 18)
    upload: Any = scripted.events["server"][30]
    scripted.events["server"][30] = Refused(
        upload.session, upload.frame.digest, 103, "RemoteProtocolError", "late", 0
    )
    assert list(map(str, scripted.report().notes)) == [
        "hospital-0, line 15: “upload” of round 1 (103 bytes) was refused by the server",
        "server, line 34: “survivors” of round 1 (50 bytes) was refused by hospital-0",
        "hospital-1, line 9: “upload” of round 0 (103 bytes) did not reach the server",
        "hospital-1, line 11: “upload” of round 1 (103 bytes) did not reach the server",
        "server, line 38: “consents” of round 1 (250 bytes) did not reach hospital-3",
    ]


@pytest.mark.parametrize(
    ("backend", "given", "missing"),
    [
        ("mask", ["server", "hospital-0"], "hospital-1, hospital-2, hospital-3"),
        ("mask", ["hospital-2", "hospital-1"], "the server, hospital-0, hospital-3"),
        ("mask", ["hospital-0", "hospital-1", "hospital-2", "hospital-3"], "the server"),
        ("bfv", ["server", *(f"hospital-{number}" for number in range(4))], "key holder 1"),
        ("bfv", ["key holder 1"], "the server, hospital-0, hospital-1, hospital-2, hospital-3"),
    ],
)
def test_logs_that_are_not_given_are_a_note(backend: str, given: list[str], missing: str) -> None:
    scripted = honest(backend)
    report = scripted.report(*given)
    assert not report.findings
    terms = scripted.masks or scripted.agreement
    assert terms
    assert [str(one) for one in report.notes if "reach" not in one.text] == [
        f"{given[0]}, line 2: session {terms.session.hex()[:8]}: no valid log of {missing} records taking part"
    ]
