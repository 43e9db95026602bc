"""All holders together open exact sums; fewer, others or too curious ones get nothing.

Tests of distributions let a right implementation fail with a probability of at most 10⁻⁹ each.
"""

import copy
import pickle
import subprocess
import sys
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, chi2

from secure_afl.crypto import ring
from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.lattice import bfv, joint_key, ntt, seal
from secure_afl.crypto.lattice.joint_key import KeyShare, common, opened, public_key, smudging_bits
from secure_afl.crypto.lattice.parameter_sets import (
    LATTICES,
    Lattice,
    Residues,
    add_mod,
    pack_mod,
    unpack_mod,
)

LATTICE = LATTICES["bfv-60-joint"]
DEGREE, PRIMES = LATTICE.degree, LATTICE.primes
KEY_PRIMES = (*PRIMES, LATTICE.key_prime)
MOST = LATTICE.room
FALSE_ALARM = 1e-9
Ints = npt.NDArray[np.int64]


class Cohort:
    """Holders that did as they should, and their joint key."""

    def __init__(self, holders: int) -> None:
        self.a = common(LATTICE, bytes([holders]) * 32)
        self.shares = [KeyShare(LATTICE, self.a) for _ in range(holders)]
        self.public_key = public_key(LATTICE, self.a, [share.public for share in self.shares])

    def total(self, *vectors: Ints) -> Residues:
        total = LATTICE.zeros(len(vectors[0]))
        for vector in vectors:
            LATTICE.add(total, seal.encrypt(LATTICE, self.public_key, vector))
        return total

    def partials(self, total: Residues, summands: int = 1) -> list[Residues]:
        return [share.partial(total, len(self.shares), summands) for share in self.shares]


COHORTS = {holders: Cohort(holders) for holders in (2, 3, 5)}
cohorts = pytest.mark.parametrize("cohort", COHORTS.values(), ids=COHORTS)


def values(length: int, seed: int = 0, most: int = MOST) -> Ints:
    return np.random.default_rng(seed).integers(-most, most, length, endpoint=True)


def decoded(total: Residues, partials: list[Residues], length: int) -> Ints:
    """The sum in (−t/2, t/2), as whoever opens it should read it."""
    found, budget = seal.decode(LATTICE, opened(LATTICE, total, partials), length)
    return ring.centred(bfv.checked(found, budget, LATTICE), LATTICE.plain_modulus)


