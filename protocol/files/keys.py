"""The two files of an identity: the public one, which members exchange, and the secret one, which stays.

The public file is one line: `secure-afl-ed25519`, the verify key in hexadecimal, the name. The secret file begins with the
same line; the secret key as PEM follows. Reading it checks that the two belong together.

A server's key, for its audit log and its store, has `secure-afl-server-ed25519` in that line instead, so that neither is
taken for the other: a server whose key stood in the roster would be a client of its own sums.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path

from secure_afl.crypto import key_pem
from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.identity import VERIFY_KEY_BYTES, Identity
from secure_afl.protocol.files import whole
from secure_afl.protocol.session.errors import FileError, LocalProtocolError
from secure_afl.protocol.session.roster import Member

KIND = "secure-afl-ed25519"
SERVER_KIND = "secure-afl-server-ed25519"
_KEY = re.compile(f"[0-9a-f]{{{2 * VERIFY_KEY_BYTES}}}")
_SHOWN = 40  # letters of what is refused
PASSPHRASE_FILE = "SECURE_AFL_PASSPHRASE_FILE"
_SECRET = b"PRIVATE KEY-----"


def public_line(member: Member, *, server: bool = False) -> str:
    """What the public file says, without the end of the line."""
    return f"{SERVER_KIND if server else KIND} {member.verify_key.hex()} {member.name}"


def parse_member(name: object, verify_key: object) -> Member:
    """A member as a file names it. Raises `LocalProtocolError`.

    A name that begins or ends with a space is refused: nobody sees the difference, and the roster's digest is another.
    """
    if not isinstance(name, str) or name != name.strip():
        raise LocalProtocolError(f"name: expected text without spaces around it, got {shown(name)}")
    if not isinstance(verify_key, str) or not _KEY.fullmatch(verify_key):
        # Not quoted: what stands in a wrong place may be a secret.
        got = f"{len(verify_key)} letters" if isinstance(verify_key, str) else type(verify_key).__name__
        raise LocalProtocolError(
            f"verify_key: expected {2 * VERIFY_KEY_BYTES} lower-case hexadecimal digits, got {got}"
        )
    return Member(name, bytes.fromhex(verify_key))


def shown(value: object) -> str:
    """The beginning of a value that was refused."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def write_key(
    folder: Path, name: str, passphrase: bytes | None = None, *, server: bool = False
) -> tuple[Member, Path, Path]:
    """Make an identity, of a party or a server: its secret file NAME.key (mode 0600) and its public file NAME.pub, both
    or none.

    Raises `FileError` if either is there already or cannot be written, `LocalProtocolError` for a name that the roster
    does not take, `CryptoError` for a short passphrase.
    """
    identity = Identity.generate()
    member = parse_member(name, identity.verify_key.hex())
    if "/" in name or name.startswith((".", "-")):
        raise FileError(f"expected a name that a file can have (no '/', no '.' or '-' first), got {name!r}")
    secret, public = (folder / f"{name}.{ending}" for ending in ("key", "pub"))
    line = public_line(member, server=server).encode() + b"\n"
    whole.write_new(secret, line + key_pem.to_pem(identity, passphrase), whole.SECRET)
    try:
        whole.write_new(public, line, whole.PUBLIC)
    except FileError:
        secret.unlink()  # made a moment ago, and nobody knows its public half
        raise
    return member, secret, public


def read_public(path: Path, *, server: bool = False) -> Member:
    """The member, or the server, in a public file.

    Raises `FileError`, in clear words for a secret file, or a file of the other kind, in its place.
    """
    if is_secret(path):
        raise FileError(
            f"{path}: expected a public key file (.pub), got a secret one; if it left its owner's machine, "
            "that identity must be replaced"
        )
    return _parse_line(path, whole.read_text(path), server)


def read_key(path: Path, passphrase: Callable[[], bytes], *, server: bool = False) -> tuple[Member, Identity]:
    """The member, or the server, and its identity in a secret file; `passphrase` is asked for only if there is one.

    Raises `FileError` if others can read the file, if the passphrase is wrong, if the file is damaged or of the other kind.
    """
    data = whole.read(path, secret=True)
    line, _, pem = data.partition(b"\n")
    try:
        member = _parse_line(path, line.decode(), server)
        identity = key_pem.from_pem(pem, passphrase() if key_pem.is_encrypted(pem) else None)
    except UnicodeDecodeError:
        raise FileError(f"{path}: expected text in UTF-8, some bytes are not: it is no key file") from None
    except CryptoError as error:
        raise FileError(f"{path}: {error}") from None
    if identity.verify_key != member.verify_key:
        raise FileError(f"{path}: the secret key does not belong to the line above it: the file was altered")
    return member, identity


def service_passphrase() -> bytes:
    """The first line of the file that `SECURE_AFL_PASSPHRASE_FILE` names, which only its owner may read.

    Raises `FileError`. The variable holds no passphrase itself, as child processes and crash reports get it.
    """
    if not (name := os.environ.get(PASSPHRASE_FILE)):
        raise FileError(f"expected {PASSPHRASE_FILE} to name a file with the passphrase, got nothing")
    return whole.read(Path(name), secret=True).split(b"\n", 1)[0].removesuffix(b"\r")


def is_secret(path: Path) -> bool:
    """Whether a file has a secret key in it."""
    # A member's name, in the public line, may look like the end of such a line.
    return any(
        line.startswith(b"-----BEGIN ") and line.endswith(_SECRET) for line in whole.read(path).splitlines()
    )


def is_server(path: Path) -> bool:
    """Whether a key file, public or secret, is a server's."""
    return whole.read(path).startswith(f"{SERVER_KIND} ".encode())


def _parse_line(path: Path, text: str, server: bool) -> Member:
    lines = text.splitlines()
    words = lines[0].split(" ", 2) if len(lines) == 1 else []
    if len(words) != 3 or words[0] not in (KIND, SERVER_KIND):
        raise FileError(f"{path}: expected one line '{KIND} KEY NAME', as secure-afl keys new writes it")
    if server and words[0] == KIND:
        raise FileError(
            f"{path}: expected a server's key, got the key of a client or key holder ({words[2]}): make one with "
            "secure-afl keys new NAME --server"
        )
    if not server and words[0] == SERVER_KIND:
        raise FileError(
            f"{path}: expected the key of a client or key holder, got a server's ({words[2]}): a server contributes to no "
            "sum and opens none, so leave it out"
        )
    try:
        return parse_member(words[2], words[1])
    except LocalProtocolError as error:
        raise FileError(f"{path}: {error}") from None
