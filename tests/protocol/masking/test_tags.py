"""Tags: the polynomial is the one of the document, and a sum with its tag is accepted, and no other."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from hypothesis import example, given
from hypothesis import strategies as st
from reference import tags as reference
from worlds.cohorts import EVERY_PROFILE, world

from secure_afl.crypto.errors import CryptoError
from secure_afl.protocol.masking import tags
from secure_afl.protocol.masking.tags import PRIME, TagKey
from secure_afl.protocol.session.errors import RoundAbortedError
from secure_afl.protocol.session.profile import Verify

keys = st.binary(min_size=32, max_size=32)
codes = st.sampled_from([(4, 7), (4, 2**28 - 1), (8, 2**39 // 8 - 1), (8, 2**60)])
lengths = st.integers(1, 12)


def drawn(seed: int, count: int, length: int, magnitude: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Vectors with entries at the bounds among them."""
    draws = np.random.default_rng(seed)
    vectors = draws.integers(-magnitude, magnitude, (count, length), endpoint=True)
    ends = draws.choice([-magnitude, magnitude], (count, length))
    return np.where(draws.random((count, length)) < 0.3, ends, vectors)


@given(keys, codes, lengths, st.integers(0, 2**32))
@example(bytes(32), (4, 7), 5, 0)
def test_the_polynomial_is_the_documents(key: bytes, code: tuple[int, int], length: int, seed: int) -> None:
    size, magnitude = code
    [vector] = drawn(seed, 1, length, magnitude)
    expected = reference.tag(key, vector.tolist(), magnitude, size, 3, 1)
    assert TagKey(key, 3).tag(vector.view(np.uint64), magnitude, size, 1) == expected


def test_a_vector_of_many_chunks_has_the_same_polynomial() -> None:
    for size, magnitude in ((4, 2**28 - 1), (8, 2**60)):
        [vector] = drawn(size, 1, 3 * 16 * 1024 + 5, magnitude)
        r = 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
        expected = reference.polynomial(r, vector.tolist(), magnitude, size)
        assert tags.polynomial(r, vector.view(np.uint64), magnitude, size) == expected


@given(keys, codes, lengths, st.integers(0, 2**32), st.data())
def test_a_sum_fits_the_sum_of_the_tags_and_no_other_does(
    key: bytes, code: tuple[int, int], length: int, seed: int, data: st.DataObject
) -> None:
    size, magnitude = code
    among, own = list(range(5)), TagKey(key, 5)
    vectors = drawn(seed, 5, length, magnitude)
    survivors = data.draw(st.lists(st.sampled_from(among), min_size=1, unique=True))
    total = vectors[survivors].sum(axis=0)
    made = [own.tag(one.view(np.uint64), magnitude, size, at) for at, one in enumerate(vectors)]
    tag = sum(made[at] for at in survivors) % PRIME
    assert own.fits(total, tag, magnitude, size, survivors)

    at, by = data.draw(st.integers(0, length - 1)), data.draw(st.sampled_from([1, -1, magnitude, 2**24]))
    other = total.copy()
    other[at] += by
    assert not own.fits(other, tag, magnitude, size, survivors)
    assert not own.fits(total, (tag + by) % PRIME, magnitude, size, survivors)
    gone = [one for one in among if one not in survivors]
    for others in (survivors[1:] or gone, [*survivors, *gone[:1]] if gone else survivors[:-1]):
        assert not others or not own.fits(total, tag, magnitude, size, others)


@given(st.integers(0, PRIME - 1))
def test_a_tag_is_its_17_bytes(tag: int) -> None:
    assert tags.parsed(tags.packed(tag)) == tag
    for wrong in (
        (tag + PRIME).to_bytes(18, "little"),
        tags.packed(tag)[:-1],
        b"",
        (2**136 - 1 - tag).to_bytes(17, "little"),
    ):
        with pytest.raises(CryptoError, match="a tag of 17 bytes below"):
            tags.parsed(wrong)


@pytest.mark.parametrize("r", [0, 1])
def test_a_weak_key_is_refused(r: int) -> None:
    with pytest.raises(CryptoError, match="one of 21 weak ones"):
        tags.polynomial(r, np.zeros(3, np.uint64), 5, 8)


def test_a_machine_without_poly1305_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(key: bytes) -> None:
        raise UnsupportedAlgorithm("poly1305 is not supported by this version of OpenSSL")

    monkeypatch.setattr(tags, "Poly1305", refuse)
    with pytest.raises(CryptoError, match=r'does not allow Poly1305 .* verify = \["replay"\]'):
        TagKey(bytes(32), 2).tag(np.zeros(3, np.uint64), 5, 8, 0)
    parties = world(4)
    session = parties.session(parties.propose())
    with pytest.raises(
        RoundAbortedError
    ) as aborted:  # before a key is made, and long before a data set is spent
        session.set_up()
    assert "0 advertised" in str(aborted.value)
    assert not any(client.transcript for client in session.clients.values())
    believing = world(4, replace(EVERY_PROFILE, verify=frozenset({Verify.NONE})))
    believing.session(believing.propose()).set_up()


# ---- why it is not simpler -----------------------------------------------------------------------


def test_small_primes_let_a_multiple_of_the_prime_pass() -> None:
    """The first design: inner products mod a prime that fits a word. Adding the prime to an entry changes no tag."""
    prime, draws = 85_899_329, np.random.default_rng(0)
    coefficients = draws.integers(0, prime, (3, 10))
    total = draws.integers(-(10**6), 10**6, 10)
    other = total.copy()
    other[7] += 3 * prime
    assert ((coefficients @ total - coefficients @ other) % prime == 0).all()

    own = TagKey(bytes(range(32)), 1)
    tag = own.tag(total.view(np.uint64), 2**29 - 1, 4, 0)
    assert own.fits(total, tag, 2**29 - 1, 4, [0])
    assert not own.fits(other, tag, 2**29 - 1, 4, [0])
    # And no multiple of 2^130 − 5 fits between two blocks of 16 bytes.
    assert PRIME > 2**128


def test_without_pads_a_sum_and_its_tag_can_be_scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    [total] = drawn(3, 1, 9, 2**20)
    own = TagKey(bytes(range(32)), 1)
    words = total.view(np.uint64)

    def scaled(key: TagKey) -> bool:
        # Only without the offset is L_r homogeneous; the server knows the offset, and would correct for it by r.
        tag = (tags.polynomial(key._r, words, 0, 8) + key._pads[0]) % PRIME
        return (2 * tag - key._pads[0]) % PRIME == tags.polynomial(key._r, 2 * words, 0, 8)

    total %= 2**20
    assert not scaled(own)
    own._pads = [0]
    assert scaled(own)
