"""A project as a file: who shall take part, in what study, by which server. Its coordinator writes it; every party gets it.

name = "Heart disease in four hospitals"
parties = ["Hospital A", "Hospital B", "Hospital C", "Hospital D"]
key_holders = []                     # where sums are encrypted
server = "server.example:8000"       # where parties reach it: a name or an address, and a port
study = "study.toml"                 # beside this file; or several: ["mortality.toml", "stroke.toml"]
contact = "Dr Noor, noor@hospital-a.example, +41 44 000 00 00"

[legal]                              # for the audit page; in your words
controller = "…"                     # who decides why and how the data are used
basis = "…"                          # on what ground, with its paragraph
retention = "…"                      # how long model and logs are kept
"""

import ipaddress
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from secure_afl.protocol.files import whole
from secure_afl.protocol.session.errors import FileError
from secure_afl.protocol.session.roster import LONGEST_NAME

Words = Annotated[str, msgspec.Meta(min_length=1, max_length=2000)]


class Legal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a data-protection officer asks for, in the words of who is responsible."""

    controller: Words
    basis: Words
    retention: Words


class Project(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """See the module. private: where the server's operator reaches it on its own machine.

    Raises `FileError` for a server that is no HOST:PORT, and for names, of parties or studies, that are there twice, or alike
    as file names.
    """

    name: Words
    parties: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    server: str
    contact: Words
    study: str | Annotated[tuple[str, ...], msgspec.Meta(min_length=1)] = "study.toml"
    key_holders: tuple[str, ...] = ()
    private: str = "127.0.0.1:8001"
    legal: Legal | None = None

    def __post_init__(self) -> None:
        _ = self.port
        for one in self.everybody:
            fits = 0 < len(one) <= LONGEST_NAME and one.isprintable() and one == one.strip()
            if not fits or "/" in one or one.startswith((".", "-")):
                raise FileError(
                    f"expected printable names of 1 to {LONGEST_NAME} letters that a file can have (no '/', no '.' or '-' "
                    f"first, no spaces around), got {one!r}"
                )
        files = (self.study,) if isinstance(self.study, str) else self.study
        for file in files:
            if "/" in file or not file.endswith(".toml"):
                raise FileError(
                    f"study: expected the name of a file beside the project, as study.toml, got {file!r}"
                )
        _check_differ(self.everybody)
        _check_differ([file.removesuffix(".toml") for file in files])

    @property
    def studies(self) -> dict[str, str]:
        """The studies' files, by the names of their folders in `studies/`; a project's only study has no such name."""
        if isinstance(self.study, str):
            return {"": self.study}
        return {slug(file.removesuffix(".toml")): file for file in self.study}

    @property
    def everybody(self) -> tuple[str, ...]:
        return self.parties + self.key_holders

    @property
    def host(self) -> str:
        """Without the brackets of an IPv6 address."""
        return self.server.rpartition(":")[0].removeprefix("[").removesuffix("]")

    @property
    def port(self) -> int:
        host, _, port = self.server.rpartition(":")
        if not (port.isdecimal() and 0 < int(port) < 2**16 and _is_host(host)):
            raise FileError(
                f"server: expected a name or an address and a port, as server.example:8000, got {self.server!r}"
            )
        return int(port)


def _check_differ(names: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for one in names:
        if twin := seen.get(slug(one)):
            raise FileError(f"expected names that differ in letters or digits, got {twin!r} and {one!r}")
        seen[slug(one)] = one


def _is_host(host: str) -> bool:
    try:
        ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return bool(re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?", host))
    return True


def slug(name: str) -> str:
    """A party's name as a part of a file's name: letters and digits of ASCII, others by their number."""
    kept = "".join(one if one.isascii() else f" {ord(one):x} " for one in name)
    return re.sub(r"[^A-Za-z0-9]+", "-", kept).strip("-").lower() or "party"


def parse(content: str) -> Project:
    """The project in the text of a file. Raises `FileError`."""
    return whole.parse_toml(content, Project)


def read(path: Path) -> Project:
    """The project in a file. Raises `FileError`."""
    return whole.read_parsed(path, parse)
