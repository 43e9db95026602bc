"""Keys of other parties under which nobody or everybody can sign, or that open to everybody, are refused where they are read.

The points of small order are computed here by the curve's own arithmetic, not copied from a list.
"""

from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.hpke import KeyPair, Suite, seal
from secure_afl.crypto.identity import Identity, public_key, verify
from secure_afl.crypto.kdf import Label
from secure_afl.protocol.audit.events import Begun, Role
from secure_afl.protocol.files import keys as key_file
from secure_afl.protocol.files import roster
from secure_afl.protocol.session.errors import FileError, LocalProtocolError
from secure_afl.protocol.session.roster import Member
from secure_afl.protocol.session.wire import VERSION, WireError

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
Point = tuple[int, int]


def added(one: Point, other: Point) -> Point:
    """On the twisted Edwards curve −x² + y² = 1 + d·x²·y² (RFC 8032 §5.1)."""
    (x1, y1), (x2, y2) = one, other
    product_ = D * x1 * x2 * y1 * y2
    x = (x1 * y2 + x2 * y1) * pow(1 + product_, -1, P)
    y = (y1 * y2 + x1 * x2) * pow(1 - product_, -1, P)
    return x % P, y % P


def times(scalar: int, point: Point) -> Point:
    found = (0, 1)
    for bit in bin(scalar)[2:]:
        found = added(found, found)
        if bit == "1":
            found = added(found, point)
    return found


def with_y(y: int) -> Point | None:
    """A point with this y, if there is one."""
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * pow(2, (P - 1) // 4, P) % P
    return (x, y) if x * x % P == square else None


def small_points() -> list[Point]:
    """All eight: multiples of one of order 8, which a prime multiple of a point is with probability 1/2."""
    for y in range(2, 100):
        if (point := with_y(y)) and times(4, found := times(ORDER, point)) != (0, 1):
            return [times(k, found) for k in range(8)]
    raise AssertionError


def encodings(y: int) -> list[bytes]:
    """The 32 bytes that a library may decode to this y: either sign, and y + p where 255 bits hold it."""
    values = [value for value in (y, y + P) if value < 2**255]
    return [(value | sign << 255).to_bytes(32, "little") for value, sign in product(values, (0, 1))]


SMALL = sorted({encoded for _, y in small_points() for encoded in encodings(y)})


def test_there_are_eight_points_of_small_order_in_fourteen_encodings() -> None:
    assert len(set(small_points())) == 8
    assert all(times(8, point) == (0, 1) for point in small_points())
    # Five values of y, of which 0 and 1 can be written in another way; each with either sign.
    assert len(SMALL) == 2 * (5 + 2)


@pytest.mark.parametrize("key", SMALL, ids=bytes.hex)
def test_a_key_of_small_order_is_forgeable_and_refused_wherever_a_key_is_read(
    key: bytes, tmp_path: Path
) -> None:
    """The library takes it, and 64 bytes of zeros, or the neutral point, as its signature of many messages."""
    forged, worked = [bytes(64), b"\1" + bytes(63)], 0
    for message, signature in product(map(str.encode, map(str, range(300))), forged):
        try:
            Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
        except (InvalidSignature, ValueError):
            continue
        worked += 1
    assert worked >= 20

    for signature in forged:
        with pytest.raises(CryptoError, match="identity key"):
            verify(key, signature, Label.CONSENT_SIGNATURE, b"a message")
    with pytest.raises(LocalProtocolError, match="A: expected an identity key"):
        Member("A", key)
    with pytest.raises(WireError, match="expected an identity key"):
        Begun(VERSION, "A", Role.SERVER, key)
    line = tmp_path / "A.pub"
    line.write_text(f"{key_file.KIND} {key.hex()} A\n")
    with pytest.raises(FileError, match=r"A\.pub: A: expected an identity key"):
        key_file.read_public(line)
    with pytest.raises(FileError, match="entry 1 of clients: A: expected an identity key"):
        roster.parse(f'[[clients]]\nname = "A"\nverify_key = "{key.hex()}"\n')


@given(st.integers(0, 2**255 - 1), st.booleans())
def test_only_canonical_points_of_the_curve_are_keys(y: int, sign: bool) -> None:
    key = (y | sign << 255).to_bytes(32, "little")
    if with_y(y % P) is not None and y < P and key not in SMALL:
        assert public_key(key).public_bytes_raw() == key
    else:
        with pytest.raises(CryptoError, match="expected an identity key"):
            public_key(key)


@pytest.mark.parametrize("y", range(P, 2**255))
def test_no_key_is_taken_in_a_second_encoding(y: int) -> None:
    with pytest.raises(CryptoError, match="canonical encoding"):
        public_key(y.to_bytes(32, "little"))


@given(st.binary(min_size=32, max_size=32))
def test_every_real_key_is_taken(seed: bytes) -> None:
    key = Identity.generate().verify_key
    assert public_key(key).public_bytes_raw() == key
    with pytest.raises(CryptoError):
        verify(key, seed + seed, Label.CONSENT_SIGNATURE, b"a message")


# ---- what is sealed to -------------------------------------------------------------------------------


def low_order() -> list[bytes]:
    """Every encoding of the u of X25519 that gives zeros (RFC 7748 §6.1): of the same points, u = (1 + y) / (1 − y)."""
    found = {0, P - 1}  # of orders 2, and the twist's 4
    found |= {(1 + y) * pow(1 - y, -1, P) % P for _, y in small_points() if y != 1}
    return [encoded for u in sorted(found) for encoded in encodings(u)]


@pytest.mark.parametrize("suite", list(Suite))
def test_no_secret_is_sealed_to_a_key_of_low_order(suite: Suite) -> None:
    """Whatever is sealed to such a key has a shared secret that everybody knows (of zeros)."""
    honest = KeyPair(suite, bytes(range(32)), Label.CHANNEL_KEY).public_key
    keys = low_order()
    assert len(keys) >= 12
    for key in keys:
        with pytest.raises(CryptoError, match=f"not a valid {suite.value} public key"):
            seal(suite, honest[:-32] + key, b"secret", b"")


def above(coefficient: int) -> Callable[[bytes], bytes]:
    """Puts 3329, the first number that is no residue, in the place of one of 768 coefficients of 12 bits."""

    def change(key: bytes) -> bytes:
        bits = int.from_bytes(key[:1152], "little")
        bits &= ~(0xFFF << 12 * coefficient)
        return (bits | 3329 << 12 * coefficient).to_bytes(1152, "little") + key[1152:]

    return change


@pytest.mark.parametrize("coefficient", [0, 1, 255, 256, 511, 767])
def test_a_malformed_key_of_ml_kem_is_refused(coefficient: int) -> None:
    """FIPS 203 §7.2: its coefficients are below 3329."""
    honest = KeyPair(Suite.HYBRID, bytes(range(32)), Label.CHANNEL_KEY).public_key
    seal(Suite.HYBRID, honest, b"secret", b"")
    with pytest.raises(CryptoError, match="not a valid hybrid public key"):
        seal(Suite.HYBRID, above(coefficient)(honest), b"secret", b"")
