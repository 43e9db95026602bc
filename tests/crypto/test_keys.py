"""Derivations, identities and HPKE."""

import hashlib
import hmac
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.hpke import KeyPair, Suite, seal
from secure_afl.crypto.identity import Identity, verify
from secure_afl.crypto.kdf import Label, bind, derive, digest, integer

parts = st.lists(st.binary(max_size=20), max_size=4)
suites = st.sampled_from(Suite)


@given(st.binary(min_size=32, max_size=32), st.sampled_from(Label), parts, st.integers(1, 96))
def test_derive_is_hkdf_sha256_of_rfc_5869(
    secret: bytes, label: Label, context: list[bytes], length: int
) -> None:
    info = label.value + b"".join(len(part).to_bytes(8, "big") + part for part in context)
    prk = hmac.digest(bytes(32), secret, "sha256")
    block = output = b""
    for counter in range(1, 4):
        block = hmac.digest(prk, block + info + bytes([counter]), "sha256")
        output += block
    assert derive(secret, label, *context, length=length) == output[:length]


@given(parts, parts, st.sampled_from(Label), st.sampled_from(Label))
def test_two_inputs_are_bound_alike_only_if_they_are_the_same(
    one: list[bytes], other: list[bytes], label: Label, second: Label
) -> None:
    same = (one, label) == (other, second)
    assert (bind(label, *one) == bind(second, *other)) == same
    assert (digest(label, *one) == digest(second, *other)) == same
    assert digest(label, *one) == hashlib.sha256(bind(label, *one)).digest()


def test_no_label_is_used_twice_or_begins_another() -> None:
    values = [label.value for label in Label]
    assert len(set(values)) == len(Label)
    assert not [(a, b) for a in values for b in values if a != b and b.startswith(a)]


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_secret_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(CryptoError, match="32 bytes"):
        derive(bytes(length), Label.SELF_MASK)


@given(parts, parts, st.sampled_from(Label), st.sampled_from(Label))
def test_a_signature_holds_for_its_words_only(
    one: list[bytes], other: list[bytes], label: Label, second: Label
) -> None:
    identity = Identity.generate()
    signature = identity.sign(label, *one)
    verify(identity.verify_key, signature, label, *one)
    if (one, label) != (other, second):
        with pytest.raises(CryptoError):
            verify(identity.verify_key, signature, second, *other)
    with pytest.raises(CryptoError):
        verify(Identity.generate().verify_key, signature, label, *one)


@settings(max_examples=25)
@given(suites, st.binary(max_size=200), st.binary(max_size=20), st.integers(0), st.booleans())
def test_only_the_key_and_the_info_open_an_unaltered_message(
    suite: Suite, plain: bytes, info: bytes, at: int, longer: bool
) -> None:
    pair = KeyPair(suite, os.urandom(32), Label.MASK_KEY)
    sealed = seal(suite, pair.public_key, plain, info)
    assert len(sealed) == len(plain) + suite.overhead_bytes
    assert len(pair.public_key) == suite.public_key_bytes
    assert pair.open(sealed, info) == plain
    flipped = bytearray(sealed)
    flipped[at % len(sealed)] ^= 1 << at % 8
    for key, message, about in (
        (pair, bytes(flipped), info),
        (pair, sealed + b"\0" if longer else sealed[:-1], info),
        (pair, sealed, info + b"!"),
        (KeyPair(suite, os.urandom(32), Label.MASK_KEY), sealed, info),
    ):
        with pytest.raises(CryptoError, match="does not open"):
            key.open(message, about)


@given(suites, st.binary(min_size=32, max_size=32))
def test_a_key_pair_is_a_function_of_its_seed_suite_and_use(suite: Suite, seed: bytes) -> None:
    public = KeyPair(suite, seed, Label.MASK_KEY).public_key
    assert KeyPair(suite, seed, Label.MASK_KEY).public_key == public
    assert KeyPair(suite, seed, Label.CHANNEL_KEY).public_key != public
    other = Suite.X25519 if suite is Suite.HYBRID else Suite.HYBRID
    assert not public.endswith(KeyPair(other, seed, Label.MASK_KEY).public_key[-32:])


@pytest.mark.parametrize("suite", list(Suite))
def test_what_is_no_public_key_is_refused(suite: Suite) -> None:
    for key in (b"", bytes(suite.public_key_bytes - 1), bytes(suite.public_key_bytes)):
        with pytest.raises(CryptoError, match=suite.value):
            seal(suite, key, b"", b"")


def test_reprs_show_no_secret() -> None:
    seed = bytes(range(32))
    for suite in Suite:
        shown = repr(KeyPair(suite, seed, Label.MASK_KEY))
        assert derive(seed, Label.MASK_KEY, suite.value.encode(), length=96).hex()[:16] not in shown
    identity = Identity.generate()
    assert identity._key.private_bytes_raw().hex()[:8] not in repr(identity)
    assert integer(5) == b"\0" * 7 + b"\x05"
