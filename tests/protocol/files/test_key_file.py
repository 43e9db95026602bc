"""Key files: made whole, opened by their owner, and a secret never where a public key belongs."""

import os
import stat
import traceback
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from worlds.strategies import members

from secure_afl.crypto import key_pem
from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.identity import Identity
from secure_afl.protocol.files import keys, whole
from secure_afl.protocol.session.errors import FileError, LocalProtocolError
from secure_afl.protocol.session.roster import Member

PASSPHRASE = b"correct horse battery staple"


def nobody_asks() -> bytes:
    raise AssertionError("no passphrase is needed")


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_pem, "_COST", 16)


@given(members)
@example(Member("-----BEGIN PRIVATE KEY-----", Identity.generate().verify_key))
def test_a_public_line_is_read_back(member: Member) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.pub"
        for end in ("", "\n", "\r\n"):  # a mail programme may change it
            path.write_text(keys.public_line(member) + end, encoding="utf-8", newline="")
            assert keys.read_public(path) == member


@pytest.mark.parametrize("server", [False, True])
def test_a_servers_key_is_not_taken_for_a_partys_nor_the_other_way_round(
    tmp_path: Path, server: bool
) -> None:
    member, secret, public = keys.write_key(tmp_path, "A", server=server)
    assert keys.is_server(public) is keys.is_server(secret) is server
    assert keys.read_public(public, server=server) == member
    assert keys.read_key(secret, nobody_asks, server=server)[0] == member
    what = "got the key of a client or key holder" if not server else r"got a server's \(A\): .* leave it out"
    with pytest.raises(FileError, match=what):
        keys.read_public(public, server=not server)
    with pytest.raises(FileError, match=what):
        keys.read_key(secret, nobody_asks, server=not server)


@pytest.mark.parametrize("passphrase", [None, PASSPHRASE])
def test_an_identity_is_made_and_opened(tmp_path: Path, passphrase: bytes | None) -> None:
    before = os.umask(0)
    try:
        member, secret, public = keys.write_key(tmp_path, "Hospital A", passphrase)
    finally:
        os.umask(before)
    assert (secret.name, public.name) == ("Hospital A.key", "Hospital A.pub")
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert stat.S_IMODE(public.stat().st_mode) == 0o644
    assert keys.read_public(public) == member
    asked: Callable[[], bytes] = (lambda: PASSPHRASE) if passphrase else nobody_asks
    again, identity = keys.read_key(secret, asked)
    assert again == member
    assert identity.verify_key == member.verify_key
    raw = identity._key.private_bytes_raw()
    assert raw.hex() not in public.read_text()
    if passphrase:
        assert identity.pkcs8() not in secret.read_bytes()
        assert key_pem.to_pem(identity) not in secret.read_bytes()
        with pytest.raises(FileError, match=r"A\.key: the secret key does not open: the passphrase is wrong"):
            keys.read_key(secret, lambda: b"another passphrase")


@pytest.mark.parametrize("there", ["A.key", "A.pub"])
def test_no_identity_is_overwritten_and_none_is_half_made(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("mine")
    with pytest.raises(FileError, match=f"{there}: expected a free name"):
        keys.write_key(tmp_path, "A")
    assert os.listdir(tmp_path) == [there]
    assert (tmp_path / there).read_text() == "mine"


def test_what_cannot_be_a_name_or_a_passphrase_makes_nothing(tmp_path: Path) -> None:
    for name in ("", " A", "A ", "a\nb", "A" * 65, "a\0"):
        with pytest.raises(LocalProtocolError):
            keys.write_key(tmp_path, name)
    for name in ("../A", "a/b", ".hidden", "-option"):
        with pytest.raises(FileError, match="expected a valid file name"):
            keys.write_key(tmp_path, name)
    with pytest.raises(CryptoError, match="at least 12 bytes"):
        keys.write_key(tmp_path, "A", b"short")
    with pytest.raises(FileError, match="No such file"):
        keys.write_key(tmp_path / "absent", "A")
    with pytest.raises(FileError, match="File name too long"):
        keys.write_key(tmp_path, "𝔸" * 63)
    assert os.listdir(tmp_path) == []


def test_a_secret_key_is_no_public_one(tmp_path: Path) -> None:
    for name, passphrase in (("A", None), ("B", PASSPHRASE)):
        _, secret, public = keys.write_key(tmp_path, name, passphrase)
        assert keys.is_secret(secret)
        assert not keys.is_secret(public)
        with pytest.raises(FileError, match="got a secret one; if it left its owner's machine"):
            keys.read_public(secret)
        secret.chmod(0o640)
        with pytest.raises(FileError, match="got mode 0640"):
            keys.read_key(secret, nobody_asks)


def test_a_secret_key_under_anothers_name_is_refused(tmp_path: Path) -> None:
    _, mine, _ = keys.write_key(tmp_path, "A")
    _, theirs, _ = keys.write_key(tmp_path, "B")
    swapped = theirs.read_bytes().partition(b"\n")[0] + b"\n" + mine.read_bytes().partition(b"\n")[2]
    whole.write_new(tmp_path / "C.key", swapped, whole.SECRET)
    with pytest.raises(FileError, match="the secret key does not belong to the line above it"):
        keys.read_key(tmp_path / "C.key", nobody_asks)


@settings(max_examples=150)
@given(st.booleans(), st.integers(0), st.integers(1, 255))
def test_an_altered_file_never_gives_another_key(encrypted: bool, at: int, mask: int) -> None:
    with TemporaryDirectory() as folder:
        member, secret, _ = keys.write_key(Path(folder), "A", PASSPHRASE if encrypted else None)
        data = bytearray(secret.read_bytes())
        body = data.splitlines()[2].decode()
        data[at % len(data)] ^= mask
        secret.write_bytes(data)
        try:
            _, identity = keys.read_key(secret, lambda: PASSPHRASE)
        except FileError as error:
            text = "".join(traceback.format_exception(error))
            assert body not in text
            assert PASSPHRASE.decode() not in text
        else:
            assert identity.verify_key == member.verify_key


def test_a_secret_that_a_killed_call_left_is_removed_by_the_next(tmp_path: Path) -> None:
    left = tmp_path / ".A.key.0123456789abcdef.tmp"
    left.write_text("a secret that no name leads to")
    keys.write_key(tmp_path, "A")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["A.key", "A.pub"]
