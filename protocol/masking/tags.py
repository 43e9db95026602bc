"""Tags of masked sums: what lets every client check the sum that a server opened. Theorem: docs/verified-sums.md.

The clients of a round share a key that the server does not have. From it follow r and a pad for each client, and the tag
of a vector is L_r(vector) + pad mod p = 2¹³⁰ − 5, where L_r is the polynomial of Poly1305 without what that adds to each
block. L_r is linear, so the tags' sum is the sum's tag: L_r(sum) + Σ pads. Tags are masked and added mod p.

OpenSSL's Poly1305 does the work on the vectors, in constant time. Numbers below p are Python's, whose time depends on
them a little: a few for each round, from a key that is used once.
"""

from collections.abc import Collection

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.poly1305 import Poly1305

from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.guarded import Guarded
from secure_afl.crypto.kdf import KEY_BYTES, Label, derive, digest, integer
from secure_afl.crypto.prg import keystream

PRIME = 2**130 - 5
TAG_BYTES = 17
_BLOCK = 16  # bytes
_CLAMP = 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
_CHUNK = 16 * 1024  # words that are hashed together


Units = npt.NDArray[np.int32 | np.int64 | np.uint32 | np.uint64]
"""Signed integers, in two's complement where the type has no sign."""


class TagKey(Guarded):
    """The key of a round over its participants, each with an index among them."""

    def __init__(self, key: bytes, participants: int) -> None:
        stream = keystream(key)
        self._r = int.from_bytes(stream(KEY_BYTES)[:_BLOCK], "little") & _CLAMP
        pads = stream(KEY_BYTES * participants)
        self._pads = [
            int.from_bytes(pads[at : at + KEY_BYTES], "little") % PRIME
            for at in range(0, len(pads), KEY_BYTES)
        ]

    def tag(self, units: Units, magnitude: int, size: int, index: int) -> int:
        """The tag of a participant's vector, whose entries are up to `magnitude`, hashed as words of `size` bytes."""
        return (polynomial(self._r, units, magnitude, size) + self._pads[index]) % PRIME

    def fits(self, total: Units, tag: int, magnitude: int, size: int, indices: Collection[int]) -> bool:
        """Whether this is the sum of those participants' vectors, given the sum of their tags."""
        limit = len(indices) * magnitude
        if not -limit <= int(total.min()) <= int(total.max()) <= limit:
            return False
        pads = sum(self._pads[index] for index in indices)
        return (tag - pads) % PRIME == polynomial(self._r, total, limit, size)


def round_key(
    secrets: Collection[bytes],
    transcript: bytes,
    directory: bytes,
    number: int,
    participants: Collection[int],
) -> bytes:
    """The key of a round, from the secrets that its participants dealt; both in the order of their numbers."""
    context = (transcript, directory, integer(number), b"".join(map(integer, participants)))
    return derive(digest(Label.TAG_SECRETS, *secrets), Label.TAG_KEY, *context)


def commitment(transcript: bytes, dealer: int, secret: bytes) -> bytes:
    """The hash by which a dealer commits to dealing the same secret to all participants."""
    return digest(Label.TAG_COMMITMENT, transcript, integer(dealer), secret)


def pair_mask(secret: bytes, transcript: bytes, number: int, one: int, other: int) -> int:
    """What the lower of two neighbours adds to its tag and the higher subtracts."""
    low, high = sorted((one, other))
    context = (transcript, integer(number), integer(low), integer(high))
    return int.from_bytes(derive(secret, Label.PAIR_TAG, *context), "little") % PRIME


def self_mask(seed: bytes, transcript: bytes, number: int, client: int) -> int:
    """What a client adds to its tag by itself."""
    return (
        int.from_bytes(derive(seed, Label.SELF_TAG, transcript, integer(number), integer(client)), "little")
        % PRIME
    )


def packed(tag: int) -> bytes:
    """A number below p, 17 bytes, little endian."""
    return (tag % PRIME).to_bytes(TAG_BYTES, "little")


def parsed(data: bytes) -> int:
    """The number. Raises `CryptoError` unless it is one below p."""
    tag = int.from_bytes(data, "little")
    if len(data) != TAG_BYTES or tag >= PRIME:
        raise CryptoError(f"expected a tag of {TAG_BYTES} bytes below 2^130 - 5, got {len(data)} bytes")
    return tag


def check_allowed() -> None:
    """Raises `CryptoError` where this machine cannot compute tags: ask before anything is given to a session with tags."""
    _hash(bytes(2 * _BLOCK))


def _hash(key: bytes) -> Poly1305:
    try:
        return Poly1305(key)
    except UnsupportedAlgorithm:
        raise CryptoError(
            "this machine's OpenSSL does not allow Poly1305 (as in its FIPS mode), which tags of sums need: agree with all "
            'parties on verify = ["replay"], which needs none, or ["none"], where the server is believed; or use another build'
        ) from None


def polynomial(r: int, units: Units, offset: int, size: int) -> int:
    """L_r of the words `units + offset`: Σ block_j · r^(J − j + 1) mod p over their J blocks of 16 bytes.

    units: none below −offset or over offset; 2·offset must be below 2^(8·size). r: clamped. The last
    block is filled up with zeros.

    Poly1305 gives the low 128 bits of A = Σ (block_j + 2¹²⁸) · r^(J − j + 1) mod p. A is one of four numbers below p then;
    a second run with a block of zeros at the end gives those of (A + 2¹²⁸) · r, which tell which.
    """
    kind = np.uint32 if size == 4 else np.uint64
    key = r.to_bytes(_BLOCK, "little") + bytes(_BLOCK)
    once, again = _hash(key), _hash(key)
    held = bytearray(_CHUNK * size)
    view, scratch = memoryview(held), np.frombuffer(held, kind)
    shift = kind(offset)
    for start in range(0, len(units), _CHUNK):
        part = units[start : start + _CHUNK].astype(kind, copy=False)
        np.add(part, shift, out=scratch[: len(part)])
        whole = -(-len(part) * size // _BLOCK) * _BLOCK
        scratch[len(part) : whole // size] = 0
        once.update(view[:whole])
        again.update(view[:whole])
    again.update(bytes(_BLOCK))
    low, check = (int.from_bytes(one.finalize(), "little") for one in (once, again))
    found = [
        a
        for high in range(4)
        if (a := low + (high << 128)) < PRIME and ((a + 2**128) * r % PRIME) % 2**128 == check
    ]
    # Two of them can fit only for 21 values of r, j/k mod p with |j| and k up to 3.
    if len(found) != 1 or r == 1:
        raise CryptoError("the key of this round's tags is one of 21 weak ones: begin a new session")
    blocks = -(-len(units) * size // _BLOCK)
    ones = r * (pow(r, blocks, PRIME) - 1) * pow(r - 1, -1, PRIME) % PRIME
    return (found[0] - (ones << 128)) % PRIME
