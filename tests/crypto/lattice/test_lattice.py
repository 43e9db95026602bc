"""Ciphertexts as plain residues: bytes, sums, tags; and masks that are uniform below any modulus."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, norm
from tenseal import sealapi

from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.lattice.parameter_sets import LATTICES, Lattice, Residues
from secure_afl.crypto.prg import DRAWN, add_keystreams, keystream, uniform

SETS = list(LATTICES.values())
T46, T60 = LATTICES["bfv-46"].plain_modulus, LATTICES["bfv-60"].plain_modulus
keys = st.binary(min_size=32, max_size=32)
seeds = st.integers(0, 2**32 - 1)
# A set of sizes that Hypothesis can afford; primes just over and just under powers of two.
SMALL = Lattice("small", 4, (2**31 - 1, 2**32 + 15, 2**60 - 93), 65537)


def drawn(lattice: Lattice, count: int, seed: int) -> Residues:
    generator = np.random.default_rng(seed)
    found = np.empty((count, 2, len(lattice.primes), lattice.degree), np.uint64)
    for at, prime in enumerate(lattice.primes):
        part = generator.integers(0, prime, (count, 2, lattice.degree), dtype=np.uint64)
        part.flat[:2] = 0, prime - 1
        found[:, :, at, :] = part
    return found


def is_prime(number: int) -> bool:
    """Miller and Rabin's test with bases that decide every number below 2⁶⁴."""
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37):
        powers = [pow(base, odd * 2**step, number) for step in range(twos)]
        if powers[0] != 1 and number - 1 not in powers:
            return False
    return True


# ---- parameters ----------------------------------------------------------------------------------


@pytest.mark.parametrize("lattice", SETS, ids=list(LATTICES))
def test_primes_are_what_seal_itself_would_choose(lattice: Lattice) -> None:
    bits = [prime.bit_length() for prime in (*lattice.primes, lattice.key_prime)]
    chosen = [one.value() for one in sealapi.CoeffModulus.Create(lattice.degree, bits)]
    assert chosen == [*lattice.primes, lattice.key_prime]
    if lattice.plain_modulus:
        bits = [lattice.plain_modulus.bit_length()] * 4
        assert lattice.plain_modulus in [
            one.value() for one in sealapi.PlainModulus.Batching(lattice.degree, bits)
        ]


@pytest.mark.parametrize("lattice", SETS, ids=list(LATTICES))
def test_seal_holds_every_set_for_128_bits_and_none_a_bit_larger(lattice: Lattice) -> None:
    scheme = sealapi.SCHEME_TYPE.BFV if lattice.plain_modulus else sealapi.SCHEME_TYPE.CKKS
    parameters = sealapi.EncryptionParameters(scheme)
    parameters.set_poly_modulus_degree(lattice.degree)
    parameters.set_coeff_modulus([sealapi.Modulus(p) for p in (*lattice.primes, lattice.key_prime)])
    if lattice.plain_modulus:
        parameters.set_plain_modulus(lattice.plain_modulus)
    context = sealapi.SEALContext(parameters, True, sealapi.SEC_LEVEL_TYPE.TC128)
    assert context.parameters_set(), context.parameters_error_message()
    limit = {4096: 109, 8192: 218}[lattice.degree]
    assert sealapi.CoeffModulus.MaxBitCount(lattice.degree, sealapi.SEC_LEVEL_TYPE.TC128) == limit
    assert (lattice.modulus * lattice.key_prime).bit_length() <= limit


@pytest.mark.parametrize("lattice", SETS, ids=list(LATTICES))
def test_every_modulus_is_a_prime_that_splits_the_ring(lattice: Lattice) -> None:
    chain = [*lattice.primes, lattice.key_prime]
    assert len(set(chain)) == len(chain)
    assert lattice.key_prime == min(chain)
    for prime in chain + [lattice.plain_modulus] * bool(lattice.plain_modulus):
        assert is_prime(prime)
        assert prime % (2 * lattice.degree) == 1
        assert prime < 2**61
    assert lattice.plain_modulus not in chain
    assert min(lattice.primes) > 2**32  # else a tag's 32-bit coefficients would repeat modulo it
    assert bool(lattice.plain_modulus) != bool(lattice.scale_bits)
    assert LATTICES[lattice.name] is lattice


