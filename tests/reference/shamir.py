"""Shamir's sharing over the field of 2²⁵⁶ + 297 elements (docs/protocol.md §4.2)."""

from reference.refused import need

P = 2**256 + 297


def split(secret: bytes, threshold: int, points: list[int], coefficients: list[int]) -> dict[int, bytes]:
    """Shares at the points. coefficients: of the highest power first, the secret not among them."""
    need(len(secret) == 32, "a secret of 32 bytes")
    need(len(set(points)) == len(points) and all(0 < point < P for point in points), "distinct points from 1")
    need(1 <= threshold <= len(points), "a threshold of at most the number of shares")
    assert len(coefficients) == threshold - 1
    polynomial = [*coefficients, int.from_bytes(secret, "big")]
    top = threshold - 1
    return {
        x: (sum(c * x ** (top - at) for at, c in enumerate(polynomial)) % P).to_bytes(33, "big")
        for x in points
    }


def combine(shares: dict[int, bytes], threshold: int) -> bytes:
    """The value at 0 of the polynomial through the shares of the lowest `threshold` points."""
    need(len(shares) >= threshold, "as many shares as the threshold")
    total, points = 0, sorted(shares)[:threshold]
    for i in points:
        need(len(shares[i]) == 33 and int.from_bytes(shares[i], "big") < P, "33 bytes below p")
        above = below = 1
        for j in points:
            if j != i:
                above, below = above * j % P, below * (j - i) % P
        total += int.from_bytes(shares[i], "big") * above * pow(below, -1, P)
    need(total % P < 2**256, "shares of one 32-byte secret")
    return (total % P).to_bytes(32, "big")
