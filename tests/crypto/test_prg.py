import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import ECB
from hypothesis import given, settings
from hypothesis import strategies as st

from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.prg import CHUNK_BYTES, add_keystreams

keys = st.binary(min_size=32, max_size=32)


def reference(key: bytes, length: int, size: int) -> list[int]:
    """AES-256 in counter mode written out: block i is the encryption of i as 16 big-endian bytes."""
    block = Cipher(AES256(key), ECB()).encryptor()
    stream = b"".join(block.update(i.to_bytes(16, "big")) for i in range(length * size // 16 + 1))
    return [int.from_bytes(stream[size * i : size * i + size], "little") for i in range(length)]


sizes = pytest.mark.parametrize("size", [4, 8])  # bytes of a word


@sizes
@given(st.lists(keys, unique=True, max_size=4), st.lists(keys, unique=True, max_size=4), st.integers(0, 50))
def test_adds_and_subtracts_the_keystreams_mod_what_words_hold(
    size: int, plus: list[bytes], minus: list[bytes], length: int
) -> None:
    minus = [key for key in minus if key not in plus]
    start = np.random.default_rng(length).integers(0, 2 ** (8 * size), length, dtype=f"u{size}")
    vector = start.copy()
    add_keystreams(vector, plus=plus, minus=minus)
    added = [reference(key, length, size) for key in plus]
    taken = [reference(key, length, size) for key in minus]
    for at in range(length):
        expected = int(start[at]) + sum(s[at] for s in added) - sum(s[at] for s in taken)
        assert int(vector[at]) == expected % 2 ** (8 * size)


@sizes
@pytest.mark.parametrize(("chunks", "more"), [(1, -1), (1, 0), (1, 1), (3, 5)])
def test_chunks_continue_one_keystream(size: int, chunks: int, more: int) -> None:
    key, length = bytes(range(32)), chunks * CHUNK_BYTES // size + more
    vector = np.zeros(length, dtype=f"u{size}")
    add_keystreams(vector, plus=[key])
    assert vector.tolist() == reference(key, length, size)


@settings(max_examples=20)
@given(keys, st.integers(1, 3 * CHUNK_BYTES // 8))
def test_subtracting_undoes_adding(key: bytes, length: int) -> None:
    vector = np.arange(length, dtype=np.uint64)
    add_keystreams(vector, plus=[key])
    assert length < 4 or not np.array_equal(vector, np.arange(length, dtype=np.uint64))
    add_keystreams(vector, minus=[key])
    assert np.array_equal(vector, np.arange(length, dtype=np.uint64))


def test_words_that_hold_no_modulus_are_refused() -> None:
    with pytest.raises(CryptoError, match="contiguous uint64 vector, got uint32"):
        add_keystreams(np.zeros(4, np.uint32), plus=[bytes(32)], modulus=5)


@pytest.mark.parametrize(
    ("vector", "plus", "minus"),
    [
        (np.zeros(4, dtype=np.int64), [bytes(32)], []),
        (np.zeros(4, dtype=np.float64), [bytes(32)], []),
        (np.zeros((2, 2), dtype=np.uint64), [bytes(32)], []),
        (np.zeros(8, dtype=np.uint64)[::2], [bytes(32)], []),
        (np.zeros(4, dtype=np.uint64), [bytes(31)], []),
        (np.zeros(4, dtype=np.uint64), [bytes(32), bytes(32)], []),
        (np.zeros(4, dtype=np.uint64), [bytes(32)], [bytes(32)]),
    ],
)
def test_wrong_vectors_and_repeated_keys_are_refused(
    vector: np.ndarray, plus: list[bytes], minus: list[bytes]
) -> None:
    before = vector.copy()
    with pytest.raises(CryptoError):
        add_keystreams(vector, plus=plus, minus=minus)
    assert np.array_equal(vector, before)
