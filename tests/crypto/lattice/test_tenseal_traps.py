"""What TenSEAL 0.3.18 does wrong with what others send, shown on TenSEAL itself, and beside each why ours cannot.

A version of TenSEAL that mends one of these fails its test here: then the comment that names the trap can go.
"""

import copy
import pickle
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import tenseal
from tenseal import sealapi
from worlds.patience import HANG

from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.lattice import seal
from secure_afl.crypto.lattice.parameter_sets import LATTICES, Lattice

SETS = list(LATTICES.values())
COMPACT, B46 = LATTICES["ckks-compact"], LATTICES["bfv-46"]


def run(script: str) -> str:
    """A fresh interpreter: what crashes there, or hangs, does not take pytest with it."""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=HANG, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def context() -> object:
    made = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS, poly_modulus_degree=4096, coeff_mod_bit_sizes=[60, 16], n_threads=1
    )
    made.global_scale = 2.0**28
    return made


# ---- sizes in a message --------------------------------------------------------------------------

FORGED = """
import tenseal
made = tenseal.context(
    tenseal.SCHEME_TYPE.CKKS, poly_modulus_degree=4096, coeff_mod_bit_sizes=[60, 16], n_threads=1
)
made.global_scale = 2.0**28
message = tenseal.ckks_vector(made, [1.0] * 2048).serialize()
assert message[:4] == bytes([10, 2, 0x80, 16])  # protobuf: field 1, two bytes, the varint of 2048
size = {size}
forged = bytes([10, 2, size & 127 | 128, size >> 7]) + message[4:]
vector = tenseal.ckks_vector_from(made, forged)
print(vector.size(), len(vector.decrypt()))
"""


def test_tenseal_believes_the_number_of_values_that_a_message_states() -> None:
    """32 values more than the ciphertext has slots: TenSEAL 'decrypts' them, from memory behind its buffer."""
    assert run(FORGED.format(size=2048)) == "2048 2048"
    assert run(FORGED.format(size=2080)) == "2080 2080"


@pytest.mark.parametrize("lattice", SETS, ids=list(LATTICES))
def test_our_messages_state_no_size_and_every_length_but_the_agreed_one_is_refused(lattice: Lattice) -> None:
    """A vector of the agreed length is a fixed number of bytes, all of them residues. A longer message costs its
    receiver nothing beyond it.
    """
    length = lattice.slots + 1
    right = lattice.ciphertext_bytes(length)
    assert right == lattice.ciphertext_bytes(2 * lattice.slots)
    assert lattice.unpack(bytes(right), length).nbytes == lattice.zeros(length).nbytes
    message = bytes(3 * right)
    tracemalloc.start()
    try:
        for size in (0, 1, right // 2, right - 1, right + 1, 2 * right, 3 * right):
            with pytest.raises(CryptoError, match=f"expected residues in {right} bytes"):
                lattice.unpack(memoryview(message)[:size], length)
        assert tracemalloc.get_traced_memory()[1] < 60_000
    finally:
        tracemalloc.stop()


# ---- a public context ----------------------------------------------------------------------------


def test_a_context_made_public_still_decrypts() -> None:
    """`make_context_public` drops TenSEAL's secret key, not the decryptor that holds it."""
    made = context()
    vector = tenseal.ckks_vector(made, [1.0, 2.0])
    made.make_context_public()  # type: ignore[attr-defined]
    assert not made.has_secret_key()  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="secret_key"):
        vector.decrypt()
    plain = sealapi.Plaintext()
    made.decryptor().data.decrypt(vector.ciphertext()[0], plain)  # type: ignore[attr-defined]
    encoder = sealapi.CKKSEncoder(made.seal_context().data)  # type: ignore[attr-defined]
    assert encoder.decode_double(plain)[:2] == pytest.approx([1.0, 2.0], abs=1e-3)


