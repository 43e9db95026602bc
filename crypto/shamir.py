"""Shamir's t-of-n sharing of 32-byte secrets over the prime field of 2²⁵⁶ + 297 elements.

The prime is the smallest above 2²⁵⁶, so any 32 bytes are a field element. Shares carry no
authentication of their own: the protocol commits to each with a hash, see `masking.messages`.
"""

import secrets
from collections.abc import Iterable, Mapping
from functools import lru_cache

from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.kdf import KEY_BYTES

PRIME = 2**256 + 297
SHARE_BYTES = 33


def split(secret: bytes, threshold: int, points: Iterable[int]) -> dict[int, bytes]:
    """Split a secret into one 33-byte share per point (distinct integers ≥ 1); any `threshold` shares recover it."""
    indices = list(points)
    if len(secret) != KEY_BYTES:
        raise CryptoError(f"expected a secret of {KEY_BYTES} bytes, got {len(secret)}")
    if len(set(indices)) != len(indices) or any(not 0 < point < PRIME for point in indices):
        raise CryptoError("share points must be distinct and at least 1")
    if not 1 <= threshold <= len(indices):
        raise CryptoError(
            f"expected a threshold of 1 to {len(indices)} (the number of shares), got {threshold}"
        )
    # Highest power first, the secret last: Horner's order.
    coefficients = [secrets.randbelow(PRIME) for _ in range(threshold - 1)] + [int.from_bytes(secret, "big")]
    shares = {}
    for point in indices:
        value = 0
        for coefficient in coefficients:
            value = (value * point + coefficient) % PRIME
        shares[point] = value.to_bytes(SHARE_BYTES, "big")
    return shares


def combine(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """Recover the secret from at least `threshold` shares (those of the lowest points).

    Raises `CryptoError` if there are too few shares, one is not a field element, or the result is not a
    32-byte secret. A wrong share of the right form gives a wrong secret: check the secret against a commitment.
    """
    if len(shares) < threshold:
        raise CryptoError(f"expected at least {threshold} shares, got {len(shares)}")
    points = tuple(sorted(shares)[:threshold])
    values = [parse_share(shares[point]) for point in points]
    secret = sum(w * v for w, v in zip(_weights_at_zero(points), values, strict=True)) % PRIME
    if secret >= 2**256:
        raise CryptoError("the shares do not belong together: they do not give a 32-byte secret")
    return secret.to_bytes(KEY_BYTES, "big")


def parse_share(share: bytes) -> int:
    """A share as a field element; `CryptoError` if it has the wrong length or is not below the prime."""
    value = int.from_bytes(share, "big")
    if len(share) != SHARE_BYTES or value >= PRIME:
        raise CryptoError(
            f"expected a share of {SHARE_BYTES} bytes below the field's prime, got {len(share)} bytes"
        )
    return value


# Cached: a server recovers a whole cohort's secrets with shares of the same survivors.
@lru_cache(maxsize=256)
def _weights_at_zero(points: tuple[int, ...]) -> tuple[int, ...]:
    """Lagrange weights for the value at 0."""
    weights = []
    for i in points:
        numerator = denominator = 1
        for j in points:
            if j != i:
                numerator = numerator * j % PRIME
                denominator = denominator * (j - i) % PRIME
        weights.append(numerator * pow(denominator, -1, PRIME) % PRIME)
    return tuple(weights)
