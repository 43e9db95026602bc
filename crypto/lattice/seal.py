"""SEAL through TenSEAL: keys, encryption, decryption, and conversion to and from plain residues.

From other parties this module reads only residues, which `Lattice` has checked. It reads objects in SEAL's own format
only if this process wrote them. Encryption takes most of a client's time and holds the interpreter's lock, so long
vectors are encrypted in several processes.
"""

import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from secure_afl.crypto import workers
from secure_afl.crypto.errors import CryptoError, optional
from secure_afl.crypto.guarded import Guarded
from secure_afl.crypto.lattice.parameter_sets import LATTICES, Lattice, Residues

with optional():
    import zstandard
    from tenseal import sealapi

# SEAL's header: magic, its own size and the version (five bytes), compression, reserved, size of all.
_HEADER = struct.Struct("<5sBHQ")
_UNCOMPRESSED, _ZSTD = 0, 2
_PROCESSES_FROM = 256  # ciphertexts; starting processes costs as much as encrypting this many
_PER_TASK = 64
Plain = npt.NDArray[Any]
"""int64 for BFV, float64 for CKKS."""


@cache
def _context(lattice: Lattice) -> Any:
    scheme = sealapi.SCHEME_TYPE.BFV if lattice.plain_modulus else sealapi.SCHEME_TYPE.CKKS
    parameters = sealapi.EncryptionParameters(scheme)
    parameters.set_poly_modulus_degree(lattice.degree)
    parameters.set_coeff_modulus([sealapi.Modulus(p) for p in (*lattice.primes, lattice.key_prime)])
    if lattice.plain_modulus:
        parameters.set_plain_modulus(lattice.plain_modulus)
    context = sealapi.SEALContext(parameters, True, sealapi.SEC_LEVEL_TYPE.TC128)
    if not context.parameters_set():
        raise CryptoError(f"TenSEAL refuses the parameters of {lattice.name}")
    return context


class SecretKey(Guarded):
    """A key pair made by SEAL from the operating system's randomness; only `kept` reveals the secret.

    public_key: for `encrypt` (`Lattice.public_key_bytes` bytes). kept: the bytes of an earlier object's `kept`, to
    restore the same pair.
    """

    def __init__(self, lattice: Lattice, kept: bytes | None = None) -> None:
        self.lattice = lattice
        context = _context(lattice)
        if kept is not None:
            secret = sealapi.SecretKey()
            with _memory_file() as path:
                path.write_bytes(kept[: -lattice.public_key_bytes])
                secret.load(context, str(path))
            self._secret, self.public_key = secret, kept[-lattice.public_key_bytes :]
            self._decryptor = sealapi.Decryptor(context, secret)
            return
        generator = sealapi.KeyGenerator(context)
        self._secret = generator.secret_key()
        public = sealapi.PublicKey()
        generator.create_public_key(public)
        self._decryptor = sealapi.Decryptor(context, self._secret)
        words = 2 * (len(lattice.primes) + 1) * lattice.degree
        key = _words(_saved(public), words).reshape(1, 2, len(lattice.primes) + 1, lattice.degree)
        self.public_key = lattice.pack_key(key)

    def __repr__(self) -> str:
        return f"SecretKey({self.lattice.name})"

    def kept(self) -> bytes:
        """The secret and the public key, only for the key holder's own store. Raises `CryptoError` on systems without
        in-memory files (Linux has them): the secret is never written to a disk unencrypted.
        """
        with _memory_file() as path:
            self._secret.save(str(path))
            return path.read_bytes() + self.public_key

    def decrypt(self, residues: Residues, length: int) -> tuple[Plain, int]:
        """Decrypt `length` values, and the remaining noise budget in bits of the worst ciphertext.

        The values are int64 for BFV; for CKKS float64, divided by 2^scale_bits. CKKS has no noise budget: 0.
        """
        return _decrypt(self.lattice, self._decryptor, residues, length)


def decode(lattice: Lattice, opened: Residues, length: int) -> tuple[Plain, int]:
    """Like `SecretKey.decrypt`, for ciphertexts whose second polynomial is zero, which need no key."""
    generator = sealapi.KeyGenerator(_context(lattice))  # any key decrypts them
    decryptor = sealapi.Decryptor(_context(lattice), generator.secret_key())
    return _decrypt(lattice, decryptor, opened, length)


def _decrypt(lattice: Lattice, decryptor: Any, residues: Residues, length: int) -> tuple[Plain, int]:
    context, budget = _context(lattice), 0
    values: list[Plain] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ciphertext"
        for at, one in enumerate(residues):
            ciphertext = sealapi.Ciphertext()
            path.write_bytes(_framed(_head(lattice) + one.astype("<u8").tobytes()))
            ciphertext.load(context, str(path))
            plain = sealapi.Plaintext()
            decryptor.decrypt(ciphertext, plain)
            if lattice.plain_modulus:
                left = decryptor.invariant_noise_budget(ciphertext)
                budget = left if at == 0 else min(budget, left)
                values.append(np.array(sealapi.BatchEncoder(context).decode_int64(plain), np.int64))
            else:
                values.append(np.array(sealapi.CKKSEncoder(context).decode_double(plain), np.float64))
    return np.concatenate(values)[:length], budget