@pytest.mark.parametrize("lattice", SETS, ids=list(LATTICES))
def test_what_leaves_a_key_holder_of_ours_is_bytes_of_the_public_key_alone(lattice: Lattice) -> None:
    """No object is stripped of a secret: `public_key` is made of two polynomials and nothing else, which differ
    between keys and open nothing; whoever encrypts has no key object at all.
    """
    key, other = seal.SecretKey(lattice), seal.SecretKey(lattice)
    assert len(key.public_key) == lattice.public_key_bytes == len(other.public_key)
    assert key.public_key != other.public_key
    values = np.arange(3).astype(np.int64 if lattice.plain_modulus else np.float64)
    found, _ = key.decrypt(seal.encrypt(lattice, key.public_key, values), 3)
    assert found == pytest.approx(values, abs=1e-3)
    lattice.unpack_key(key.public_key)


@pytest.mark.parametrize("lattice", SETS, ids=list(LATTICES))
def test_a_secret_key_is_neither_shown_nor_pickled_nor_copied(lattice: Lattice) -> None:
    key = seal.SecretKey(lattice)
    assert repr(key) == str(key) == f"SecretKey({lattice.name})"
    assert f"{[key]}" == f"[SecretKey({lattice.name})]"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(CryptoError, match="cannot be pickled"):
            pickle.dumps(key, protocol)
    for copied in (copy.copy, copy.deepcopy):
        with pytest.raises(CryptoError, match="cannot be pickled"):
            copied(key)
    shown = {name: repr(value) for name, value in vars(key).items() if name != "public_key"}
    assert shown.keys() == {"lattice", "_secret", "_decryptor"}
    assert "object at" in shown["_decryptor"]


# ---- input that is too long ----------------------------------------------------------------------


def test_tenseal_prints_about_an_input_that_is_too_long(capfd: pytest.CaptureFixture[str]) -> None:
    vector = tenseal.ckks_vector(context(), [1.0] * 2049)
    printed = capfd.readouterr()
    assert "WARNING: The input does not fit in a single ciphertext" in printed.out + printed.err
    assert len(vector.ciphertext()) == 2


@pytest.mark.parametrize("lattice", SETS, ids=list(LATTICES))
def test_ours_splits_long_vectors_without_a_word(lattice: Lattice, capfd: pytest.CaptureFixture[str]) -> None:
    length = lattice.slots + 1
    values = np.arange(length).astype(np.int64 if lattice.plain_modulus else np.float64)
    key = seal.SecretKey(lattice)
    residues = seal.encrypt(lattice, key.public_key, values)
    assert residues.shape == lattice.zeros(length).shape
    found, _ = key.decrypt(residues, length)
    assert found == pytest.approx(values, abs=1e-3)
    assert capfd.readouterr() == ("", "")


# ---- processes -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_long_vectors_encrypted_by_processes_decrypt_to_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """300 ciphertexts: 256 are the least for which processes start."""
    key = seal.SecretKey(B46)
    values = np.random.default_rng(0).integers(-(2**44), 2**44, 299 * B46.slots + 5)
    assert B46.count(len(values)) >= seal._PROCESSES_FROM
    many = seal.encrypt(B46, key.public_key, values)
    monkeypatch.setattr(seal, "_PROCESSES_FROM", 10**9)
    one = seal.encrypt(B46, key.public_key, values)
    assert many.shape == one.shape
    assert not (many == one).all(axis=(1, 2, 3)).any()  # nor do two processes draw alike:
    assert len({row[1, 0, :4].tobytes() for row in (*many, *one)}) == 2 * len(many)
    for residues in (many, one):
        found, budget = key.decrypt(residues, len(values))
        assert np.array_equal(found, values)
        assert budget >= 2


UNGUARDED = """
import numpy as np
from secure_afl.crypto.lattice import seal
from secure_afl.crypto.lattice.parameter_sets import LATTICES
lattice = LATTICES["ckks-compact"]
seal._PROCESSES_FROM = 2
seal._PER_TASK = 1
key = seal.SecretKey(lattice)
values = np.linspace(-1, 1, 4 * lattice.slots)
found, _ = key.decrypt(seal.encrypt(lattice, key.public_key, values), len(values))
print("ran", float(np.abs(found - values).max()) < 1e-3)
"""


def test_processes_need_no_guard_in_the_script_that_starts_them(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """A child that ran the script again would print, or encrypt, once more."""
    path = tmp_path_factory.mktemp("script") / "unguarded.py"
    path.write_text(UNGUARDED)
    done = subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, timeout=HANG, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["ran", "True"]
