"""The two files of an identity: the public file, which members exchange, and the secret file, which stays.

The public file is one line: `secure-afl-ed25519`, the verify key in hexadecimal, the name. The secret file has the same
line, followed by the secret key as PEM. Reading it checks that the two belong together.

The line of a server's key, for its audit log and its store, begins with `secure-afl-server-ed25519`, so that the two
kinds cannot be confused: a server whose key stood in the roster would be a client of its own sums.
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
_SHOWN = 40  # characters shown of a refused value
PASSPHRASE_FILE = "SECURE_AFL_PASSPHRASE_FILE"
_SECRET = b"PRIVATE KEY-----"


def public_line(member: Member, *, server: bool = False) -> str:
    """The content of the public file, without the end of the line."""
    return f"{SERVER_KIND if server else KIND} {member.verify_key.hex()} {member.name}"


def parse_member(name: object, verify_key: object) -> Member:
    """Parse a member from a file's name and key. Raises `LocalProtocolError`.

    A name that begins or ends with a space is refused: people cannot see the space, but it changes the roster's digest.
    """
    if not isinstance(name, str) or name != name.strip():
        raise LocalProtocolError(f"name: expected text without spaces around it, got {shown(name)}")
    if not isinstance(verify_key, str) or not _KEY.fullmatch(verify_key):
        # Not quoted: a misplaced value may be a secret.
        got = f"{len(verify_key)} characters" if isinstance(verify_key, str) else type(verify_key).__name__
        raise LocalProtocolError(
            f"verify_key: expected {2 * VERIFY_KEY_BYTES} lower-case hexadecimal digits, got {got}"
        )
    return Member(name, bytes.fromhex(verify_key))


def shown(value: object) -> str:
    """The beginning of a refused value."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def write_key(
    folder: Path, name: str, passphrase: bytes | None = None, *, server: bool = False
) -> tuple[Member, Path, Path]:
    """Create an identity of a party or a server: secret file NAME.key (mode 0600) and public file NAME.pub, both or
    neither.

    Raises `FileError` if either exists or cannot be written, `LocalProtocolError` for a name that a roster does not
    accept, `CryptoError` for a short passphrase.
    """
    identity = Identity.generate()
    member = parse_member(name, identity.verify_key.hex())
    if "/" in name or name.startswith((".", "-")):
        raise FileError(f"expected a valid file name (no '/', no '.' or '-' first), got {name!r}")
    secret, public = (folder / f"{name}.{ending}" for ending in ("key", "pub"))
    line = public_line(member, server=server).encode() + b"\n"
    whole.clear(secret)
    whole.write_new(secret, line + key_pem.to_pem(identity, passphrase), whole.SECRET)
    try:
        whole.write_new(public, line, whole.PUBLIC)
    except FileError:
        secret.unlink()  # just created; its public half is still unknown
        raise
    return member, secret, public


def read_public(path: Path, *, server: bool = False) -> Member:
    """Read a member, or the server, from a public file.

    Raises `FileError` for an invalid file, a secret file, or a key file of the other kind.
    """
    if is_secret(path):
        raise FileError(
            f"{path}: expected a public key file (.pub), got a secret one; if it left its owner's machine, "
            "replace that identity"
        )
    return _parse_line(path, whole.read_text(path), server)


def read_key(path: Path, passphrase: Callable[[], bytes], *, server: bool = False) -> tuple[Member, Identity]:
    """Read a member, or the server, and its identity from a secret file; calls `passphrase` only for an encrypted key.

    Raises `FileError` if other users can read the file, the passphrase is wrong, or the file is damaged or of the other
    kind.
    """
    data = whole.read(path, secret=True)
    line, _, pem = data.partition(b"\n")
    try:
        member = _parse_line(path, line.decode(), server)
        identity = key_pem.from_pem(pem, passphrase() if key_pem.is_encrypted(pem) else None)
    except UnicodeDecodeError:
        raise FileError(f"{path}: expected text in UTF-8, got other bytes: this is not a key file") from None
    except CryptoError as error:
        raise FileError(f"{path}: {error}") from None
    if identity.verify_key != member.verify_key:
        raise FileError(f"{path}: the secret key does not belong to the line above it: the file was altered")
    return member, identity


def service_passphrase() -> bytes:
    """The first line of the file that `SECURE_AFL_PASSPHRASE_FILE` names, which only its owner may read.

    The variable names a file rather than the passphrase, as child processes and crash reports see variables.
    Raises `FileError`.
    """
    if not (name := os.environ.get(PASSPHRASE_FILE)):
        raise FileError(f"expected {PASSPHRASE_FILE} to name a file with the passphrase, but it is not set")
    return whole.read(Path(name), secret=True).split(b"\n", 1)[0].removesuffix(b"\r")


def is_secret(path: Path) -> bool:
    """Whether a file contains a secret key."""
    # A member's name in the public line may look like the end of a PEM line.
    return any(
        line.startswith(b"-----BEGIN ") and line.endswith(_SECRET) for line in whole.read(path).splitlines()
    )


def is_server(path: Path) -> bool:
    """Whether a key file, public or secret, belongs to a server."""
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
