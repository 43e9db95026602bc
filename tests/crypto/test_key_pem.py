"""Identities as PEM: what is written is read back, anything else is refused, and no text shows a secret."""

import secrets
import traceback
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from secure_afl.crypto import key_pem
from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.identity import Identity
from secure_afl.crypto.kdf import Label

PASSPHRASE = b"correct horse battery staple"
passphrases = st.binary(min_size=key_pem.PASSPHRASE_BYTES, max_size=200)


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guess costs microseconds; everything else is as it is."""
    monkeypatch.setattr(key_pem, "_COST", 16)


@pytest.mark.usefixtures("cheap")
@settings(max_examples=50)
@given(st.none() | passphrases)
def test_what_is_written_is_read_back(passphrase: bytes | None) -> None:
    identity = Identity.generate()
    pem = key_pem.to_pem(identity, passphrase)
    read = key_pem.from_pem(pem, passphrase)
    assert read.verify_key == identity.verify_key
    assert read.sign(Label.FRAME_SIGNATURE, b"x") == identity.sign(Label.FRAME_SIGNATURE, b"x")
    assert key_pem.is_encrypted(pem) is (passphrase is not None)
    assert max(map(len, pem.splitlines())) <= 64  # RFC 7468


@pytest.mark.usefixtures("cheap")
@settings(max_examples=50)
@given(passphrases, passphrases | st.just(b""))
def test_only_the_passphrase_opens_it(passphrase: bytes, other: bytes) -> None:
    identity = Identity.generate()
    pem = key_pem.to_pem(identity, passphrase)
    assert pem != key_pem.to_pem(identity, passphrase)  # a salt and an IV of its own
    if other != passphrase:
        # CBC has no tag, but a wrong key passes for PKCS #8 with a probability far below 2^-100.
        with pytest.raises(CryptoError, match="the passphrase is wrong or the key damaged"):
            key_pem.from_pem(pem, other)


def test_a_guess_costs_what_it_should(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []

    def counted(size: int) -> bytes:
        drawn.append(size)
        return bytes(size)

    monkeypatch.setattr(secrets, "token_bytes", counted)
    pem = key_pem.to_pem(Identity.generate(), PASSPHRASE)
    assert drawn == [16, 16]  # a salt, and an IV
    assert (key_pem._COST, key_pem._BLOCK, key_pem._PARALLEL) == (2**14, 8, 5)
    key_pem.from_pem(pem, PASSPHRASE)


def test_what_does_not_fit_is_refused() -> None:
    identity = Identity.generate()
    for short in (b"", b"elevenbytes"):
        with pytest.raises(CryptoError, match="at least 12 bytes, got fewer"):
            key_pem.to_pem(identity, short)
    with pytest.raises(CryptoError, match="expected a passphrase, got none"):
        key_pem.from_pem(key_pem.to_pem(identity, PASSPHRASE))
    with pytest.raises(CryptoError, match="expected no passphrase"):
        key_pem.from_pem(key_pem.to_pem(identity), PASSPHRASE)
    for kind in (X25519PrivateKey, Ed448PrivateKey):
        pem = kind.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        with pytest.raises(CryptoError, match="expected an Ed25519 key"):
            key_pem.from_pem(pem)
    for text in (b"", b"hello", b"-----BEGIN PUBLIC KEY-----\n"):
        with pytest.raises(CryptoError, match="expected a secret key as PEM"):
            key_pem.from_pem(text)


@pytest.mark.usefixtures("cheap")
@settings(max_examples=200)
@given(st.booleans(), st.integers(0), st.integers(1, 255), st.sampled_from(["flip", "cut", "drop"]))
def test_damage_is_refused_or_changes_the_key_or_nothing(
    encrypted: bool, at: int, mask: int, how: str
) -> None:
    passphrase = PASSPHRASE if encrypted else None
    identity = Identity.generate()
    pem = key_pem.to_pem(identity, passphrase)
    at %= len(pem)
    damaged: dict[str, Callable[[], bytes]] = {
        "flip": lambda: pem[:at] + bytes([pem[at] ^ mask]) + pem[at + 1 :],
        "cut": lambda: pem[:at],
        "drop": lambda: pem[:at] + pem[at + 1 :],
    }
    try:
        key_pem.from_pem(damaged[how](), passphrase)
    except CryptoError as error:
        text = "".join(traceback.format_exception(error))
        assert identity._key.private_bytes_raw().hex()[:8] not in text
        assert PASSPHRASE.decode() not in text


def test_no_error_shows_key_or_passphrase() -> None:
    identity = Identity.generate()
    pem = key_pem.to_pem(identity)
    body = pem.decode().splitlines()[1]
    wrong = key_pem.to_pem(identity, PASSPHRASE)
    for bad, passphrase in (
        (pem[:-40], None),
        (pem, PASSPHRASE),
        (wrong, b"another passphrase"),
        (wrong, None),
    ):
        with pytest.raises(CryptoError) as caught:
            key_pem.from_pem(bad, passphrase)
        text = "".join(traceback.format_exception(caught.value))
        for secret in (
            body,
            PASSPHRASE.decode(),
            "another passphrase",
            identity._key.private_bytes_raw().hex(),
        ):
            assert secret not in text
