"""The roster file: clients and key holders, by name and verify key, the same at every party.

TOML with one table for each party, in the order of their indices:

    [[clients]]
    name = "Hospital A"
    verify_key = "64 hexadecimal digits"

and `[[key_holders]]` likewise, if sums are encrypted.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from secure_afl.protocol.files import whole
from secure_afl.protocol.files.keys import parse_member, shown
from secure_afl.protocol.session.errors import FileError, LocalProtocolError
from secure_afl.protocol.session.roster import Member, Roster

_HEADING = """\
# All parties of the study. Every party has this same file; messages name a party by its index in it.
# Before the first session compare, for example by telephone, the fingerprints that `secure-afl keys show` prints.
"""


@dataclass(frozen=True)
class Parties:
    """The roster of clients and that of key holders, or None if nothing is encrypted.

    No party may be in both: clients must not collude with a key holder.
    """

    clients: Roster
    key_holders: Roster | None = None

    def __post_init__(self) -> None:
        if self.key_holders:
            Roster(self.clients.members + self.key_holders.members)  # refuses a party that is in both

    @property
    def everybody(self) -> tuple[Member, ...]:
        """All parties, in the order of their indices in a session."""
        return self.clients.members + (self.key_holders.members if self.key_holders else ())

    def rosters(self) -> dict[str, Roster]:
        """The rosters by the names of their tables."""
        both = {"clients": self.clients, "key_holders": self.key_holders}
        return {role: roster for role, roster in both.items() if roster}


def text(parties: Parties) -> str:
    """The file's content; `parse` reads it back."""
    tables = [
        # JSON and TOML quote printable text alike.
        f"\n[[{role}]]\nname = {json.dumps(member.name, ensure_ascii=False)}\n"
        f'verify_key = "{member.verify_key.hex()}"\n'
        for role, roster in parties.rosters().items()
        for member in roster.members
    ]
    return _HEADING + "".join(tables)


def parse(content: str) -> Parties:
    """Parse a roster file. Raises `FileError`, which names the entry."""
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
    """Read the parties from a file. Raises `FileError`."""
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