def integers(residues: Residues) -> list[int]:
    """Coefficients in (−q/2, q/2] of one polynomial, from its residues (primes, N)."""
    q = LATTICE.modulus
    weights = [q // p * pow(q // p, -1, p) for p in PRIMES]
    sums = (sum(w * r for w, r in zip(weights, row, strict=True)) % q for row in residues.T.tolist())
    return [one - q if one > q // 2 else one for one in sums]


def secret_of(share: KeyShare) -> Ints:
    """What no holder gives away."""
    found = ntt.inverse(share._factors[0].numbers, PRIMES[0]).view(np.int64)
    return np.where(found > PRIMES[0] // 2, found - PRIMES[0], found)


def times(polynomials: Residues, small: Ints) -> Residues:
    """Polynomials (…, primes, N) times one with small coefficients, modulo each prime."""
    result = np.empty_like(polynomials)
    for at, prime in enumerate(PRIMES):
        by = ntt.factors(ntt.forward((small % prime).astype(np.uint64), prime), prime)
        product = ntt.multiply(ntt.forward(polynomials[..., at, :], prime), by, prime)
        result[..., at, :] = ntt.inverse(product, prime)
    return result


# ---- all together ------------------------------------------------------------------------------------


@settings(max_examples=12)
@given(st.sampled_from(sorted(COHORTS)), st.data())
def test_all_holders_open_exact_sums(holders: int, data: st.DataObject) -> None:
    cohort = COHORTS[holders]
    summands = data.draw(st.integers(1, 4))
    most = MOST // summands
    entry = st.integers(-most, most) | st.sampled_from([-most, most, 0, 1, -1])
    length = data.draw(st.integers(1, 20))
    vector = st.lists(entry, min_size=length, max_size=length).map(lambda one: np.array(one, np.int64))
    vectors = data.draw(st.lists(vector, min_size=summands, max_size=summands))
    total = cohort.total(*vectors)
    partials = data.draw(st.permutations(cohort.partials(total, summands)))
    assert np.array_equal(decoded(total, partials, length), sum(vectors))


@cohorts
@pytest.mark.parametrize("length", [DEGREE, 2 * DEGREE + 1])
def test_vectors_longer_than_a_ciphertext(cohort: Cohort, length: int) -> None:
    vectors = [values(length, seed, MOST // 3) for seed in range(3)]
    vectors[0][:4] = vectors[1][:4] = vectors[2][:4] = [MOST // 3, -(MOST // 3), 0, -1]
    total = cohort.total(*vectors)
    sent = [joint_key.pack_partial(LATTICE, one) for one in cohort.partials(total, 3)]
    assert all(2 * len(one) == LATTICE.ciphertext_bytes(length) for one in sent)
    partials = [joint_key.unpack_partial(LATTICE, one, length) for one in sent]
    assert np.array_equal(decoded(total, partials, length), sum(vectors))


def test_an_empty_vector() -> None:
    cohort = COHORTS[2]
    partials = cohort.partials(LATTICE.zeros(0))
    assert opened(LATTICE, LATTICE.zeros(0), partials).shape == (0, 2, len(PRIMES), DEGREE)
    assert joint_key.unpack_partial(LATTICE, joint_key.pack_partial(LATTICE, partials[0]), 0).size == 0


@cohorts
@pytest.mark.parametrize("worst", [0, 1])
def test_the_worst_smudging_leaves_the_sum_exact(
    cohort: Cohort, worst: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every holder draws −2^B everywhere, or 2^B − 1."""
    vector = values(DEGREE)
    total = cohort.total(vector)

    def extreme(count: int, bits: int) -> tuple[ntt.Words, ntt.Words]:
        number = worst * (2 ** (bits + 1) - 1)
        return np.full(count, number >> 62, np.uint64), np.full(count, number % 2**62, np.uint64)

    monkeypatch.setattr(joint_key, "_smudging", extreme)
    found, budget = seal.decode(LATTICE, opened(LATTICE, total, cohort.partials(total)), DEGREE)
    assert budget >= bfv.LEAST_BUDGET
    assert np.array_equal(found, vector)


# ---- what does not open ------------------------------------------------------------------------------


def assert_refused(total: Residues, partials: list[Residues]) -> None:
    with pytest.raises(CryptoError, match="noise budget"):
        decoded(total, partials, DEGREE)


@cohorts
def test_without_one_holder_the_sum_is_garbage_and_refused(cohort: Cohort) -> None:
    vector = values(DEGREE)
    total = cohort.total(vector)
    partials = cohort.partials(total)
    for missing in range(len(partials)):
        others = partials[:missing] + partials[missing + 1 :]
        assert_refused(total, others)
        found, budget = seal.decode(LATTICE, opened(LATTICE, total, others), DEGREE)
        assert budget == 0
        assert not np.any(found == vector)  # one of 8192 entries in 2⁶⁰ is right by chance in 2⁻⁴⁷
    assert_refused(total, [])


@cohorts
def test_a_wrong_partial_is_refused(cohort: Cohort) -> None:
    total, other = cohort.total(values(DEGREE, 1)), cohort.total(values(DEGREE, 1))
    partials = cohort.partials(total)
    random = np.stack([np.random.default_rng(p).integers(0, p, (1, DEGREE), np.uint64) for p in PRIMES], 1)
    stranger = KeyShare(LATTICE, cohort.a)
    holders = len(partials)
    for wrong in (
        random,
        np.zeros_like(random),
        cohort.shares[0].partial(other, holders, 1),  # the same numbers, encrypted anew
        cohort.shares[1].partial(total, holders, 1),  # a second one of another holder
        stranger.partial(total, holders, 1),
    ):
        assert_refused(total, [wrong, *partials[1:]])
    assert_refused(total, [*partials, partials[0]])
    assert_refused(other, partials)


def test_a_partial_whose_ciphertexts_changed_places_is_refused() -> None:
    cohort = COHORTS[3]
    total = cohort.total(values(3 * DEGREE))
    partials = cohort.partials(total)
    assert_refused(total, [partials[0][[1, 0, 2]], *partials[1:]])
    assert_refused(total, [np.roll(partials[0], 1, axis=2), *partials[1:]])
    assert_refused(total[[1, 0, 2]], partials)


def test_one_wrong_ciphertext_of_many_is_refused() -> None:
    cohort = COHORTS[2]
    total = cohort.total(values(3 * DEGREE))
    partials = cohort.partials(total)
    partials[0][1] = cohort.shares[0].partial(cohort.total(values(DEGREE)), 2, 1)[0]
    with pytest.raises(CryptoError, match="noise budget"):
        decoded(total, partials, 3 * DEGREE)


def test_a_holder_can_shift_the_sum_and_nobody_sees_it() -> None:
    """A limit that the module's text states: BFV is malleable, and a partial decryption carries no proof."""
    cohort = COHORTS[3]
    vector = values(DEGREE, most=MOST - 1)
    total = cohort.total(vector)
    partials = cohort.partials(total)
    one = LATTICE.modulus // LATTICE.plain_modulus  # the constant polynomial 1 is a one in every slot
    shift = np.zeros_like(partials[0])
    shift[:, :, 0] = [one % p for p in PRIMES]
    add_mod(partials[2], shift, PRIMES)
    assert np.array_equal(decoded(total, partials, DEGREE), vector + 1)


def test_a_malformed_ciphertext_makes_the_message_depend_on_the_secret() -> None:
    """A limit: whoever can add Δ to c₁ and see that sum learns s. So holders open agreed sums only, and clients are
    trusted to encrypt correctly, as with a single key holder.
    """
    cohort = COHORTS[2]
    total = cohort.total(np.zeros(DEGREE, np.int64))
    step = LATTICE.modulus // LATTICE.plain_modulus
    shift = np.zeros_like(total)
    shift[:, 1, :, 0] = [step % p for p in PRIMES]
    LATTICE.add(total, shift)
    noisy = integers(opened(LATTICE, total, cohort.partials(total))[0, 0])
    secret = sum(secret_of(share) for share in cohort.shares)
    assert [round(one / step) for one in noisy] == np.asarray(secret).tolist()


# ---- attacks -----------------------------------------------------------------------------------------


@cohorts
def test_a_holder_that_picks_its_share_last_owns_the_key(cohort: Cohort) -> None:
    """Succeeds on these bare functions: shares must be committed to before anybody shows one. Then the rogue
    share does not fit its commitment, which the protocol checks.
    """
    others = [share.public for share in cohort.shares[1:]]
    rogue = KeyShare(LATTICE, cohort.a)
    shown = unpack_mod(rogue.public, KEY_PRIMES, (), DEGREE)
    for other in others:
        negated = np.array(KEY_PRIMES, np.uint64)[:, None] - unpack_mod(other, KEY_PRIMES, (), DEGREE)
        add_mod(shown, negated, KEY_PRIMES)
    key = public_key(LATTICE, cohort.a, [*others, pack_mod(shown, KEY_PRIMES)])
    vector = values(DEGREE)
    stolen = seal.encrypt(LATTICE, key, vector)
    assert np.array_equal(decoded(stolen, [rogue.partial(stolen, 2, 1)], DEGREE), vector)


def from_noise(cohort: Cohort) -> tuple[Ints, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """A client that kept u, e₀ and e₁ of its zeros, and sees them opened: e₀ − E·u + S·e₁ + Σf is linear in
    the joint secret S and error E. Least squares over four ciphertexts, at every complex root of X^N + 1.

    Returns what it takes for S, the noise of its ciphertexts, and the noise that it saw.
    """
    random = np.random.default_rng(7)
    key = LATTICE.unpack_key(cohort.public_key)[0]
    plain_key = np.stack([ntt.inverse(key[:, at], p) for at, p in enumerate(PRIMES)], axis=1)
    u = random.integers(-1, 2, (4, DEGREE))
    errors = np.rint(random.normal(0, 3.2, (4, 2, DEGREE))).astype(np.int64)
    total = np.stack([times(plain_key, one) for one in u])
    LATTICE.add(total, np.stack([(errors % p).astype(np.uint64) for p in PRIMES], axis=2))
    seen = opened(LATTICE, total, cohort.partials(total))
    noise = np.array([integers(one[0]) for one in seen], np.float64)
    bare = [times(total[:, 1], secret_of(share)) for share in cohort.shares]
    own = np.array([integers(one[0]) for one in opened(LATTICE, total, bare)], np.float64)

    twist = np.exp(1j * np.pi * np.arange(DEGREE) / DEGREE)
    columns = np.fft.fft(np.stack([-u, errors[:, 1]], axis=-1) * twist[:, None], axis=1).swapaxes(0, 1)
    known = np.fft.fft((noise - errors[:, 0]) * twist, axis=1).T[..., None]
    turned = columns.conj().swapaxes(1, 2)
    solved = np.linalg.solve(turned @ columns, turned @ known)[:, 1, 0]
    guess = np.real(np.fft.ifft(solved) / twist)
    return np.rint(np.clip(guess, -9, 9)).astype(np.int64), own.ravel(), noise.ravel()


def opens_alone(cohort: Cohort, secret: Ints) -> bool:
    victim = values(DEGREE, 3)
    total = cohort.total(victim)
    found, budget = seal.decode(LATTICE, opened(LATTICE, total, [times(total[:, 1], secret)]), DEGREE)
    return budget >= bfv.LEAST_BUDGET and np.array_equal(found, victim)


def test_noise_left_in_an_opened_sum_gives_the_joint_secret_without_smudging(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cohort = COHORTS[2]
    monkeypatch.setattr(joint_key, "smudging_bits", lambda *_: 3)
    secret, own, noise = from_noise(cohort)
    assert np.corrcoef(own, noise)[0, 1] > 0.99
    assert opens_alone(cohort, secret)


def test_with_smudging_the_noise_says_nothing_about_the_secret() -> None:
    cohort = COHORTS[2]
    secret, own, noise = from_noise(cohort)
    true = np.asarray(sum(secret_of(share) for share in cohort.shares))
    # Uncorrelated draws: normal of deviation 1/√n, over 6.2 of them in 6·10⁻¹⁰ of all runs.
    assert abs(np.corrcoef(own, noise)[0, 1]) < 6.2 / len(own) ** 0.5
    assert abs(np.corrcoef(true, secret)[0, 1]) < 6.2 / DEGREE**0.5
    assert not opens_alone(cohort, secret)


@pytest.mark.parametrize("attempts", [1, 2])
def test_a_partial_without_smudging_is_the_holders_secret(
    attempts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """c₁·s divided by c₁; with smudging the division gives residues all over the prime."""
    cohort = COHORTS[2]
    total = cohort.total(values(DEGREE))
    if attempts == 1:
        zero = np.zeros(DEGREE, np.uint64)
        monkeypatch.setattr(joint_key, "smudging_bits", lambda *_: 0)
        monkeypatch.setattr(joint_key, "_smudging", lambda *_: (zero, zero + np.uint64(1)))  # f = 0
    partial = cohort.shares[0].partial(total, 2, 1)
    prime = PRIMES[0]
    inverses = [pow(one, -1, prime) for one in ntt.forward(total[0, 1, 0], prime).tolist()]
    factors = ntt.factors(np.array(inverses, np.uint64), prime)
    found = ntt.inverse(ntt.multiply(ntt.forward(partial[0, 0], prime), factors, prime), prime)
    expected = (secret_of(cohort.shares[0]) % prime).astype(np.uint64)
    assert np.array_equal(found, expected) == (attempts == 1)


# ---- bounds ------------------------------------------------------------------------------------------


@given(st.integers(2, 200), st.integers(1, 10**7))
def test_smudging_is_the_largest_that_leaves_room_and_hides_the_noise(holders: int, summands: int) -> None:
    bits = smudging_bits(LATTICE, holders, summands)
    noise = bfv.noise(LATTICE, summands, holders)
    room = LATTICE.modulus / (2 * LATTICE.plain_modulus * 2**bfv.LEAST_BUDGET)
    assert noise + holders * 2**bits <= room < (1 + 1e-9) * (noise + holders * 2 ** (bits + 1))
    assert 2**20 * noise / 2**bits <= 2**-40


@pytest.mark.parametrize(
    ("lattice", "holders", "summands"),
    [
        (LATTICES["bfv-46"], 2, 1),
        (LATTICES["bfv-60"], 2, 1),
        (LATTICES["ckks-precise"], 2, 1),
        (LATTICE, 1, 1),
        (LATTICE, 2, 0),
        (LATTICE, 2**45, 1),
        (LATTICE, 2, 2**60),
    ],
)
def test_sets_and_numbers_without_room_are_refused(lattice: Lattice, holders: int, summands: int) -> None:
    with pytest.raises(CryptoError):
        smudging_bits(lattice, holders, summands)


def test_many_ciphertexts_stay_below_the_bound_on_noise() -> None:
    cohort = COHORTS[5]
    total = cohort.total(*[values(DEGREE, seed, MOST // 40) for seed in range(40)])
    bare = [times(total[:, 1], secret_of(share)) for share in cohort.shares]
    scaled = [one * LATTICE.plain_modulus for one in integers(opened(LATTICE, total, bare)[0, 0])]
    q = LATTICE.modulus
    noise = max(abs((one + q // 2) % q - q // 2) for one in scaled) / LATTICE.plain_modulus
    assert noise < bfv.noise(LATTICE, 40, 5) < 16 * noise


# ---- draws -------------------------------------------------------------------------------------------


def assert_frequencies(counts: npt.NDArray[np.int64], probabilities: npt.NDArray[np.float64]) -> None:
    """Pearson's test."""
    expected = counts.sum() * probabilities / probabilities.sum()
    assert expected.min() > 20
    statistic = float(((counts - expected) ** 2 / expected).sum())
    assert statistic < chi2.isf(FALSE_ALARM, len(counts) - 1)


def test_secrets_are_uniform_in_minus_one_zero_one() -> None:
    shares = [share for cohort in COHORTS.values() for share in cohort.shares]
    secrets = np.concatenate([secret_of(share) for share in shares])
    assert set(secrets.tolist()) == {-1, 0, 1}
    assert_frequencies(np.bincount(secrets + 1), np.ones(3))
    assert len({secret_of(share).tobytes() for share in shares}) == len(shares)


def test_errors_are_binomial_of_variance_ten_and_a_half() -> None:
    errors = joint_key._error(2**18)
    assert np.abs(errors).max() <= 21
    clipped = np.bincount(np.clip(errors, -12, 12) + 12)
    probabilities = binom.pmf(np.arange(43), 42, 0.5)
    tails = probabilities[:9].sum() + probabilities[9]
    assert_frequencies(clipped, np.concatenate([[tails], probabilities[10:33], [tails]]))


def test_a_public_share_is_the_secret_and_one_small_error_in_every_prime() -> None:
    cohort = COHORTS[2]
    share = cohort.shares[0]
    shown = unpack_mod(share.public, KEY_PRIMES, (), DEGREE)
    errors = []
    for at, prime in enumerate(KEY_PRIMES):
        product = ntt.multiply(cohort.a[at], share._factors[at], prime)
        error = ntt.inverse((np.uint64(2 * prime) - product - shown[at]) % np.uint64(prime), prime).view(
            np.int64
        )
        errors.append(np.where(error > prime // 2, error - prime, error))
        secret = ntt.inverse(share._factors[at].numbers, prime).view(np.int64)
        assert np.array_equal(np.where(secret > 1, secret - prime, secret), secret_of(share))
    assert all(np.array_equal(errors[0], other) for other in errors)
    assert 5 < np.abs(errors[0]).max() <= 21
    # The variance's estimate has a relative deviation of √(2/N) = 1.6 %: 7 of them.
    assert 10.5 * 0.89 < np.var(errors[0]) < 10.5 * 1.11


def test_what_is_kept_gives_the_same_part_of_the_joint_key() -> None:
    """The secret and the error as signed bytes; b = −(a·s + e), as the module's text has it. So a key that was kept by
    one version is the same in the next.
    """
    cohort = COHORTS[2]
    share = cohort.shares[1]
    secret, error = np.frombuffer(share.kept(), np.int8).reshape(2, DEGREE).astype(np.int64)
    assert np.array_equal(secret, secret_of(share))
    assert KeyShare(LATTICE, cohort.a, share.kept()).public == share.public
    shown = unpack_mod(share.public, KEY_PRIMES, (), DEGREE)
    for at, prime in enumerate(KEY_PRIMES):
        product = ntt.inverse(ntt.multiply(cohort.a[at], share._factors[at], prime), prime).view(np.int64)
        assert np.array_equal(ntt.inverse(shown[at], prime), -(product + error) % prime)


@pytest.mark.parametrize("bits", [1, 3, 40, 60, 61, 62, 63, 64, 90, 103, 123])
def test_smudging_words_are_uniform(bits: int) -> None:
    upper, lower = joint_key._smudging(2**14, bits)
    drawn = [(high << 62) + low for high, low in zip(upper.tolist(), lower.tolist(), strict=True)]
    assert max(drawn) < 2 ** (bits + 1)
    width = min(4, bits + 1)
    for shift in {0, (bits + 1 - width) // 2, bits + 1 - width}:
        picked = np.array([one >> shift & (2**width - 1) for one in drawn])
        assert_frequencies(np.bincount(picked, minlength=2**width), np.ones(2**width))


def test_smudging_ends_at_what_two_words_hold_though_a_modulus_had_room_for_more() -> None:
    """123 bits and a sign; no parameter set has so much room."""
    spare = LATTICE.modulus // (8 * LATTICE.plain_modulus) // 2
    for further in (19, 20, 21, 40):
        wide = replace(LATTICE, primes=(*PRIMES, 2**further))
        assert smudging_bits(wide, 2, 1) == min(spare.bit_length() - 1 + further, 123)
    assert spare.bit_length() - 1 + 19 < 123 < spare.bit_length() - 1 + 21


@pytest.mark.parametrize("bits", [0, 5, 61, 62, 90, 103, 123])
def test_a_partial_is_the_product_and_smudging_within_its_bound(
    bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = COHORTS[2]
    total = cohort.total(values(DEGREE))
    monkeypatch.setattr(joint_key, "smudging_bits", lambda *_: bits)
    partial = cohort.shares[0].partial(total, 2, 1)
    product = times(total[:, 1], secret_of(cohort.shares[0]))
    add_mod(partial, np.array(PRIMES, np.uint64)[:, None] - product, PRIMES)
    smudge = integers(partial[0])
    assert -(2**bits) <= min(smudge) <= max(smudge) < 2**bits
    if bits > 3:
        tops = np.array([(one + 2**bits) >> (bits - 3) for one in smudge])
        assert_frequencies(np.bincount(tops, minlength=16), np.ones(16))


def test_two_partials_of_one_sum_differ() -> None:
    cohort = COHORTS[2]
    total = cohort.total(values(DEGREE))
    one, other = (cohort.shares[0].partial(total, 2, 1) for _ in range(2))
    assert not np.any(one == other)  # some of 24,576 differences of 104 bits is zero in 2⁻⁸⁷


# ---- the public polynomial, shares, and what is refused ----------------------------------------------


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
@settings(max_examples=10)
def test_the_public_polynomial_follows_from_the_transcript(one: bytes, other: bytes) -> None:
    a = common(LATTICE, one)
    assert a.shape == (len(KEY_PRIMES), DEGREE)
    assert np.array_equal(a, common(LATTICE, one))
    assert np.array_equal(a, common(LATTICE, other)) == (one == other)
    assert all(int(row.max()) < prime for row, prime in zip(a, KEY_PRIMES, strict=True))


def test_the_public_polynomial_is_uniform_below_each_prime() -> None:
    rows = common(LATTICE, bytes(32))
    for row, prime in zip(rows, KEY_PRIMES, strict=True):
        sixteenths = (row.astype(np.float64) * 16 / prime).astype(np.int64)
        assert_frequencies(np.bincount(sixteenths, minlength=16), np.ones(16))
    # Draws for different primes have different keys.
    assert not np.any(rows[0] == rows[1])


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_transcript_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(CryptoError, match="32 bytes"):
        common(LATTICE, bytes(length))


def test_a_key_share_neither_shows_itself_nor_leaves() -> None:
    share = COHORTS[2].shares[0]
    assert repr(share) == str(share) == "KeyShare(bfv-60-joint)"
    for leave in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(CryptoError, match="cannot be pickled"):
            leave(share)


def test_the_joint_key_is_the_sum_of_the_shares() -> None:
    cohort = COHORTS[3]
    key = LATTICE.unpack_key(cohort.public_key)
    assert len(cohort.public_key) == LATTICE.public_key_bytes == 2 * len(cohort.shares[0].public)
    assert np.array_equal(key[0, 1], cohort.a)
    shown = [unpack_mod(share.public, KEY_PRIMES, (), DEGREE) for share in cohort.shares]
    assert np.array_equal(key[0, 0], sum(shown) % np.array(KEY_PRIMES, np.uint64)[:, None])


def test_shares_that_do_not_fit_are_refused() -> None:
    cohort = COHORTS[2]
    one, other = (share.public for share in cohort.shares)
    too_large = bytearray(one)
    too_large[:7] = b"\xff" * 7
    for shares in (
        [],
        [one],
        [one, one],
        [one, other, one],
        [one, other[:-1]],
        [one, other + b"\0"],
        [one, b""],
    ):
        with pytest.raises(CryptoError):
            public_key(LATTICE, cohort.a, shares)
    with pytest.raises(CryptoError, match="below their prime"):
        public_key(LATTICE, cohort.a, [bytes(too_large), other])
    bad: list[Any] = [cohort.a[:-1], cohort.a.astype(np.int64), cohort.a[:, :-1], cohort.a + np.uint64(2**60)]
    for a in bad:
        with pytest.raises(CryptoError):
            public_key(LATTICE, a, [one, other])
        with pytest.raises(CryptoError):
            KeyShare(LATTICE, a)


def test_arrays_that_do_not_fit_are_refused() -> None:
    cohort = COHORTS[2]
    total = cohort.total(values(DEGREE))
    partials = cohort.partials(total)
    large = total + np.uint64(2**57)
    bad: list[Any] = [total[0], total[:, :1], total[..., :-1], total[:, :, :2], total.astype(np.int64), large]
    for wrong in bad:
        with pytest.raises(CryptoError):
            cohort.shares[0].partial(wrong, 2, 1)
        with pytest.raises(CryptoError):
            opened(LATTICE, wrong, partials)
    one = partials[0]
    bad = [one[0], one[:0], one[:, :2], one[..., :-1], one.astype(np.float64), one + np.uint64(2**57)]
    for wrong in bad:
        with pytest.raises(CryptoError):
            opened(LATTICE, total, [wrong, partials[1]])
    with pytest.raises(CryptoError):
        cohort.shares[0].partial(total, 1, 1)


def test_bytes_of_partials_are_exact() -> None:
    cohort = COHORTS[2]
    length = DEGREE + 1
    partial = cohort.partials(cohort.total(values(length)))[0]
    data = joint_key.pack_partial(LATTICE, partial)
    assert len(data) == 2 * DEGREE * 3 * 7
    assert np.array_equal(joint_key.unpack_partial(LATTICE, data, length), partial)
    for wrong in (data[:-1], data + b"\0", b"", data[: len(data) // 2], b"\xff" * len(data)):
        with pytest.raises(CryptoError):
            joint_key.unpack_partial(LATTICE, wrong, length)
    for prime_at, prime in enumerate(PRIMES):
        start = prime_at * 2 * DEGREE * 7
        for number, fits in ((prime - 1, True), (prime, False)):
            edged = data[:start] + number.to_bytes(7, "little") + data[start + 7 :]
            if fits:
                assert int(joint_key.unpack_partial(LATTICE, edged, length)[0, prime_at, 0]) == number
            else:
                with pytest.raises(CryptoError, match="below their prime"):
                    joint_key.unpack_partial(LATTICE, edged, length)


def test_a_holder_and_a_server_do_without_tenseal() -> None:
    script = "import secure_afl.crypto.lattice.joint_key, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"tenseal", "torch", "sklearn", "scipy", "joblib"}


def test_the_modulus_is_the_product_of_the_primes() -> None:
    assert LATTICE.modulus == prod(PRIMES)
    assert LATTICE.modulus < 2**168  # so SEAL's count of budget bits is not one too many
