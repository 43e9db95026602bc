"""What the fuzzer feeds bytes to that keeps no state: every decoder and parser of `crypto` and `protocol`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from msgspec import msgpack
from worlds.cohorts import EVERY_PROFILE

from long.recipes import Path, Recipe, paths_in, tree_of
from secure_afl.crypto import ring, shamir
from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.fixed_point import FixedPoint
from secure_afl.crypto.hpke import KeyPair, Suite, seal
from secure_afl.crypto.identity import SIGNATURE_BYTES, Identity, verify
from secure_afl.crypto.kdf import Label
from secure_afl.crypto.lattice import joint_key
from secure_afl.crypto.lattice.parameter_sets import LATTICES, Lattice, pack_mod
from secure_afl.protocol.homomorphic import agreement, keys
from secure_afl.protocol.homomorphic import messages as encrypted
from secure_afl.protocol.masking import messages as masked
from secure_afl.protocol.session import graph, parameters, wire
from secure_afl.protocol.session.errors import PolicyError
from secure_afl.protocol.session.profile import Verify

OUR_ERRORS: tuple[type[Exception], ...] = (wire.WireError, CryptoError, PolicyError)
"""All that a decoder may raise."""


@dataclass
class Decoder:
    """One that takes bytes. take: raises one of `OUR_ERRORS`, or it accepted; bases: honest inputs by name."""

    name: str
    bases: Mapping[str, bytes]
    take: Callable[[bytes], object]
    weight: float = 1.0
    refuses_all_but_bases: bool = False
    senders: tuple[int, ...] = ()
    may_sign = False
    paths: dict[str, list[Path]] = field(default_factory=dict)
    reason: str = ""  # of the last refusal

    def __post_init__(self) -> None:
        self.paths = {name: paths_in(tree_of(data)) for name, data in self.bases.items()}

    def feed(self, recipe: Recipe, data: bytes) -> bool:
        """Whether it was accepted."""
        try:
            self.take(data)
        except OUR_ERRORS as error:
            self.reason = str(error)
            return False
        if self.refuses_all_but_bases and data not in self.bases.values():
            raise AssertionError("accepted what nobody signed or sealed")
        return True

    def honest(self) -> None:
        """Raises if an honest input is refused."""
        for data in self.bases.values():
            self.take(data)


# A set small enough that its residues are made, altered and read in microseconds.
TOY = Lattice("toy", 16, LATTICES["bfv-60"].primes, 114689, plain_modulus=LATTICES["bfv-60"].plain_modulus)


def decoders(
    messages: Mapping[str, bytes], frames: Mapping[str, tuple[bytes, bytes, bytes, bytes, int]]
) -> list[Decoder]:
    """All of them. messages: honest ones by name, frames: honest ones with what `verify_frame` takes besides."""
    return [
        *_message_decoders(messages),
        *(_frame_decoder(name, *about) for name, about in frames.items()),
        *_built(messages),
        *_residues(),
        *_small(),
        *_sealed(),
    ]


def _message_decoders(messages: Mapping[str, bytes]) -> list[Decoder]:
    found = []
    for name, decoder in (
        ("PARAMETERS", parameters.PARAMETERS),
        ("FROM_CLIENT", masked.FROM_CLIENT),
        ("FROM_SERVER", masked.FROM_SERVER),
        ("ADVERTISE", masked.ADVERTISE),
        ("AGREEMENT", agreement.AGREEMENT),
        ("FROM_PARTY", encrypted.FROM_PARTY),
        ("TO_HOLDER", encrypted.TO_HOLDER),
        ("TO_CLIENT", encrypted.TO_CLIENT),
        ("INVITATION", encrypted.INVITATION),
        ("CHECK", encrypted.CHECK),
        ("COMMITMENT", encrypted.COMMITMENT),
        ("TAGS", encrypted.TAGS),
    ):
        bases = {at: data for at, data in messages.items() if _fits(data, decoder)}
        assert bases, name
        found.append(Decoder(f"decode {name}", bases, _taking(decoder), weight=4))
    return found


def _fits(data: bytes, decoder: msgpack.Decoder[Any]) -> bool:
    try:
        wire.decode(data, decoder)
    except wire.WireError:
        return False
    return True


def _taking(decoder: msgpack.Decoder[Any]) -> Callable[[bytes], object]:
    def take(data: bytes) -> None:
        message = wire.decode(data, decoder)
        assert wire.encode(message) == data, "accepted what is not canonical"
        assert repr(message) == f"{type(message).__name__}(…)"
        _look_at(message)

    return take


def _look_at(message: object) -> None:
    """What a receiver does with a message before it knows anything of the session."""
    match message:
        case parameters.Parameters():
            assert len(message.transcript()) == 32
            assert message.encrypted in (True, False)
            near = graph.Graph(message)[message.cohort[0]]
            assert len(near) == message.degree
            if message.cohort[-1] < 1000:
                EVERY_PROFILE.check(message, message.cohort[-1] + 1)
        case agreement.Agreement():
            assert len(message.transcript()) == 32
            assert message.decryptions >= len(message.rounds)
        case masked.Advertise():
            message.check(Suite.X25519, 2, Verify.TAGS)
        case masked.Shares():
            message.check(Suite.X25519, 2, 0, Verify.TAGS)
        case masked.Directory():
            message.digest()
        case encrypted.Tags():
            for tags in message.tags:
                lattice = LATTICES["bfv-60-joint"]
                lattice.add_tags(lattice.no_tags, tags)


def _frame_decoder(
    name: str, frame: bytes, verify_key: bytes, transcript: bytes, answers: bytes, sender: int
) -> Decoder:
    def take(data: bytes) -> object:
        return wire.verify_frame(data, verify_key, transcript, answers, sender)

    return Decoder(f"verify_frame {name}", {name: frame}, take, refuses_all_but_bases=True)


def _built(messages: Mapping[str, bytes]) -> list[Decoder]:
    """Structs that a program builds itself: fields of the right type and any value."""

    def taking(kind: type[wire.Message]) -> Callable[[bytes], object]:
        def take(data: bytes) -> None:
            try:
                fields = decoder.decode(data)[1:]
                made = msgspec.convert([kind.__struct_config__.tag, *fields], kind, strict=True)
            except (msgspec.DecodeError, ValueError, RecursionError) as error:
                raise wire.WireError(str(error)) from None
            _look_at(made)
            assert _fits(wire.encode(made), msgpack.Decoder(kind))

        decoder = msgpack.Decoder(list[Any])
        return take

    spec = parameters.RoundSpec("sum", 5, 20, 10**6, 8)

    def code(data: bytes) -> object:
        numbers = wire.decode(data, msgpack.Decoder(tuple[int, int, int, int]))
        return FixedPoint(*numbers)

    return [
        Decoder("Parameters(…)", {"parameters": messages["parameters"]}, taking(parameters.Parameters)),
        Decoder("Agreement(…)", {"agreement": messages["agreement"]}, taking(agreement.Agreement)),
        Decoder("RoundSpec(…)", {"round": wire.encode(spec)}, taking(parameters.RoundSpec)),
        Decoder("FixedPoint(…)", {"code": msgpack.encode((20, 10**6, 4, 8))}, code),
    ]


def _residues() -> list[Decoder]:
    draws = np.random.default_rng(1)

    def drawn(lattice: Lattice, primes: tuple[int, ...], *shape: int) -> Any:
        columns = [draws.integers(0, prime, (*shape, lattice.degree), np.uint64) for prime in primes]
        return np.stack(columns, axis=-2)

    found = []
    for lattice, weight in ((TOY, 2.0), (LATTICES["bfv-60"], 0.1), (LATTICES["bfv-60-joint"], 0.05)):
        keyed = (*lattice.primes, lattice.key_prime)
        packed = lattice.pack(drawn(lattice, lattice.primes, 1, 2))
        key = lattice.pack_key(drawn(lattice, keyed, 1, 2))
        partial = joint_key.pack_partial(lattice, drawn(lattice, lattice.primes, 1))
        share = pack_mod(drawn(lattice, keyed), keyed)
        common, other = drawn(lattice, keyed), pack_mod(drawn(lattice, keyed), keyed)
        found += [
            Decoder(
                f"unpack {lattice.name}", {"sum": packed}, _reads(lattice.unpack, lattice.pack, 5), weight
            ),
            Decoder(
                f"unpack_key {lattice.name}",
                {"key": key},
                _reads(lattice.unpack_key, lattice.pack_key),
                weight,
            ),
            Decoder(f"unpack_partial {lattice.name}", {"part": partial}, _partial(lattice), weight),
            Decoder(
                f"joint public_key {lattice.name}", {"share": share}, _joint(lattice, common, other), weight
            ),
        ]
    return found


def _reads(
    unpack: Callable[..., Any], pack: Callable[[Any], bytes], *about: int
) -> Callable[[bytes], object]:
    def take(data: bytes) -> None:
        assert pack(unpack(data, *about)) == data

    return take


def _partial(lattice: Lattice) -> Callable[[bytes], object]:
    def take(data: bytes) -> None:
        keys.parse_part(lattice, data, 5)
        assert joint_key.pack_partial(lattice, joint_key.unpack_partial(lattice, data, 5)) == data

    return take


def _joint(lattice: Lattice, common: Any, other: bytes) -> Callable[[bytes], object]:
    def take(data: bytes) -> None:
        lattice.unpack_key(joint_key.public_key(lattice, common, [data, other]))

    return take


def _small() -> list[Decoder]:
    total, payload = np.arange(7, dtype=np.uint64), bytes(range(35))
    kept = total.copy()

    def add_packed(data: bytes) -> None:
        try:
            ring.add_packed(total, data, 5)
            assert bytes(ring.pack(total - kept, 5)) == data
        finally:
            unchanged = len(data) == 35 or (total == kept).all()
            total[:] = kept
            assert unchanged, "changed the sum before it refused"

    shares = shamir.split(bytes(range(32)), 3, [1, 2, 4])

    def parse_share(data: bytes) -> None:
        assert shamir.parse_share(data).to_bytes(33, "big") == data

    def combine(data: bytes) -> None:
        pairs = wire.decode(data, msgpack.Decoder(dict[int, bytes]))
        points = {at: share for at, share in pairs.items() if 0 < at < 2**32}
        assert len(shamir.combine(points, 3)) == 32

    code = FixedPoint(20, 10**6, 4, 5)

    def decode_sum(data: bytes) -> None:
        words = np.frombuffer(data[: len(data) // 8 * 8], "<u8").astype(np.uint64)
        values = code.decode_sum(words, 1 + len(data) % 8)
        assert np.isfinite(values).all()
        assert (abs(values) <= 4 * 10**6 / 2**20).all()

    def tags(data: bytes) -> None:
        lattice = LATTICES["bfv-60"]
        numbers = wire.decode(data, msgpack.Decoder(tuple[int, ...]))
        lattice.add_tags(lattice.no_tags, numbers)

    words = np.array([0, 1, 2**40 - 1, 10**6, 3], np.uint64).tobytes()
    return [
        Decoder("ring.add_packed", {"payload": payload}, add_packed),
        Decoder("shamir.parse_share", {"share": shares[1], "least": bytes(33)}, parse_share),
        Decoder("shamir.combine", {"shares": msgpack.encode(shares)}, combine),
        Decoder("FixedPoint.decode_sum", {"words": words}, decode_sum),
        Decoder("Lattice.add_tags", {"tags": msgpack.encode((1, 2, 3, 4))}, tags),
    ]


def _sealed() -> list[Decoder]:
    found = []
    for suite, weight in ((Suite.X25519, 0.5), (Suite.HYBRID, 0.2)):
        pair = KeyPair(suite, bytes(range(32)), Label.CHANNEL_KEY)
        sealed = seal(suite, pair.public_key, b"a share", b"info")
        found += [
            Decoder(
                f"open {suite.value}", {"sealed": sealed}, _opening(pair), weight, refuses_all_but_bases=True
            ),
            Decoder(f"seal {suite.value}", {"key": pair.public_key}, _sealing(suite), weight),
        ]
    identity = Identity.generate()
    signature = identity.sign(Label.CONSENT_SIGNATURE, b"part")

    def signed(data: bytes) -> None:
        verify(identity.verify_key, data, Label.CONSENT_SIGNATURE, b"part")

    def under_key(data: bytes) -> None:
        verify(data, signature, Label.CONSENT_SIGNATURE, b"part")

    assert len(signature) == SIGNATURE_BYTES
    return [
        *found,
        Decoder("verify signature", {"signature": signature}, signed, 0.5, refuses_all_but_bases=True),
        Decoder("verify key", {"key": identity.verify_key}, under_key, 0.5, refuses_all_but_bases=True),
    ]


def _opening(pair: KeyPair) -> Callable[[bytes], object]:
    def take(data: bytes) -> None:
        assert pair.open(data, b"info") == b"a share"

    return take


def _sealing(suite: Suite) -> Callable[[bytes], object]:
    def take(data: bytes) -> None:
        assert len(seal(suite, data, b"share", b"info")) == 5 + suite.overhead_bytes

    return take
