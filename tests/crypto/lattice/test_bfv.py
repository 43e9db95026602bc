"""BFV: the encoding and the parameter set of a session, exact sums, noise under its bound, and no silent garbage."""

from dataclasses import replace
from math import ceil, prod

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tenseal import sealapi

from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.fixed_point import FixedPoint
from secure_afl.crypto.lattice import bfv, seal
from secure_afl.crypto.lattice.bfv import Demand
from secure_afl.crypto.lattice.parameter_sets import LATTICES, Lattice, Residues

B46, B60, JOINT = LATTICES["bfv-46"], LATTICES["bfv-60"], LATTICES["bfv-60-joint"]
EVERY = [B46, B60, JOINT]
NAMES = ["bfv-46", "bfv-60", "bfv-60-joint"]
bounds = st.floats(2.0**-30, 2.0**30)
Words = npt.NDArray[np.uint64]


@pytest.fixture(scope="module")
def key() -> dict[str, seal.SecretKey]:
    return {lattice.name: seal.SecretKey(lattice) for lattice in EVERY}


def words(values: npt.NDArray[np.int64], lattice: Lattice) -> Words:
    return np.array([int(value) % lattice.plain_modulus for value in values], np.uint64)


def signed(found: Words, lattice: Lattice) -> list[int]:
    half = lattice.plain_modulus // 2
    return [int(word) - lattice.plain_modulus * (int(word) > half) for word in found]


# ---- which set, which encoding -----------------------------------------------------------------------