@pytest.mark.parametrize("lattice", SETS, ids=list(LATTICES))
def test_the_room_is_half_of_the_modulus_less_what_is_left_to_noise(lattice: Lattice) -> None:
    room = lattice.room
    if lattice.plain_modulus:
        assert 2 * room + 1 == lattice.plain_modulus
    else:
        assert 256 * room << lattice.scale_bits <= 255 * (lattice.modulus // 2)
        assert 256 * (room + 1) << lattice.scale_bits > 255 * (lattice.modulus // 2)


# ---- bytes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("lattice", SETS, ids=list(LATTICES))
@pytest.mark.parametrize("count", [1, 3])
def test_packing_keeps_every_residue_in_the_promised_number_of_bytes(lattice: Lattice, count: int) -> None:
    length = count * lattice.slots - 1
    residues = drawn(lattice, count, count)
    data = lattice.pack(residues)
    assert len(data) == lattice.ciphertext_bytes(length)
    assert np.array_equal(lattice.unpack(data, length), residues)
    assert np.array_equal(lattice.unpack(memoryview(data), length), residues)
    assert lattice.zeros(length).shape == residues.shape


@given(st.integers(1, 20), seeds)
def test_bytes_are_prime_by_prime_little_endian(length: int, seed: int) -> None:
    residues = drawn(SMALL, SMALL.count(length), seed)
    expected = b"".join(
        int(word).to_bytes(width, "little")
        for at, width in enumerate((4, 5, 8))
        for word in residues[:, :, at, :].reshape(-1)
    )
    assert SMALL.pack(residues) == expected
    assert np.array_equal(SMALL.unpack(expected, length), residues)


@pytest.mark.parametrize("lattice", SETS, ids=list(LATTICES))
def test_a_public_key_survives_packing_and_no_other_size_is_one(lattice: Lattice) -> None:
    primes = (*lattice.primes, lattice.key_prime)
    residues = drawn(Lattice("with key prime", lattice.degree, primes, 0), 1, 7)
    data = lattice.pack_key(residues)
    assert len(data) == lattice.public_key_bytes
    assert np.array_equal(lattice.unpack_key(data), residues)
    for wrong in (data[:-1], data + b"\0", b"", data[: lattice.ciphertext_bytes(1)]):
        with pytest.raises(CryptoError, match=f"in {len(data)} bytes, got {len(wrong)}"):
            lattice.unpack_key(wrong)
    last = bytearray(data)
    last[-4:] = lattice.key_prime.to_bytes(4, "little")
    with pytest.raises(CryptoError, match="below their prime"):
        lattice.unpack_key(bytes(last))


def test_a_vector_without_entries_is_no_ciphertext_at_all() -> None:
    for lattice in SETS:
        assert lattice.pack(lattice.zeros(0)) == b""
        assert lattice.unpack(b"", 0).shape == lattice.zeros(0).shape


@given(st.integers(1, 20), st.integers(0, 200))
def test_every_length_but_the_agreed_one_is_refused(length: int, size: int) -> None:
    expected = SMALL.ciphertext_bytes(length)
    if size == expected:
        SMALL.unpack(bytes(size), length)
        return
    with pytest.raises(CryptoError, match=f"expected residues in {expected} bytes, got {size} bytes"):
        SMALL.unpack(bytes(size), length)


@pytest.mark.parametrize("lattice", SETS, ids=list(LATTICES))
def test_what_is_allocated_depends_on_the_agreed_length_only(lattice: Lattice) -> None:
    """Nothing in a message tells its receiver how much to allocate (`test_tenseal_traps.py`)."""
    longer = bytes(100 * lattice.ciphertext_bytes(1))
    tracemalloc.start()
    try:
        with pytest.raises(CryptoError):
            lattice.unpack(longer, 1)
        assert tracemalloc.get_traced_memory()[1] < 60_000
        lattice.unpack(longer[: lattice.ciphertext_bytes(1)], 1)
        assert tracemalloc.get_traced_memory()[1] < 5 * lattice.zeros(1).nbytes
    finally:
        tracemalloc.stop()


@given(st.integers(1, 20), seeds, st.integers(0, 2), st.integers(0), st.integers(0, 2**64))
def test_a_residue_that_is_not_below_its_prime_is_refused(
    length: int, seed: int, at: int, where: int, excess: int
) -> None:
    residues = drawn(SMALL, SMALL.count(length), seed)
    prime, width = SMALL.primes[at], (4, 5, 8)[at]
    part = residues[:, :, at, :]
    place = np.unravel_index(where % part.size, part.shape)
    part[place] = prime - 1
    SMALL.unpack(SMALL.pack(residues), length)
    part[place] = prime + excess % (2 ** (8 * width) - prime)
    with pytest.raises(CryptoError, match="residues below their prime") as refused:
        SMALL.unpack(SMALL.pack(residues), length)
    assert str(part[place]) not in str(refused.value)


# ---- sums and tags -------------------------------------------------------------------------------


@given(seeds, seeds)
def test_add_is_addition_modulo_each_prime(one: int, other: int) -> None:
    first, second = drawn(SMALL, 3, one), drawn(SMALL, 3, other)
    for at, prime in enumerate(SMALL.primes):  # one ciphertext of sums that are exactly the prime
        second[0, :, at, :] = (np.uint64(prime) - first[0, :, at, :]) % np.uint64(prime)
    total = first.copy()
    SMALL.add(total, second)
    for at, prime in enumerate(SMALL.primes):
        parts = (x[:, :, at, :].reshape(-1).tolist() for x in (total, first, second))
        assert all(t == (a + b) % prime for t, a, b in zip(*parts, strict=True))


@pytest.mark.parametrize("lattice", SETS, ids=list(LATTICES))
def test_tags_are_inner_products_with_32_bit_words_of_the_seeds_streams(lattice: Lattice) -> None:
    """The definition, written out with Python's integers, for the largest residues there are."""
    from secure_afl.crypto.kdf import Label, derive

    residues = lattice.zeros(lattice.slots + 1)
    for at, prime in enumerate(lattice.primes):
        residues[:, :, at, :] = prime - 1
    expected = []
    for at, prime in enumerate(lattice.primes):
        words = residues[:, :, at, :].reshape(-1).tolist()
        for point in range(2):
            stream = keystream(derive(bytes(32), Label.TAG_COEFFICIENTS, bytes([at, point])))
            draws = np.frombuffer(stream(4 * len(words)), "<u4").tolist()
            expected.append(sum(a * b for a, b in zip(words, draws, strict=True)) % prime)
    assert lattice.tags(residues, bytes(32)) == tuple(expected)


@pytest.mark.parametrize("lattice", SETS, ids=list(LATTICES))
def test_tags_of_a_sum_are_the_sum_of_tags(lattice: Lattice) -> None:
    for seed in range(3):
        key = bytes([seed]) * 32
        total = lattice.zeros(lattice.slots + 1)
        tags = lattice.tags(total, key)
        assert not any(tags)
        for client in range(3):
            upload = drawn(lattice, 2, 10 * seed + client)
            lattice.add(total, upload)
            tags = lattice.add_tags(tags, lattice.tags(upload, key))
        assert lattice.tags(total, key) == tags


@pytest.mark.slow
@settings(max_examples=1000)
@given(keys, seeds, st.integers(0), st.sampled_from([1, -1, 2**20, 2**32, 2**40]))
def test_a_sum_altered_in_one_residue_has_other_tags(key: bytes, seed: int, where: int, by: int) -> None:
    total = drawn(SMALL, 2, seed)
    before = SMALL.tags(total, key)
    place = np.unravel_index(where % total.size, total.shape)
    prime = SMALL.primes[place[2]]
    total[place] = (int(total[place]) + by) % prime
    after = SMALL.tags(total, key)
    changed = [a != b for a, b in zip(before, after, strict=True)]
    assert any(changed) == (by % prime != 0)
    assert not any(changed[at] for at in range(len(changed)) if at // 2 != place[2])


@pytest.mark.parametrize("lattice", SETS, ids=list(LATTICES))
def test_a_sum_without_one_client_or_with_another_upload_has_other_tags(lattice: Lattice) -> None:
    """For each of 40 seeds every tag of a wrong sum differs."""
    uploads = [drawn(lattice, 1, client) for client in range(3)]
    wrong = drawn(lattice, 1, 99)
    sums = {}
    for name, kept in (("right", uploads), ("short", uploads[:2]), ("swapped", [*uploads[:2], wrong])):
        total = lattice.zeros(1)
        for one in kept:
            lattice.add(total, one)
        sums[name] = total
    for seed in range(40):
        key = seed.to_bytes(32, "big")
        right = lattice.tags(sums["right"], key)
        for other in ("short", "swapped"):
            assert all(a != b for a, b in zip(lattice.tags(sums[other], key), right, strict=True))


def test_tags_depend_on_the_seed_on_the_order_of_ciphertexts_and_on_the_polynomial() -> None:
    residues = drawn(SMALL, 2, 5)
    tags = SMALL.tags(residues, bytes(32))
    for other, key in (
        (residues, b"\1" * 32),
        (residues[::-1].copy(), bytes(32)),
        (residues[:, ::-1].copy(), bytes(32)),
    ):
        assert all(a != b for a, b in zip(SMALL.tags(other, key), tags, strict=True))
    assert len(set(tags)) == len(tags)


def test_seeds_and_tags_of_another_form_are_refused() -> None:
    residues = drawn(SMALL, 1, 0)
    tags = SMALL.tags(residues, bytes(32))
    for seed in (b"", bytes(31), bytes(33)):
        with pytest.raises(CryptoError, match="seed of 32 bytes"):
            SMALL.tags(residues, seed)
    for wrong in (tags[:-1], (*tags, 0), (SMALL.primes[0], *tags[1:]), (-1, *tags[1:])):
        for pair in ((tags, wrong), (wrong, tags)):
            with pytest.raises(CryptoError, match="expected 6 tags"):
                SMALL.add_tags(*pair)


# ---- masks below a modulus -----------------------------------------------------------------------


def reference(key: bytes, length: int, modulus: int) -> list[int]:
    """The mask word by word: of each chunk first one draw an entry, then new draws for those too large."""
    stream, found = keystream(key), []
    ones = 2 ** (modulus - 1).bit_length() - 1
    for start in range(0, length, DRAWN):
        words = [int.from_bytes(stream(8), "little") & ones for _ in range(min(DRAWN, length - start))]
        while over := [at for at, word in enumerate(words) if word >= modulus]:
            for at in over:
                words[at] = int.from_bytes(stream(8), "little") & ones
        found += words
    return found


moduli = st.one_of(
    st.sampled_from([2, 3, T46, T60, 2**62 - 1, 2**62 + 1, 2**63 - 1]), st.integers(2, 2**63 - 1)
)


@given(
    st.lists(keys, unique=True, max_size=3),
    st.lists(keys, unique=True, max_size=3),
    st.integers(0, 30),
    moduli,
)
def test_masks_are_added_and_subtracted_modulo_t(
    plus: list[bytes], minus: list[bytes], length: int, modulus: int
) -> None:
    minus = [key for key in minus if key not in plus]
    start = np.random.default_rng(length).integers(0, modulus, length, dtype=np.uint64)
    vector = start.copy()
    add_keystreams(vector, plus=plus, minus=minus, modulus=modulus)
    added = [reference(key, length, modulus) for key in plus]
    taken = [reference(key, length, modulus) for key in minus]
    for at in range(length):
        expected = int(start[at]) + sum(s[at] for s in added) - sum(s[at] for s in taken)
        assert int(vector[at]) == expected % modulus


@pytest.mark.parametrize("modulus", [T46, T60, 2**40 + 1])
@pytest.mark.parametrize("length", [DRAWN + d for d in (-1, 0, 1)] + [2 * DRAWN + 5])
def test_masks_modulo_t_continue_across_chunks_and_cancel(length: int, modulus: int) -> None:
    key, other = bytes(range(32)), bytes(32)
    vector = np.zeros(length, np.uint64)
    add_keystreams(vector, plus=[key], modulus=modulus)
    assert vector.tolist() == reference(key, length, modulus)
    assert int(vector.max()) < modulus
    add_keystreams(vector, plus=[other], modulus=modulus)
    assert int(vector.max()) < modulus
    add_keystreams(vector, minus=[key, other], modulus=modulus)
    assert not vector.any()


def test_a_modulus_just_over_a_power_of_two_rejects_half_of_the_words() -> None:
    """Words read from the stream: geometric with p = 1/2, five deviations allow a false alarm in 2·10⁶."""
    count, read = 100_000, 0
    inner = keystream(b"\2" * 32)

    def counted(size: int) -> bytes:
        nonlocal read
        read += size // 8
        return inner(size)

    words = uniform(counted, count, 2**40 + 1)
    assert len(words) == count
    assert abs(read - 2 * count) < 5 * np.sqrt(2 * count)
    read = 0
    uniform(counted, count, 2**40)
    assert read == count


@pytest.mark.parametrize("modulus", [3, 3 * 2**39, 3 * 2**61, 2**40 + 1, T46, T60])
def test_masks_are_uniform_and_reduction_instead_of_rejection_would_not_be(modulus: int) -> None:
    """Chi-square over 48 equal parts of the range, a fixed seed; a fresh one would fail once in 10⁹.

    Reduction shows at 3·2ᵏ, where a third of the range would come twice as often; the other moduli are too
    near a power of two.
    """
    count, parts = 200_000, min(48, modulus)
    limit = chi2.isf(1e-9, parts - 1)

    def statistic(words: list[int]) -> float:
        seen = np.bincount([word * parts // modulus for word in words], minlength=parts)
        expected = count / parts
        return float(((seen - expected) ** 2 / expected).sum())

    assert statistic(uniform(keystream(b"\3" * 32), count, modulus).tolist()) < limit
    ones = 2 ** (modulus - 1).bit_length() - 1
    raw = np.frombuffer(keystream(b"\3" * 32)(8 * count), "<u8") & np.uint64(ones)
    if modulus % 3 == 0:
        assert statistic([word % modulus for word in raw.tolist()]) > limit


def test_no_entry_is_likelier_than_another_at_the_ends_of_the_range() -> None:
    """The mean of 2·10⁵ masks in Z_t stays within the 10⁻⁹ quantile of a uniform's."""
    for modulus in (T46, T60):
        words = uniform(keystream(b"\4" * 32), 200_000, modulus) / modulus
        assert abs(words.mean() - 0.5) < norm.isf(5e-10) / np.sqrt(12 * len(words))


@pytest.mark.parametrize("modulus", [1, -1, 2**63, 2**64, T46])
def test_a_modulus_out_of_range_or_an_entry_not_below_it_is_refused(modulus: int) -> None:
    for entries in ([1, T46], [0, 0], []):
        if modulus == T46 and T46 not in entries:
            continue
        vector = np.array(entries, np.uint64)
        with pytest.raises(CryptoError, match="expected a modulus below"):
            add_keystreams(vector, plus=[bytes(32)], modulus=modulus)
        assert vector.tolist() == entries


def test_the_largest_and_the_smallest_modulus_are_taken() -> None:
    for modulus in (2, 2**63 - 1):
        vector = np.array([0, modulus - 1], np.uint64)
        add_keystreams(vector, plus=[bytes(32)], modulus=modulus)
        expected = [
            (entry + mask) % modulus
            for entry, mask in zip((0, -1), reference(bytes(32), 2, modulus), strict=True)
        ]
        assert vector.tolist() == expected


def test_a_repeated_or_short_key_is_refused_below_a_modulus_too() -> None:
    for plus, minus in (([bytes(32)], [bytes(32)]), ([bytes(31)], []), ([bytes(32)] * 2, [])):
        vector = np.zeros(4, np.uint64)
        with pytest.raises(CryptoError, match="key"):
            add_keystreams(vector, plus=plus, minus=minus, modulus=T46)
        assert not vector.any()
