import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from secure_afl.crypto import ring
from secure_afl.crypto.errors import CryptoError

words = arrays(np.uint64, st.integers(0, 70), elements=st.integers(0, 2**64 - 1))
widths = st.sampled_from(ring.WIDTHS)


@given(words, widths)
def test_pack_keeps_the_low_bytes_of_each_word_in_order(vector: np.ndarray, width: int) -> None:
    expected = b"".join(int(word).to_bytes(8, "little")[:width] for word in vector)
    assert bytes(ring.pack(vector, width)) == expected


@pytest.mark.parametrize("width", ring.WIDTHS)
@pytest.mark.parametrize("length", [16 * 1024 - 1, 16 * 1024, 16 * 1024 + 2, 100_003])
def test_pack_and_add_agree_across_chunks(width: int, length: int) -> None:
    draws = np.random.default_rng(length)
    start, vector = draws.integers(0, 2**64, (2, length), dtype=np.uint64)
    total = start.copy()
    ring.add_packed(total, bytes(ring.pack(vector, width)), width)
    assert np.array_equal(total, start + (vector & np.uint64(2 ** (8 * width) - 1)))


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=40), widths, st.integers(1, 6), st.booleans())
def test_sums_of_packed_words_are_sums_mod_the_ring(
    values: list[int], width: int, copies: int, own: bool
) -> None:
    """own: kept in words of their own size, where 4 bytes have one."""
    kind = ring.words_of(width) if own else np.uint64
    total = np.zeros(len(values), kind)
    for _ in range(copies):
        ring.add_packed(total, ring.pack(np.array(values, np.uint64).astype(kind), width), width)
    modulus = 2 ** (8 * width)
    residues = [value * copies % modulus for value in values]
    expected = [r - modulus if r >= modulus // 2 else r for r in residues]
    assert ring.signed(total, width).tolist() == expected


@given(words, widths)
def test_unpacked_words_are_the_signed_ones(vector: np.ndarray, width: int) -> None:
    payload = bytes(ring.pack(vector, width))
    assert np.array_equal(ring.unpacked(payload, len(vector), width), ring.signed(vector, width))


@given(words, widths, st.sampled_from([-1, 1]), st.booleans())
def test_a_payload_of_another_length_is_refused(vector: np.ndarray, width: int, off: int, own: bool) -> None:
    payload = bytes(ring.pack(vector, width))
    wrong = payload[:-1] if off < 0 and payload else payload + b"\0"
    total = np.zeros(len(vector), ring.words_of(width) if own else np.uint64)
    with pytest.raises(CryptoError, match="expected"):
        ring.add_packed(total, wrong, width)
    assert not total.any()
    with pytest.raises(CryptoError, match="expected"):
        ring.unpacked(wrong, len(vector), width)