@given(bounds, st.integers(1, 130), st.integers(0, 40))
def test_a_code_that_fits_is_the_masks_code_and_any_code_leaves_room(bound: float, n: int, bits: int) -> None:
    try:
        lattice, (encoding,) = bfv.choose([Demand(bound, bits)], n)
    except CryptoError:
        with pytest.raises(CryptoError):
            FixedPoint.fit(bound, n, bits, room=B60.plain_modulus // 2)
        return
    room = lattice.plain_modulus // 2
    assert n * encoding.magnitude <= room
    assert encoding.fraction_bits >= bits
    assert encoding.magnitude >= bound * 2.0**encoding.fraction_bits
    masked = FixedPoint.fit(bound, n, bits)
    if n * masked.magnitude <= room:
        assert (encoding.fraction_bits, encoding.magnitude) == (masked.fraction_bits, masked.magnitude)
    else:
        # The finest that the set holds: one bit more would not fit.
        finer = max(1, ceil(bound * 2.0 ** (encoding.fraction_bits + 1)))
        assert n * finer > room
    if lattice is B60:
        with pytest.raises(CryptoError):
            FixedPoint.fit(bound, n, bits, room=B46.plain_modulus // 2)


def test_the_larger_set_is_taken_for_one_sum_that_needs_it_and_then_for_all() -> None:
    small, large = Demand(1.0, 20), Demand(1e6, 30)
    assert bfv.choose([small], 10)[0] is B46
    lattice, encodings = bfv.choose([small, large], 10)
    assert lattice is B60
    assert encodings == [replace(FixedPoint.fit(1.0, 10, 20), width=8), bfv.choose([large], 10)[1][0]]
    assert bfv.choose([small], 10, bfv.JOINT_SETS)[0] is JOINT


def test_more_clients_than_the_small_set_bears_go_to_the_large_one() -> None:
    most = max(n for n in range(1, 400) if bfv.choose([Demand(1.0, 4)], n)[0] is B46)
    assert 100 <= most < 400
    assert bfv.choose([Demand(1.0, 4)], most + 1)[0] is B60


@pytest.mark.parametrize(
    ("demands", "summands", "message"),
    [
        ([Demand(1e6, 40)], 100, "100 values up to 1e\\+06 with 40 fraction bits need more than"),
        ([Demand(1.0, 8), Demand(1e6, 60)], 2, "fewer fraction bits or agree on a smaller bound"),
        ([Demand(1e-6, 4)], 10**6, "bfv-60 cannot hold the noise of 1000000 ciphertexts"),
        ([Demand(float("nan"), 4)], 3, "finite positive bound"),
        ([Demand(float("inf"), 4)], 3, "finite positive bound"),
        ([Demand(0.0, 4)], 3, "finite positive bound"),
    ],
)
def test_what_no_set_holds_is_refused_with_what_was_expected(
    demands: list[Demand], summands: int, message: str
) -> None:
    with pytest.raises(CryptoError, match=message):
        bfv.choose(demands, summands)


# ---- sums ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [1, 2, 7])
def test_sums_are_exact_up_to_the_last_unit_of_the_room(
    name: str, n: int, key: dict[str, seal.SecretKey]
) -> None:
    lattice = LATTICES[name]
    length = lattice.slots + 3
    most = lattice.plain_modulus // 2 // n
    draws = np.random.default_rng(n)
    vectors = draws.integers(-most, most, (n, length), endpoint=True)
    vectors[:, 0], vectors[:, 1], vectors[:, -1] = most, -most, most
    total = lattice.zeros(length)
    for vector in vectors:
        lattice.add(total, bfv.encrypt(lattice, key[name].public_key, words(vector, lattice)))
    values, budget = key[name].decrypt(total, length)
    found = signed(bfv.checked(values, budget, lattice), lattice)
    assert found == [sum(map(int, column)) for column in vectors.T]


@pytest.mark.slow
@given(st.integers(2, 6), st.data())
def test_decoded_sums_are_bit_for_bit_those_of_masks_and_within_the_entry_error(
    n: int, data: st.DataObject
) -> None:
    """One key, few entries: `choose`, encode, encrypt, add, decrypt, decode, against masks' ring sum."""
    bound = 100.0
    lattice, (encoding,) = bfv.choose([Demand(bound, 20)], n)
    column = st.lists(st.floats(-bound, bound), min_size=3, max_size=3)
    vectors = np.array(data.draw(st.lists(column, min_size=n, max_size=n)))
    total, masked = lattice.zeros(3), np.zeros(3, np.uint64)
    for vector in vectors:
        units = encoding.encode(vector)
        masked += units
        upload = bfv.encrypt(lattice, KEY46.public_key, words(units.view(np.int64), lattice))
        lattice.add(total, upload)
    found = signed(bfv.checked(*KEY46.decrypt(total, 3), lattice), lattice)
    decoded = encoding.decode_sum(np.array(found, np.int64).view(np.uint64), n)
    assert np.array_equal(decoded, encoding.decode_sum(masked, n))
    assert (np.abs(decoded - vectors.sum(0)) <= encoding.entry_error(n) + n * bound * 2.0**-52).all()


KEY46 = seal.SecretKey(B46)


def test_words_that_are_none_of_z_t_and_keys_that_are_none_are_refused() -> None:
    with pytest.raises(CryptoError, match="words below the plain modulus"):
        bfv.encrypt(B46, KEY46.public_key, np.array([0, B46.plain_modulus], np.uint64))
    for wrong in (b"", KEY46.public_key[:-1], b"\xff" * B46.public_key_bytes):
        with pytest.raises(CryptoError, match="expected"):
            bfv.encrypt(B46, wrong, np.zeros(1, np.uint64))


# ---- noise ---------------------------------------------------------------------------------------


def opened_key(key: seal.SecretKey) -> npt.NDArray[np.int64]:
    """The ternary secret, by one chosen ciphertext: (0, ⌊q/t⌋) decrypts to the polynomial s modulo t."""
    lattice = key.lattice
    chosen = lattice.zeros(1)
    for at, prime in enumerate(lattice.primes):
        chosen[0, 1, at, 0] = lattice.modulus // lattice.plain_modulus % prime
    values, _ = key.decrypt(chosen, lattice.slots)
    plain = sealapi.Plaintext()
    sealapi.BatchEncoder(seal._context(lattice)).encode(values.tolist(), plain)
    found = np.array([plain.data(at) for at in range(lattice.degree)], np.int64)
    return np.where(found > 1, found - lattice.plain_modulus, found)


def times(polynomial: Words, secret: npt.NDArray[np.int64]) -> list[int]:
    """A product in Z[X]/(X^N + 1) by floating-point transforms of 16-bit limbs, exact after rounding."""
    degree, found = len(secret), np.zeros(len(secret), object)
    other = np.fft.rfft(secret.astype(float), 2 * degree)
    for shift in range(0, 64, 16):
        limb = ((polynomial >> np.uint64(shift)) & np.uint64(0xFFFF)).astype(float)
        product = np.rint(np.fft.irfft(np.fft.rfft(limb, 2 * degree) * other)).astype(np.int64)
        found += (product[:degree] - product[degree:]).astype(object) << shift
    return [int(word) for word in found]


def largest_noise(lattice: Lattice, one: Residues, secret: npt.NDArray[np.int64]) -> float:
    """‖c₀ + c₁·s − (q/t)·m‖ in units of coefficients of q: what `bfv.noise` bounds."""
    q, t = lattice.modulus, lattice.plain_modulus
    opened = [0] * lattice.degree
    for at, prime in enumerate(lattice.primes):
        lift = q // prime * pow(q // prime, -1, prime)
        parts = zip(one[0, at].tolist(), times(one[1, at], secret), strict=True)
        opened = [x + lift * ((a + b) % prime) for x, (a, b) in zip(opened, parts, strict=True)]
    left = [t * x % q for x in opened]  # t times the noise: t·(q/t)·m is a multiple of q
    return max(min(x, q - x) for x in left) / t


@pytest.mark.slow
@pytest.mark.parametrize(("name", "most"), [("bfv-46", 130), ("bfv-60", 130), ("bfv-60-joint", 16)])
def test_the_noise_of_sums_stays_under_its_bound_and_the_bound_is_no_fantasy(name: str, most: int) -> None:
    """Measured exactly, and as SEAL's budget, for random vectors of the full range, n = 1 to `most`."""
    lattice, draws = LATTICES[name], np.random.default_rng(1)
    key = seal.SecretKey(lattice)
    secret = opened_key(key)
    assert set(secret.tolist()) == {-1, 0, 1}
    total, ratios = lattice.zeros(1), []
    for n in range(1, most + 1):
        vector = draws.integers(0, lattice.plain_modulus, lattice.slots, dtype=np.uint64)
        lattice.add(total, bfv.encrypt(lattice, key.public_key, vector))
        if n & (n - 1) and n != most:
            continue
        found, bound = largest_noise(lattice, total[0], secret), bfv.noise(lattice, n)
        ratios.append(found / bound)
        # SEAL counts whole bits: noise·2·2^budget ≤ q/t, and with one more bit it is not.
        _, budget = key.decrypt(total, 1)
        assert 0.49 < found * 2.0 ** (budget + 1) * lattice.plain_modulus / lattice.modulus < 1.01
        assert budget >= bfv.LEAST_BUDGET
    assert 0.1 < max(ratios) < 1


@pytest.mark.parametrize("name", NAMES)
def test_the_room_for_noise_ends_where_the_budget_would(name: str) -> None:
    """`choose` admits n only if noise(n) leaves two bits; the bound grows with n and with holders."""
    lattice = LATTICES[name]
    bounds = [bfv.noise(lattice, n) for n in (1, 2, 10, 100, 10_000)]
    assert bounds == sorted(bounds)
    assert bfv.noise(lattice, 10, holders=3) > bfv.noise(lattice, 10)
    admitted = 0
    for n in (2**power for power in range(40)):
        left = lattice.modulus / lattice.plain_modulus / 2 / bfv.noise(lattice, n)
        if left < 2**bfv.LEAST_BUDGET:
            with pytest.raises(CryptoError, match="cannot hold the noise"):
                bfv.choose([Demand(1e-6, 1)], n, [lattice])
        elif n <= lattice.plain_modulus // 2:
            bfv.choose([Demand(1e-6, 1)], n, [lattice])
            admitted = n
    assert admitted > 100


def test_a_sum_with_less_than_two_bits_of_budget_is_not_given_out() -> None:
    values = np.array([-1, 0, 1])
    assert bfv.checked(values, 2, B46).tolist() == [B46.plain_modulus - 1, 0, 1]
    for budget in (1, 0, -1):
        with pytest.raises(CryptoError, match=f"at least 2 bits, {budget} are left"):
            bfv.checked(values, budget, B46)


def test_the_budget_is_that_of_the_worst_ciphertext_wherever_it_stands() -> None:
    fresh = seal.encrypt(B46, KEY46.public_key, np.zeros(3 * B46.slots, np.int64))
    _, most = KEY46.decrypt(fresh, 3 * B46.slots)
    for at in range(3):
        spoilt = fresh.copy()
        spoilt[at] = seal.encrypt(B46, seal.SecretKey(B46).public_key, np.zeros(1, np.int64))[0]
        assert KEY46.decrypt(spoilt, 3 * B46.slots)[1] == 0 < most


# ---- what the schemes themselves do not notice ---------------------------------------------------


def test_a_sum_past_half_of_t_wraps_silently_in_seal_and_has_no_code_here() -> None:
    most = B46.plain_modulus // 2
    upload = seal.encrypt(B46, KEY46.public_key, np.array([most]))
    total = upload.copy()
    B46.add(total, upload)
    values, budget = KEY46.decrypt(total, 1)
    assert budget >= 2
    assert values[0] == -1  # and no error from anybody
    # Ours: the room of the encoding is n·magnitude ≤ t/2, and what a client may encode is within the magnitude.
    _, (encoding,) = bfv.choose([Demand(float(most), 0)], 2)
    assert 2 * encoding.magnitude <= bfv.choose([Demand(float(most), 0)], 2)[0].plain_modulus // 2
    with pytest.raises(CryptoError, match="need more than"):
        FixedPoint.fit(float(most), 2, 0, room=most)


def test_a_sum_beyond_what_clients_may_reach_is_refused_after_decryption() -> None:
    lattice, (encoding,) = bfv.choose([Demand(1.0, 30)], 3)
    cheating = words(np.array([3 * encoding.magnitude + 1]), lattice)
    values, budget = KEY46.decrypt(bfv.encrypt(lattice, KEY46.public_key, cheating), 1)
    with pytest.raises(CryptoError, match="a client is faulty"):
        encoding.decode_sum(np.array(values).view(np.uint64), 3)
    assert budget >= 2


def test_an_exhausted_budget_is_silent_in_seal_and_refused_here() -> None:
    """A sum of 2¹³ ciphertexts where the set bears 135: SEAL decrypts it, wrongly, without a word."""
    vector = np.random.default_rng(0).integers(0, 2**32, B46.slots)
    total = seal.encrypt(B46, KEY46.public_key, vector)
    rounds = 13
    for _ in range(rounds):
        B46.add(total, total.copy())
    values, budget = KEY46.decrypt(total, B46.slots)
    assert (values != 2**rounds * vector).any()
    with pytest.raises(CryptoError, match="budget"):
        bfv.checked(values, budget, B46)
    with pytest.raises(CryptoError, match="noise of 8192"):
        bfv.choose([Demand(1.0, 8)], 2**rounds, [B46])


@pytest.mark.parametrize("name", NAMES)
def test_another_key_of_equal_parameters_is_silent_in_seal_and_refused_here(
    name: str, key: dict[str, seal.SecretKey]
) -> None:
    lattice = LATTICES[name]
    upload = seal.encrypt(lattice, key[name].public_key, np.arange(5))
    values, budget = seal.SecretKey(lattice).decrypt(upload, 5)
    assert values.tolist() != [0, 1, 2, 3, 4]
    with pytest.raises(CryptoError, match="another key"):
        bfv.checked(values, budget, lattice)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_flipped_bit_is_silent_in_seal_but_never_in_the_tags(
    name: str, key: dict[str, seal.SecretKey]
) -> None:
    """Each bit of one residue of either polynomial, for every prime. Many of them give a wrong sum with
    budget to spare: only tags see those (and the range of the encoding, where it is far under t/2).
    """
    lattice = LATTICES[name]
    vector = np.arange(lattice.slots) % 1000
    upload = seal.encrypt(lattice, key[name].public_key, vector)
    seed, outcomes = b"\7" * 32, []
    tags = lattice.tags(upload, seed)
    for at, prime in enumerate(lattice.primes):
        for polynomial in (0, 1):
            for bit in range(prime.bit_length() - 1):
                altered = upload.copy()
                altered[0, polynomial, at, 0] ^= np.uint64(1 << bit)
                if altered[0, polynomial, at, 0] >= prime:  # `unpack` refuses it
                    continue
                assert lattice.tags(altered, seed) != tags
                values, budget = key[name].decrypt(altered, lattice.slots)
                right = np.array_equal(values, vector)
                outcomes.append("right" if right else "silent" if budget >= 2 else "refused")
    assert outcomes.count("silent") > len(outcomes) / 8
    assert "refused" in outcomes


def test_a_chosen_ciphertext_makes_the_key_holder_an_oracle_for_its_key() -> None:
    """Weak design: whoever adds hands the key holder a sum that it likes. (0, ⌊q/t⌋) decrypts, with the largest
    budget there is, to the secret key itself: that is how this file measures noise. Ours: the holder decrypts only
    what has the tags of the clients' uploads; and the values of such a sum are far out of the range of its encoding.
    """
    chosen = B46.zeros(1)
    chosen[0, 1, 0, 0] = B46.modulus // B46.plain_modulus
    values, budget = KEY46.decrypt(chosen, B46.slots)
    bfv.checked(values, budget, B46)  # does not notice
    secret = opened_key(KEY46)
    assert set(secret.tolist()) == {-1, 0, 1}
    upload = seal.encrypt(B46, KEY46.public_key, np.arange(9))[0]
    assert largest_noise(B46, upload, secret) < bfv.noise(B46, 1)  # the key that comes out opens uploads
    assert B46.tags(chosen, b"\1" * 32) != B46.tags(upload[None], b"\1" * 32)
    _, (encoding,) = bfv.choose([Demand(1.0, 30)], 10)
    with pytest.raises(CryptoError, match="a client is faulty"):
        encoding.decode_sum(values.view(np.uint64), 10)


# ---- seal ----------------------------------------------------------------------------------------


def test_the_moduli_of_the_sets_are_what_the_noise_is_compared_with() -> None:
    for lattice in EVERY:
        assert lattice.modulus == prod(lattice.primes)
        assert lattice.slots == lattice.degree