def encrypt(lattice: Lattice, public_key: bytes, values: Plain) -> Residues:
    """Encrypt a vector: int64 below t/2 in magnitude for BFV, float64 for CKKS.

    Raises `CryptoError` if `public_key` does not fit the parameter set.
    """
    lattice.unpack_key(public_key)  # before any process starts
    chunks = [values[at : at + lattice.slots] for at in range(0, len(values), lattice.slots)]
    if workers.cores() == 1 or len(chunks) < _PROCESSES_FROM:
        return _encrypt_chunks((lattice.name, public_key, chunks))
    tasks = [
        (lattice.name, public_key, chunks[at : at + _PER_TASK]) for at in range(0, len(chunks), _PER_TASK)
    ]
    return np.concatenate(workers.spread(_encrypt_chunks, tasks))


def _encrypt_chunks(task: tuple[str, bytes, list[Plain]]) -> Residues:
    name, public_key, chunks = task
    lattice = LATTICES[name]
    context, encryptor = _context(lattice), _encryptor(name, public_key)
    ciphertexts = np.empty((len(chunks), 2, len(lattice.primes), lattice.degree), np.uint64)
    batch = sealapi.BatchEncoder(context) if lattice.plain_modulus else sealapi.CKKSEncoder(context)
    with tempfile.TemporaryDirectory() as folder:
        for at, chunk in enumerate(chunks):
            plain, ciphertext = sealapi.Plaintext(), sealapi.Ciphertext()
            if lattice.plain_modulus:
                batch.encode(chunk.tolist(), plain)
            else:
                batch.encode(chunk.tolist(), 2.0**lattice.scale_bits, plain)
            encryptor.encrypt(plain, ciphertext)
            body = _saved(ciphertext, folder)
            ciphertexts[at] = _words(body, ciphertexts[at].size).reshape(ciphertexts[at].shape)
    return ciphertexts


@lru_cache(maxsize=8)
def _encryptor(name: str, public_key: bytes) -> Any:
    lattice = LATTICES[name]
    context = _context(lattice)
    template = sealapi.PublicKey()
    sealapi.KeyGenerator(context).create_public_key(template)
    body, key = _saved(template), lattice.unpack_key(public_key)
    loaded = sealapi.PublicKey()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "key"
        path.write_bytes(_framed(body[: len(body) - 8 * key.size] + key.astype("<u8").tobytes()))
        loaded.load(context, str(path))
    return sealapi.Encryptor(context, loaded)


@contextmanager
def _memory_file() -> Iterator[Path]:
    if not hasattr(os, "memfd_create"):
        raise CryptoError("a secret key needs in-memory files, which this system does not have: use Linux")
    handle = os.memfd_create("secret")
    try:
        yield Path(f"/proc/self/fd/{handle}")
    finally:
        os.close(handle)


@cache
def _head(lattice: Lattice) -> bytes:
    """The bytes before the residues in a ciphertext of this set."""
    context = _context(lattice)
    public, plain, ciphertext = sealapi.PublicKey(), sealapi.Plaintext(), sealapi.Ciphertext()
    sealapi.KeyGenerator(context).create_public_key(public)
    if lattice.plain_modulus:
        sealapi.BatchEncoder(context).encode([0], plain)
    else:
        sealapi.CKKSEncoder(context).encode([0.0], 2.0**lattice.scale_bits, plain)
    sealapi.Encryptor(context, public).encrypt(plain, ciphertext)
    body = _saved(ciphertext)
    return body[: len(body) - 8 * 2 * len(lattice.primes) * lattice.degree]


def _saved(thing: Any, folder: str | None = None) -> bytes:
    """SEAL's serialisation without its header and compression."""
    if folder is None:
        with tempfile.TemporaryDirectory() as fresh:
            return _saved(thing, fresh)
    path = Path(folder) / "saved"
    thing.save(str(path))
    data = path.read_bytes()
    _, compression, _, size = _HEADER.unpack_from(data)
    body = data[_HEADER.size : size]
    if compression == _ZSTD:
        return zstandard.ZstdDecompressor().decompressobj().decompress(body)
    if compression != _UNCOMPRESSED:
        raise CryptoError(
            f"this TenSEAL build uses an unknown compression ({compression}): install the pinned version"
        )
    return body


def _words(body: bytes, count: int) -> npt.NDArray[np.uint64]:
    return np.frombuffer(body[len(body) - 8 * count :], "<u8").astype(np.uint64)


def _framed(body: bytes) -> bytes:
    return _HEADER.pack(_start(), _UNCOMPRESSED, 0, _HEADER.size + len(body)) + body


@lru_cache(maxsize=1)
def _start() -> bytes:
    """The first bytes of every file that this SEAL version writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plain"
        sealapi.Plaintext().save(str(path))
        return path.read_bytes()[:5]
