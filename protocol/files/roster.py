"""The roster as a file: clients and key holders, by name and verify key, the same at every party.

TOML, a table for each party, in the order of their numbers:

    [[clients]]
    name = "Hospital A"
    verify_key = "64 hexadecimal digits"

and `[[key_holders]]` likewise, where sums are encrypted.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from secure_afl.protocol.files import whole
from secure_afl.protocol.files.keys import parse_member, shown
from secure_afl.protocol.session.errors import FileError, LocalProtocolError
from secure_afl.protocol.session.roster import Member, Roster

_HEADING = """\
# Who takes part: every party has this same file, and its number in messages is its place here.
# Read the fingerprints that `secure-afl keys show` prints to each other before the first session.
"""


@dataclass(frozen=True)
class Parties:
    """Who takes part: the roster of clients, and that of key holders, or None where nothing is encrypted.

    Nobody is both, as a key holder that is a client too would be one whom the others must not be in league with.
    """

    clients: Roster
    key_holders: Roster | None = None

    def __post_init__(self) -> None:
        if self.key_holders:
            Roster(self.clients.members + self.key_holders.members)  # refuses who is in both

    @property
    def everybody(self) -> tuple[Member, ...]:
        """In the order of their numbers in a session."""
        return self.clients.members + (self.key_holders.members if self.key_holders else ())

    def rosters(self) -> dict[str, Roster]:
        """By the name of their tables."""
        both = {"clients": self.clients, "key_holders": self.key_holders}
        return {role: roster for role, roster in both.items() if roster}


def text(parties: Parties) -> str:
    """What the file says; `parse` gives the same parties back."""
    tables = [
        # A printable text is quoted in JSON as it is in TOML.
        f"\n[[{role}]]\nname = {json.dumps(member.name, ensure_ascii=False)}\n"
        f'verify_key = "{member.verify_key.hex()}"\n'
        for role, roster in parties.rosters().items()
        for member in roster.members
    ]
    return _HEADING + "".join(tables)


def parse(content: str) -> Parties:
    """The parties in the text of a file. Raises `FileError` that names the entry."""
    document = whole.load_toml(content)
    if unknown := sorted(document.keys() - {"clients", "key_holders"}):
        raise FileError(f"expected the tables clients and key_holders, got {shown(unknown[0])}")
    members = {role: _members(role, document.get(role, [])) for role in ("clients", "key_holders")}
    try:
        holders = Roster(members["key_holders"]) if members["key_holders"] else None
        return Parties(Roster(members["clients"]), holders)
    except LocalProtocolError as error:
        raise FileError(str(error)) from None


def read(path: Path) -> Parties:
    """The parties in a file. Raises `FileError`."""
    return whole.read_parsed(path, parse)


def _members(role: str, entries: object) -> tuple[Member, ...]:
    if not isinstance(entries, list):
        raise FileError(f"{role}: expected tables [[{role}]], got {shown(entries)}")
    members = []
    for number, entry in enumerate(entries, 1):
        where = f"entry {number} of {role}"
        if not isinstance(entry, dict):
            raise FileError(f"{where}: expected a table [[{role}]], got {shown(entry)}")
        if entry.keys() != {"name", "verify_key"}:
            got = ", ".join(sorted(entry)) or "none"
            raise FileError(f"{where}: expected the keys name and verify_key, got {shown(got)}")
        try:
            members.append(parse_member(entry["name"], entry["verify_key"]))
        except LocalProtocolError as error:
            raise FileError(f"{where}: {error}") from None
    return tuple(members)
