"""What is told of a session, word for word: `stories/` holds the texts."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from worlds.audits import PLAN
from worlds.encrypted import EVERY_BACKEND
from worlds.scripted import Scripted, begun_anew, honest

from secure_afl.crypto.noise import Block, Noise
from secure_afl.protocol.audit.check import verify
from secure_afl.protocol.audit.events import Aborted, Refused, Withheld
from secure_afl.protocol.audit.story import Story, stories
from secure_afl.protocol.homomorphic.agreement import Release
from secure_afl.protocol.session.parameters import Profile, RidgeSystem, SumPlan

TEXTS = Path(__file__).parent / "stories"
LONGER = SumPlan("moments", 1200, 10.0, 20)


def shown(story: Story) -> str:
    """All of a story but its session's random name."""
    lines = [f"{word}: {text}" for word, text in story.facts]
    for account in story.accounts:
        lines += ["", account.client]
        for one in account.uploads:
            cells = (f"{one.time:%H:%M:%S}", one.statistic, one.values, one.form, one.over, one.size)
            lines += [" | ".join(map(str, cells)), one.sentence]
        lines += account.besides
    return "\n".join([*lines, "", story.caution, ""])


def masked() -> Scripted:
    """One sum is opened, one given up, and of one the server says nothing; clients complain, refuse and withhold."""
    scripted = Scripted(plan=(*PLAN, LONGER)).begin()
    terms = scripted.masks
    assert terms
    session = terms.transcript()
    scripted.change("hospital-1", 7, members=(2, 3))
    scripted.sum(0)
    scripted.masked_uploads(1, (0, 1, 2))
    scripted.remove("hospital-3", len(scripted.events["hospital-3"]))
    scripted.add("hospital-3", Withheld(session, 1, "CryptoError"))
    scripted.add("server", Aborted(session, "too few uploads", 1))
    scripted.add("hospital-1", Refused(session, bytes(32), 9, "CryptoError"))
    scripted.add("hospital-1", Refused(session, bytes(32), 9, "PolicyError", "the second"))
    scripted.add(
        "hospital-2", Refused(session, bytes(32), 9, "PolicyError", "a message that it was to refuse")
    )
    scripted.masked_uploads(2, (0, 1, 2, 3))
    scripted.change("hospital-3", 2, policy=replace(EVERY_BACKEND, corrupted=0.0))
    return scripted.end()


def without_server() -> Scripted:
    """Two sums over different clients."""
    return Scripted(profile=Profile.SEMI_HONEST).begin().sum(0).sum(1, (0, 1, 3)).end()


def given_up() -> Scripted:
    """Two key holders; a round that is begun anew, and one that ends with the session."""
    scripted = begun_anew(holders=2)
    scripted.encrypted_uploads(1, 3, scripted.indices, (0, 2))
    assert scripted.agreement
    scripted.add("server", Aborted(scripted.agreement.transcript(), "a key holder is missing"))
    return scripted


def layered() -> Scripted:
    """Three sums, the last of all clients; in the first two one masks and does not encrypt."""
    scripted = Scripted("bfv+mask", plan=(*PLAN, LONGER)).begin()
    for number in (0, 1):
        scripted.sum(number, masked=(0, 1, 2, 3))
    return scripted.sum(2, (0, 1, 2, 3)).end()


def weights() -> Scripted:
    """Of a system that the key holder solves."""
    plan = [SumPlan("system", 6, 1.0, system=RidgeSystem(2, 1, 1.0))]
    return honest("ckks", plan=plan, release=Release.WEIGHTS)


@pytest.mark.parametrize(
    ("name", "scripted", "logs"),
    [
        ("masked", masked, ()),
        ("masked-without-server", without_server, ("hospital-2", "hospital-0", "hospital-1")),
        ("masked-server-alone", masked, ("server",)),
        ("encrypted", given_up, ()),
        ("encrypted-one-client", given_up, ("hospital-0",)),
        ("masked-and-encrypted", layered, ()),
        ("masked-and-encrypted-one-client", layered, ("hospital-0",)),
        ("masked-and-encrypted-key-holder-alone", layered, ("key holder 1",)),
        ("weights", weights, ()),
    ],
)
def test_the_words_of_a_story(name: str, scripted: Callable[[], Scripted], logs: Sequence[str]) -> None:
    report = scripted().report(*logs)
    [story] = stories(report)
    assert shown(story) == (TEXTS / f"{name}.txt").read_text()
    assert story.name in {one.terms.session.hex()[:8] for one in report.sessions}


def test_sessions_are_told_apart() -> None:
    """In the order of their logs; a masked session under an encrypted one is told with it."""
    scripted, other = layered(), masked()
    logs = scripted.logs("hospital-0") | {
        f"far {name}": log for name, log in other.logs("hospital-1").items()
    }
    first, second = stories(verify(logs))
    assert scripted.agreement
    assert other.masks
    assert [first.name, second.name] == [one.session.hex()[:8] for one in (scripted.agreement, other.masks)]


@pytest.mark.parametrize(("clients", "sums"), [(12, 13), (13, 12)])
def test_long_lists_are_cut_short_and_counted(clients: int, sums: int) -> None:
    names = [f"site-{number}" for number in range(clients)]
    scripted = Scripted(clients=names, plan=[SumPlan(f"sum {number}", 1, 1.0) for number in range(sums)])
    assert scripted.masks
    scripted.agrees(scripted.masks, "site-0")
    [story] = stories(scripted.end().report("site-0"))
    facts = dict(story.facts)
    twelve = [", ".join(names[:12]), ", ".join(f"“sum {number}” (1 numbers)" for number in range(12))]
    more = ["", " and 1 more"] if clients == 12 else [" and 1 more", ""]
    assert [facts["clients invited"], facts["sums agreed on"]] == [
        text + rest for text, rest in zip(twelve, more, strict=True)
    ]
    [account] = story.accounts
    assert account.uploads == ()
    assert account.besides == ("In all, site-0 sent 0 bytes in 0 messages.",)


@pytest.mark.parametrize("number", [2, None])
def test_an_upload_of_no_planned_round_is_told_all_the_same(number: int | None) -> None:
    scripted = Scripted().begin()
    scripted.masked_uploads(1, (0, 1, 2, 3))
    scripted.change("hospital-0", len(scripted.events["hospital-0"]), round=number)
    [story] = stories(scripted.end().report("hospital-0"))
    assert [(one.statistic, one.values) for one in story.accounts[0].uploads] == [("?", 0)]


def test_noise_is_told_once_for_sums_that_have_the_same() -> None:
    """A client draws new noise for each sum; blocks without entries are not mentioned."""
    noise = Noise((Block(4, Fraction(5, 2)), Block(0, Fraction(1)), Block(3000, Fraction(1, 8))), 9)
    plan = [SumPlan(name, 3004, 10.0, 20, noise=noise) for name in ("first", "second")]
    scripted = Scripted(plan=plan)
    assert scripted.masks
    scripted.agrees(scripted.masks, *scripted.names)
    [story] = stories(scripted.end().report())
    assert [text for word, text in story.facts if word == "noise of each client"] == [
        "drawn anew for each sum, standard deviation 2.5 on 4 numbers, 0.125 on 3,000 numbers"
    ]
    [plain] = stories(honest().end().report())
    assert "noise of each client" not in dict(plain.facts)
