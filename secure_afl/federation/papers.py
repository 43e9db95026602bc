"""What a coordinator and a party send each other before the first session: a kit, an answer, editions of the roster.

Each is one signed JSON object in one form. A kit's and an edition's signature is the coordinator's; an answer's is that of the
identity that it announces, so nobody answers with a key that is not theirs.

The coordinator may lie: it could hand each party another roster. So the parties compare the roster's fingerprint by
telephone, as without a coordinator; the signatures say who made a paper and keep it whole on its way.
"""

import io
import re
import zipfile
import zlib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
from msgspec import structs

from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.identity import Identity, verify
from secure_afl.crypto.kdf import Label, digest
from secure_afl.protocol.files import whole
from secure_afl.protocol.files.roster import Parties
from secure_afl.protocol.session.errors import FileError, LocalProtocolError
from secure_afl.protocol.session.roster import Member, Roster

KIT, README = "kit.json", "README.md"
_LARGEST = 2**24  # bytes of a kit that is unpacked
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,60}\.toml")
_FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,60}")
_TAKEN = {f"{name}.toml" for name in ("data", "node", "policy", "project", "roster", "server", "study")}
Key = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]


class Part(StrEnum):
    """What a party does in sessions."""

    CLIENT = "client"
    HOLDER = "key holder"


class Packed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A study in texts of files. name: of its folder in `studies/`, empty for the only study, which is in the party's own folder;
    codebook: its file's name and text, if the study names one.

    Raises `ValueError` for names that no such folder or file may have.
    """

    name: str
    study: str
    codebook: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        # Folder and codebook get these names at the party.
        if self.name and not _FOLDER.fullmatch(self.name):
            raise ValueError(f"expected a study's name of letters, digits and '-', got {self.name!r}")
        # Some file systems take names that differ in case for one.
        if self.codebook and (self.codebook[0].lower() in _TAKEN or not _NAME.fullmatch(self.codebook[0])):
            raise ValueError(
                f"expected the codebook under a plain name (codebook.toml), got {self.codebook[0]!r}"
            )

    @property
    def files(self) -> dict[str, str]:
        """The texts, by their files' names in the study's folder."""
        return {"study.toml": self.study, **dict([self.codebook] if self.codebook else [])}


class Kit(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="paper", tag="kit"):
    """What one party needs, in texts of files. studies: one, or several with a name each; authority: PEM; coordinator: whose key
    signs this and the roster.
    """

    name: str
    part: Part
    project: str
    studies: Annotated[tuple[Packed, ...], msgspec.Meta(min_length=1)]
    superlink: str
    authority: str
    coordinator: Key
    signature: bytes = b""

    def __post_init__(self) -> None:
        names = [one.name for one in self.studies]
        if len({name.lower() for name in names}) < len(names) or (len(names) > 1 and "" in names):
            raise ValueError(f"expected several studies to have a name each, got {names}")


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="paper", tag="answer"):
    """A party's public keys. kit: digest of the one that is answered; node_key: a line of OpenSSH."""

    kit: Key
    name: str
    verify_key: Key
    node_key: str
    signature: bytes = b""


class Edition(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="paper", tag="roster"):
    """A roster. number: from 1, each edition takes the place of those below; studies: names and digests of what it is for, in the
    kit's order; why: what changed.
    """

    number: Annotated[int, msgspec.Meta(ge=1)]
    studies: tuple[tuple[str, Key], ...]
    clients: tuple[tuple[str, Key], ...]
    key_holders: tuple[tuple[str, Key], ...]
    why: str
    signature: bytes = b""

    @property
    def parties(self) -> Parties:
        """Raises `LocalProtocolError` for members that make no roster."""
        clients, holders = (
            tuple(Member(name, key) for name, key in members) for members in (self.clients, self.key_holders)
        )
        return Parties(Roster(clients), Roster(holders) if holders else None)


LABELS = {
    Kit: Label.KIT_SIGNATURE,
    Answer: Label.ANSWER_SIGNATURE,
    Edition: Label.EDITION_SIGNATURE,
}
Paper = TypeVar("Paper", Kit, Answer, Edition)


def signed(paper: Paper, identity: Identity) -> Paper:
    """The paper with a signature."""
    return structs.replace(paper, signature=identity.sign(LABELS[type(paper)], _unsigned(paper)))


def fingerprint(name: str, key: bytes) -> str:
    """What people read to each other of a key, as `secure-afl keys show` prints it."""
    return Roster((Member(name, key),)).fingerprint


def paper_digest(paper: Kit | Edition) -> bytes:
    """32 bytes that two papers share only if they say the same."""
    return digest(LABELS[type(paper)], _unsigned(paper))


def encoded(paper: Kit | Answer | Edition) -> bytes:
    """What a file holds."""
    return msgspec.json.encode(paper) + b"\n"


def decoded(data: bytes, kind: type[Paper], key: bytes | None = None) -> Paper:
    """A paper of that kind that its signer signed. key: whose signature is asked for; None is the one that the paper names.

    Raises `FileError`.
    """
    what = kind.__struct_config__.tag
    try:
        paper = msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FileError(
            f"expected a {what} as secure-afl writes it, and this file is not one ({error}): ask for it again"
        ) from None
    signer = _named(paper) if key is None else key
    if encoded(paper) != data or signer is None:
        raise FileError(f"expected a {what} as secure-afl writes it, this one was edited")
    try:
        verify(signer, paper.signature, LABELS[kind], _unsigned(paper))
    except CryptoError as error:
        raise FileError(f"expected a {what} signed with the key {signer.hex()[:16]}…: {error}") from None
    if isinstance(paper, Edition):
        try:
            _ = paper.parties
        except LocalProtocolError as error:
            raise FileError(str(error)) from None
    return paper


def packed(kit: Kit, readme: str) -> bytes:
    """A kit as a file: a ZIP archive with a page for people, so that any machine shows it."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in ((README, readme.encode()), (KIT, encoded(kit))):
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)
    return out.getvalue()


def read_kit(path: Path) -> Kit:
    """The kit in a file. Raises `FileError`."""
    try:
        # Nothing is unpacked to a name that the archive chooses.
        with zipfile.ZipFile(io.BytesIO(whole.read(path))) as archive, archive.open(KIT) as file:
            data = file.read(_LARGEST + 1)
    except (zipfile.BadZipFile, KeyError, NotImplementedError, RuntimeError, EOFError, zlib.error) as error:
        raise FileError(
            f"{path}: expected a kit as the coordinator sent it, and this file is not one ({error}): ask for it again"
        ) from None
    if len(data) > _LARGEST:
        raise FileError(f"{path}: expected at most {_LARGEST} bytes in a kit, got more")
    return _at(path, data, Kit, None)


def read(path: Path, kind: type[Paper], key: bytes | None = None) -> Paper:
    """A paper in a file, see `decoded`. Raises `FileError`."""
    return _at(path, whole.read(path), kind, key)


def _at(path: Path, data: bytes, kind: type[Paper], key: bytes | None) -> Paper:
    try:
        return decoded(data, kind, key)
    except FileError as error:
        raise FileError(f"{path}: {error}") from None


def _named(paper: Kit | Answer | Edition) -> bytes | None:
    """The key that a paper itself names; an edition names none."""
    match paper:
        case Kit():
            return paper.coordinator
        case Answer():
            return paper.verify_key
        case Edition():
            return None


def _unsigned(paper: Kit | Answer | Edition) -> bytes:
    return msgspec.json.encode(structs.replace(paper, signature=b""))
