"""Roster files: what is written is read back, and anything else is refused by entry."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds.strategies import members

from secure_afl.crypto.identity import Identity
from secure_afl.protocol.files import roster
from secure_afl.protocol.files.roster import Parties
from secure_afl.protocol.session.errors import FileError, LocalProtocolError
from secure_afl.protocol.session.roster import Member, Roster, grouped


@st.composite
def parties(draw: st.DrawFn) -> Parties:
    every = draw(
        st.lists(
            members, min_size=1, max_size=8, unique_by=(lambda one: one.name, lambda one: one.verify_key)
        )
    )
    cut = draw(st.integers(1, len(every)))
    return Parties(Roster(tuple(every[:cut])), Roster(tuple(every[cut:])) if every[cut:] else None)


@given(parties())
def test_what_is_written_is_read_back_in_its_order(some: Parties) -> None:
    read = roster.parse(roster.text(some))
    assert read == some
    assert [one.digest for one in read.rosters().values()] == [one.digest for one in some.rosters().values()]


@given(parties(), parties())
def test_two_rosters_have_the_same_fingerprint_only_if_they_are_the_same(
    one: Parties, other: Parties
) -> None:
    same = one.clients == other.clients
    assert (one.clients.fingerprint == other.clients.fingerprint) is same
    assert one.clients.fingerprint.replace(" ", "") == one.clients.digest.hex()
    assert one.clients.fingerprint.startswith(one.clients.short_fingerprint)
    assert len(one.clients.short_fingerprint.split()) == 4


def entry(role: str, name: str, key: str) -> str:
    return f'[[{role}]]\nname = "{name}"\nverify_key = "{key}"\n'


A, B = "a1" * 32, "b2" * 32
GOOD = entry("clients", "A", A)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("", "expected at least one member"),
        (entry("key_holders", "A", A), "expected at least one member"),
        ("[[clients]\n", r"expected TOML, but the text does not parse: .*line 1"),
        ("x = " + "[" * 100_000, "expected TOML"),
        ("clients = 5", r"clients: expected tables \[\[clients\]\], got 5"),
        ("[clients]\nname = 'A'", r"clients: expected tables \[\[clients\]\], got \{'name': 'A'\}"),
        ("clients = [1]", r"entry 1 of clients: expected a table \[\[clients\]\], got 1"),
        (GOOD + "[[servers]]\n", "expected the tables clients and key_holders, got 'servers'"),
        (
            GOOD + "role = 'x'\n",
            "entry 1 of clients: expected the keys name and verify_key, got 'name, role, ver",
        ),
        (GOOD + "[[clients]]\n", "entry 2 of clients: expected the keys name and verify_key, got 'none'"),
        (GOOD + "[[key_holders]]\nname = 'B'", "entry 1 of key_holders: expected the keys"),
        (GOOD + entry("clients", "B", B[:-1]), "entry 2 of clients: verify_key: .* got 63 characters"),
        (
            GOOD + entry("clients", "B", B.upper()),
            "entry 2 of clients: verify_key: expected 64 lower-case hex",
        ),
        (
            GOOD + f"[[clients]]\nname = 3\nverify_key = '{B}'",
            "entry 2 of clients: name: expected text .* got 3",
        ),
        (GOOD + "[[clients]]\nname = 'B'\nverify_key = 7", "entry 2 of clients: verify_key: .* got int"),
        (
            GOOD + entry("clients", " B", B),
            "entry 2 of clients: name: expected text without spaces around it",
        ),
        (GOOD + entry("clients", "B" * 65, B), "entry 2 of clients: expected a printable name"),
        (GOOD + entry("clients", "\\u202e", B), "entry 2 of clients: expected a printable name"),
        (GOOD + entry("clients", "A", B), "the name A is registered twice"),
        (GOOD + entry("clients", "B", A), "the identity key a1a1.* is registered twice"),
        (GOOD + entry("key_holders", "B", A), "the identity key a1a1.* is registered twice"),
        (GOOD + entry("key_holders", "A", B), "the name A is registered twice"),
    ],
)
def test_one_error_names_what_is_wrong(tmp_path: Path, content: str, what: str) -> None:
    path = tmp_path / "roster.toml"
    path.write_text(content)
    with pytest.raises(FileError, match=what) as caught:
        roster.read(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    assert len(text) < 400


def test_nobody_is_client_and_key_holder() -> None:
    both = Roster((Member("A", Identity.generate().verify_key),))
    with pytest.raises(LocalProtocolError, match="registered twice"):
        Parties(both, both)


def test_groups_of_four() -> None:
    assert grouped(bytes.fromhex("0123456789abcdef")) == "0123 4567 89ab cdef"
