import pytest
from hypothesis import given
from hypothesis import strategies as st

from secure_afl.crypto import shamir
from secure_afl.crypto.errors import CryptoError

secrets = st.one_of(st.binary(min_size=32, max_size=32), st.sampled_from([bytes(32), b"\xff" * 32]))


@st.composite
def sharings(draw: st.DrawFn) -> tuple[bytes, int, dict[int, bytes]]:
    points = draw(st.lists(st.integers(1, 10**6), unique=True, min_size=1, max_size=12))
    threshold = draw(st.integers(1, len(points)))
    secret = draw(secrets)
    return secret, threshold, shamir.split(secret, threshold, points)


def test_the_modulus_is_prime() -> None:
    # Miller and Rabin's test with 40 fixed bases; p − 1 = 2^s·d.
    p, s = shamir.PRIME, 0
    d = p - 1
    while d % 2 == 0:
        s, d = s + 1, d // 2
    for base in range(2, 42):
        x = pow(base, d, p)
        assert x in (1, p - 1) or any((x := x * x % p) == p - 1 for _ in range(s - 1))
    assert p > 2**256


@given(sharings(), st.randoms(use_true_random=False))
def test_any_threshold_of_shares_gives_the_secret(
    sharing: tuple[bytes, int, dict[int, bytes]], source: object
) -> None:
    secret, threshold, shares = sharing
    chosen = source.sample(sorted(shares), threshold)  # type: ignore[attr-defined]
    assert shamir.combine({point: shares[point] for point in chosen}, threshold) == secret
    assert shamir.combine(shares, threshold) == secret
    with pytest.raises(CryptoError, match=f"at least {threshold} shares"):
        shamir.combine({point: shares[point] for point in chosen[1:]}, threshold)


@given(secrets, secrets, st.integers(2, 8))
def test_fewer_shares_fit_every_secret_equally_well(secret: bytes, other: bytes, threshold: int) -> None:
    """With t − 1 shares, each candidate secret has exactly one polynomial through them: nothing is learnt."""
    shares = shamir.split(secret, threshold, range(1, threshold + 1))
    known = {point: int.from_bytes(shares[point], "big") for point in range(1, threshold)}
    points = {0: int.from_bytes(other, "big"), **known}
    # Lagrange: the last share that would make `other` the secret.
    value, at, p = 0, threshold, shamir.PRIME
    for i, y in points.items():
        term = y
        for j in points:
            if j != i:
                term = term * (at - j) * pow(i - j, -1, p) % p
        value += term
    forged = {**shares, threshold: (value % p).to_bytes(33, "big")}
    assert shamir.combine(forged, threshold) == other


@given(sharings())
def test_sharing_twice_gives_other_shares(sharing: tuple[bytes, int, dict[int, bytes]]) -> None:
    secret, threshold, shares = sharing
    again = shamir.split(secret, threshold, shares)
    assert (again == shares) == (threshold == 1)


@pytest.mark.parametrize(
    ("secret", "threshold", "points"),
    [
        (bytes(31), 1, [1]),
        (bytes(32), 0, [1]),
        (bytes(32), 3, [1, 2]),
        (bytes(32), 1, [1, 1]),
        (bytes(32), 1, [0]),
    ],
)
def test_bad_sharings_are_refused(secret: bytes, threshold: int, points: list[int]) -> None:
    with pytest.raises(CryptoError):
        shamir.split(secret, threshold, points)


@pytest.mark.parametrize("share", [b"", bytes(32), bytes(34), shamir.PRIME.to_bytes(33, "big"), b"\xff" * 33])
def test_what_is_no_field_element_is_refused(share: bytes) -> None:
    with pytest.raises(CryptoError, match="share of 33 bytes"):
        shamir.combine({1: share}, 1)


def test_shares_that_give_no_secret_of_32_bytes_are_refused() -> None:
    with pytest.raises(CryptoError, match="belong together"):
        shamir.combine({1: (2**256).to_bytes(33, "big")}, 1)


def test_the_lowest_points_are_used_in_whatever_order_shares_come() -> None:
    secret = bytes(range(32))
    shares = shamir.split(secret, 2, [1, 2, 3])
    wrong = {3: bytes(33), 2: shares[2], 1: shares[1]}
    assert shamir.combine(wrong, 2) == secret
    assert shamir.combine(dict(reversed(wrong.items())), 2) == secret
    assert shamir.combine(wrong, 3) != secret
