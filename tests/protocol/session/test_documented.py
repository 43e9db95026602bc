"""docs/protocol.md is true: its tables are the code's, and a second implementation written from it agrees.

The reference below uses plain integers, hashlib, hmac and the primitives' own keys; none of our code.
"""

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from reference import kdf
from reference.kdf import bind, derive, digest, expand, u64
from worlds.cohorts import BOUND, Tap, world

from secure_afl.crypto import shamir
from secure_afl.crypto.hpke import Suite
from secure_afl.crypto.kdf import Label
from secure_afl.crypto.lattice.parameter_sets import LATTICES
from secure_afl.protocol.homomorphic import messages as encrypted
from secure_afl.protocol.homomorphic.agreement import Agreement
from secure_afl.protocol.masking import messages, states
from secure_afl.protocol.masking.client import MaskingClient
from secure_afl.protocol.masking.messages import Delivery
from secure_afl.protocol.session import graph
from secure_afl.protocol.session.parameters import Parameters, Profile, RoundSpec
from secure_afl.protocol.session.profile import MODES
from secure_afl.protocol.session.wire import Message, encode
from secure_afl.protocol.transport.driver import Packet

DOCS = Path(__file__).parents[3] / "docs"
TEXT = (DOCS / "protocol.md").read_text(encoding="utf-8")
ENCRYPTED = (DOCS / "encrypted-protocol.md").read_text(encoding="utf-8")


def section(title: str, text: str = TEXT) -> str:
    """From the heading that ends in `title` to the next heading."""
    found = re.search(rf"^#+ (?:[\d.]+ )?{re.escape(title)}$(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


def rows(text: str) -> list[list[str]]:
    """The cells of every table row, backticks stripped."""
    return [
        [cell.strip().strip("`") for cell in line.strip("|").split(" | ")]
        for line in text.splitlines()
        if line.startswith("|") and not line.startswith("|---")
    ]


LABELS = {name: text.encode() for name, text, _ in rows(section("Labels"))[1:]}
FORMULAS = {row[0]: row[1] for row in rows(section("Sizes")) if len(row) == 2 and row[0] != "size"}

# ---- the tables ----------------------------------------------------------------------------------


def test_labels() -> None:
    assert {label.name: label.value for label in Label} == LABELS == kdf.LABELS
    assert len(set(LABELS.values())) == len(LABELS)


STRUCTS = (
    *messages.FromClient.__args__,
    *messages.FromServer.__args__,
    Parameters,
    RoundSpec,
    messages.Bundle,
    messages.Vote,
)


@pytest.mark.parametrize("struct", STRUCTS, ids=lambda struct: str(struct.__name__))
def test_every_message_and_its_fields_in_order(struct: type[Message]) -> None:
    table = rows(section(f"`{struct.__struct_config__.tag}`"))[1:]
    assert [row[1] for row in table] == list(struct.__struct_fields__)
    assert [row[0] for row in table] == [str(index + 1) for index in range(len(table))]


ENCRYPTED_STRUCTS = (
    *encrypted.FromHolder.__args__,
    *encrypted.FromClient.__args__,
    *encrypted.ToHolder.__args__,
    *encrypted.ToClient.__args__,
    encrypted.Invitation,
    Agreement,
)


@pytest.mark.parametrize("struct", ENCRYPTED_STRUCTS, ids=lambda struct: str(struct.__name__))
def test_every_message_of_encrypted_sums(struct: type[Message]) -> None:
    table = rows(section(f"`{struct.__struct_config__.tag}`", ENCRYPTED))[1:]
    assert [row[1] for row in table] == list(struct.__struct_fields__)
    assert [row[0] for row in table] == [str(index + 1) for index in range(len(table))]


def test_the_parameter_sets() -> None:
    table = {row[0]: row[1:] for row in rows(section("Parameters", ENCRYPTED))[1:]}
    assert table.keys() == LATTICES.keys()
    for name, lattice in LATTICES.items():
        degree, primes, plain, size = table[name]
        assert int(degree) == lattice.degree
        bits = [prime.bit_length() for prime in lattice.primes]
        assert primes == f"{' + '.join(map(str, bits))}, {lattice.key_prime.bit_length()}"
        assert plain.startswith(str(lattice.plain_modulus.bit_length())) or lattice.scale_bits
        assert int(size) == lattice.ciphertext_bytes(lattice.slots) / lattice.slots


def test_nothing_else_is_documented() -> None:
    assert len(re.findall(r"^### `.+`$", TEXT, re.MULTILINE)) == len(STRUCTS)


def test_states() -> None:
    def tag(kind: type[Message]) -> str:
        return str(kind.__struct_config__.tag)

    clients = {(row[0], row[1]): row[2:] for row in rows(section("Client states"))[1:]}
    servers = {row[0]: row[1:] for row in rows(section("Server states"))[1:]}
    for at, mode in enumerate(MODES):
        legal = {
            (state.value, tag(kind)): after.value
            for state, steps in states.CLIENT[mode].items()
            for kind, after in steps.items()
        }
        assert legal == {step: after[at] for step, after in clients.items() if after[at] != "–"}
        collected = {
            state.value: (tag(kind), after.value) for state, (kind, after) in states.SERVER[mode].items()
        }
        assert collected == {state: (row[0], row[1 + at]) for state, row in servers.items()}


def test_constants() -> None:
    assert shamir.PRIME == 2**256 + 297
    assert "p = 2²⁵⁶ + 297" in section("Shamir")
    assert f"{shamir.SHARE_BYTES} bytes, big endian" in section("Shamir")
    table = {row[0]: row[1:] for row in rows(section("Key pairs and HPKE"))}
    for column, name in enumerate(table[""]):
        suite = Suite(name)
        assert table["public key K, bytes"][column].split()[0] == str(suite.public_key_bytes)
        assert table["sealed minus plain E, bytes"][column] == str(suite.overhead_bytes)


# ---- sizes ---------------------------------------------------------------------------------------


def formulas(spec: RoundSpec, suite: Suite, n: int, rounds: int, me: int) -> dict[str, int]:
    """The document's formulas, evaluated for the client at place `me` of the cohort 0 … n − 1."""

    def i(v: int) -> int:
        return len(pack(v))

    numbers = (spec.length, spec.fraction_bits, spec.magnitude, spec.width, spec.modulus)
    names: dict[str, Any] = {
        "A": lambda k: len(pack([0] * k)) - k,
        "B": lambda x: len(pack(bytes(x))),
        "S": lambda text: len(pack(text)),
        "I": i, "n": n, "R": rounds, "r": rounds - 1, "me": me, "h": n - 1 - me, "l": me,
        "Z": sum(map(i, range(n))), "t": 2 * n // 3 + 1, "suite": suite.value, "profile": "active", "verify": "tags",
        "K": suite.public_key_bytes, "E": suite.overhead_bytes, "m": spec.length, "w": spec.width,
        "X": rounds * (6 + len(pack(spec.statistic)) + sum(map(i, numbers)) + len(pack(spec.noise)) + 1),
    }  # fmt: skip
    names["F"] = eval(FORMULAS["advertise"], names)
    names |= {part: eval(FORMULAS[part], names) for part in "PQ"}
    sizes = {}
    for tag in set(FORMULAS) - {"P", "Q"}:
        sizes[tag] = eval(FORMULAS[tag], names)
    return sizes


@pytest.mark.parametrize(
    ("n", "suite", "rounds", "length"),
    [(4, Suite.HYBRID, 1, 1000), (4, Suite.X25519, 3, 70), (18, Suite.X25519, 2, 30)],
)
def test_sizes_are_what_a_cohort_sends(n: int, suite: Suite, rounds: int, length: int) -> None:
    tap, members = Tap(), world(n)
    parameters = members.propose(length=length, rounds=rounds, suite=suite)
    members.session(parameters, tap).set_up().sum(rounds - 1)
    for client in range(n):
        mine = [one for one in tap.seen if one.client == client]
        sent = {unpack(one.data[: -64 if one.upward else None])[0]: len(one.data) for one in mine}
        assert sent == formulas(parameters.rounds[0], suite, n, rounds, client)


def test_the_worked_sizes_follow_from_the_formulas() -> None:
    head, *table = rows(section("Sizes").partition("Worked:")[2])
    assert len(head) == 2 + 8
    for at, column in enumerate(head[2:], 2):
        n, suite, which = column.split()
        spec = world(int(n)).propose(length=1000).rounds[0]
        sizes = formulas(spec, Suite(suite), int(n), 1, int(n) - 1 if which == "last" else 0)
        assert {row[0]: int(row[at]) for row in table[:-4]} == sizes
        for phases, way, *totals in table[-4:]:
            part = table[:6] if phases == "phases 0–2" else table[6:-4]
            assert int(totals[at - 2]) == sum(sizes[row[0]] for row in part if row[1] == way)


# ---- a second implementation, from the document alone --------------------------------------------


def unpack(data: bytes) -> Any:
    value = msgspec.msgpack.decode(data)  # knows none of our structs
    assert pack(value) == data
    return value


def pack(value: Any) -> bytes:
    """MessagePack as §3.1 has it (no negative integer occurs here)."""
    if isinstance(value, list):
        return head(0x90, 16, {2: 0xDC, 4: 0xDD}, len(value)) + b"".join(map(pack, value))
    if isinstance(value, bytes):
        return head(0, 0, {1: 0xC4, 2: 0xC5, 4: 0xC6}, len(value)) + value
    if isinstance(value, str):
        return head(0xA0, 32, {1: 0xD9, 2: 0xDA, 4: 0xDB}, len(value.encode())) + value.encode()
    return head(0, 128, {1: 0xCC, 2: 0xCD, 4: 0xCE, 8: 0xCF}, value)


def head(short: int, room: int, long: Mapping[int, int], number: int) -> bytes:
    if number < room:
        return bytes([short | number])
    size = next(size for size in long if number < 256**size)
    return bytes([long[size]]) + number.to_bytes(size, "big")


class Keys:
    """`keypair(seed, label)`, and HPKE's other end by hand."""

    def __init__(self, suite: str, seed: bytes, label: str) -> None:
        material = derive(seed, label, suite.encode(), length=96)
        self.x25519 = X25519PrivateKey.from_private_bytes(material[64:])
        self.mlkem = MLKEM768PrivateKey.from_seed_bytes(material[:64]) if suite == "hybrid" else None
        self.own = self.x25519.public_key().public_bytes_raw()
        self.public = (self.mlkem.public_key().public_bytes_raw() if self.mlkem else b"") + self.own

    def open(self, sealed: bytes, info: bytes) -> bytes:
        def extract(suite: bytes, label: bytes, value: bytes, salt: bytes = b"") -> bytes:
            return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + value, "sha256")

        def labelled(key: bytes, suite: bytes, label: bytes, value: bytes, length: int) -> bytes:
            return expand(key, length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + value, length)

        long = 1120 if self.mlkem else 32
        encapsulated, cipher = sealed[:long], sealed[long:]
        ephemeral = encapsulated[-32:]
        shared = self.x25519.exchange(X25519PublicKey.from_public_bytes(ephemeral))
        if self.mlkem:
            inner = self.mlkem.decapsulate(encapsulated[:1088]) + shared + ephemeral + self.own
            shared, suite = hashlib.sha3_256(inner + bytes.fromhex("5c2e2f2f5e5c")).digest(), b"HPKE\x64\x7a"
        else:
            kem, prk = b"KEM\x00\x20", extract(b"KEM\x00\x20", b"eae_prk", shared)
            shared, suite = labelled(prk, kem, b"shared_secret", ephemeral + self.own, 32), b"HPKE\x00\x20"
        suite += b"\x00\x01\x00\x02"
        context = b"\x00" + extract(suite, b"psk_id_hash", b"") + extract(suite, b"info_hash", info)
        prk = extract(suite, b"secret", b"", shared)
        key, nonce = (
            labelled(prk, suite, name, context, size) for name, size in ((b"key", 32), (b"base_nonce", 12))
        )
        return AESGCM(key).decrypt(nonce, cipher, b"")


def stream(key: bytes, count: int) -> list[int]:
    raw = Cipher(AES256(key), CTR(bytes(16))).encryptor().update(bytes(8 * count))
    return [int.from_bytes(raw[at : at + 8], "little") for at in range(0, 8 * count, 8)]


def root(message: bytes) -> bytes:
    """Of a message in one part."""
    return digest("FRAME_SIGNATURE", digest("FRAME_PART", message))


def interpolate(shares: Mapping[int, bytes]) -> bytes:
    prime, total = 2**256 + 297, 0
    for i, share in shares.items():
        weight = Fraction(1)
        for j in shares:
            weight *= Fraction(j + 1, j - i) if j != i else 1
        total += int.from_bytes(share, "big") * weight.numerator * pow(weight.denominator, -1, prime)
    return (total % prime).to_bytes(32, "big")


class Opens(MaskingClient):
    """Notes the key that shares are sealed to, which it forgets when it has opened them."""

    def _confirm(self, delivery: Delivery) -> bytes:
        self.opening = self._memory.channel
        return super()._confirm(delivery)


class Lossy(Tap):
    """Loses the upload of client 1."""

    def carry(self, packet: Packet) -> list[Packet]:
        kept = super().carry(packet)
        return [] if (packet.phase, packet.client, packet.upward) == ("collecting", 1, True) else kept


@pytest.mark.parametrize("suite", Suite)
def test_a_second_implementation_agrees_byte_for_byte(suite: Suite) -> None:
    tap, members = Lossy(), world(4)
    parameters = members.propose(suite=suite, length=7, fraction_bits=30)
    session = members.session(parameters, tap, client=Opens).set_up()
    seeds = {index: client._memory.rounds[0] for index, client in session.clients.items()}
    result = session.sum()
    everyone, alive, zero = range(4), (0, 2, 3), u64(0)

    # Every frame: its encoding, its question, its signature.
    keys = [Ed25519PublicKey.from_public_bytes(member.verify_key) for member in members.roster.members]
    question, said, asked = {}, {}, {}
    transcript = digest("TRANSCRIPT", tap.seen[0].data)
    for one in tap.seen:
        body = one.data[:-64] if one.upward else one.data
        content = unpack(body)
        if not one.upward:
            question[one.client] = digest("ANSWERED", body)
            asked[content[0], one.client] = content
            assert content[0] == "parameters" or content[1] == transcript
            continue
        said[content[0], one.client] = content
        parts = (transcript, question[one.client], u64(one.client), root(body))
        keys[one.client].verify(one.data[-64:], bind("FRAME_SIGNATURE", *parts))

    # Phase 0: the roster's digest and the fixed-point encoding.
    named = [part for member in members.roster.members for part in (member.name.encode(), member.verify_key)]
    assert asked["parameters", 0][6] == digest("ROSTER", *named)
    t, (_, _, m, f, magnitude, w, _, _) = asked["parameters", 0][9], asked["parameters", 0][10][0]
    room = (2 ** (8 * w - 1) - 1) // 4
    assert magnitude == BOUND * 2**f <= room < BOUND * 2 ** (f + 1)
    assert w == 5
    assert room >= BOUND * 2**30 > (2**31 - 1) // 4

    # Phases 1 and 2: key pairs, shares, pair secrets and what commits to them.
    def committed(dealer: int, holder: int, kind: int, secret: bytes) -> bytes:
        return digest("COMMITMENT", transcript, zero, u64(dealer), u64(holder), u64(kind), secret)

    pairs: dict[tuple[int, int], bytes] = {}
    tag_secrets: dict[int, bytes] = {}
    for dealer in everyone:
        own, held = seeds[dealer], {}
        assert said["advertise", dealer][2] == [Keys(suite.value, own.mask_seed, "MASK_KEY").public]
        _, [own_commitments], bundles = said["shares", dealer]
        seed_commitment = digest("SELF_COMMITMENT", transcript, zero, u64(dealer), own.self_seed)
        assert own_commitments == [seed_commitment, committed(dealer, dealer, 1, own.own_share)]
        for _, holder, sealed, secrets, [commitments], signature in bundles:
            indices = (transcript, u64(dealer), u64(holder))
            opening = session.clients[holder]
            assert isinstance(opening, Opens)
            plain = opening.opening.open(sealed, bind("SHARES_INFO", *indices))
            held[holder] = plain
            secret = list[bytes]()
            if dealer < holder:
                info = bind("PAIR_INFO", transcript, zero, u64(dealer), u64(holder))
                secret = [Keys(suite.value, seeds[holder].mask_seed, "MASK_KEY").open(secrets[0], info)]
                assert secret == [derive(own.mask_seed, "PAIR_SECRET", transcript, zero, u64(holder))]
                pairs[dealer, holder] = secret[0]
            assert said["advertise", dealer][3] == digest(
                "TAG_COMMITMENT", transcript, u64(dealer), plain[66:]
            )
            tag_secrets[dealer] = plain[66:]
            kept = (plain[:33], plain[33:66], *secret)
            assert commitments == [committed(dealer, holder, kind, each) for kind, each in enumerate(kept)]
            signed = (*indices, sealed, b"".join(secrets), b"".join(commitments))
            keys[dealer].verify(signature, bind("BUNDLE_SIGNATURE", *signed))
        assert interpolate({holder: plain[:33] for holder, plain in held.items()}) == own.mask_seed
        some = {dealer: own.own_share, **{holder: held[holder][33:66] for holder in list(held)[: t - 1]}}
        assert interpolate(some) == own.self_seed

    # Phase 3: the uploads.
    def self_mask(index: int, seed: bytes) -> list[int]:
        return stream(derive(seed, "SELF_MASK", transcript, zero, u64(index)), m)

    def pair_mask(low: int, high: int) -> list[int]:
        return stream(derive(pairs[low, high], "PAIR_MASK", transcript, zero, u64(low), u64(high)), m)

    frames = [part for index, frame in asked["directory", 0][2] for part in (u64(index), frame)]
    directory = digest("DIRECTORY", *frames)
    secret_of_all = digest("TAG_SECRETS", *(tag_secrets[i] for i in everyone))
    context = (transcript, directory, zero, b"".join(map(u64, everyone)))
    drawn = stream(derive(secret_of_all, "TAG_KEY", *context), 4 * 5)
    groups = [sum(word << 64 * k for k, word in enumerate(drawn[at : at + 4])) for at in range(0, 20, 4)]
    prime = 2**130 - 5
    r, pads = groups[0] % 2**128 & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF, groups[1:]

    def polynomial(vector: list[int], offset: int) -> int:
        size = 4 if w == 4 else 8
        data = b"".join((one + offset).to_bytes(size, "little") for one in vector)
        blocks = [int.from_bytes(data[at : at + 16], "little") for at in range(0, len(data), 16)]
        terms = [block * pow(r, len(blocks) - at, prime) for at, block in enumerate(blocks)]
        return int(sum(terms) % prime)

    def masks_of(i: int) -> int:
        own = derive(seeds[i].self_seed, "SELF_TAG", transcript, zero, u64(i))
        total = int.from_bytes(own, "little")
        for j in set(everyone) - {i}:
            low, high = sorted((i, j))
            pair = derive(pairs[low, high], "PAIR_TAG", transcript, zero, u64(low), u64(high))
            total += (1 if i < j else -1) * int.from_bytes(pair, "little")
        return total

    def add(words: list[int], sign: int, mask: Iterable[int]) -> list[int]:
        return [word + sign * one for word, one in zip(words, mask, strict=True)]

    total = [0] * m
    codes = {i: [round(Fraction(x) * 2**f) for x in session.vectors[i, 0].tolist()] for i in everyone}
    for i in everyone:
        words = add(codes[i], 1, self_mask(i, seeds[i].self_seed))
        for j in set(everyone) - {i}:
            words = add(words, 1 if i < j else -1, pair_mask(*sorted((i, j))))
        payload = b"".join((word % 2**64).to_bytes(8, "little")[:w] for word in words)
        tag = (polynomial(codes[i], magnitude) + pads[i] + masks_of(i)) % prime
        assert said["upload", i] == ["upload", 0, payload, tag.to_bytes(17, "little")]
        total = add(
            total, i in alive, [int.from_bytes(payload[at : at + w], "little") for at in range(0, m * w, w)]
        )

    # Phases 4 and 5: the consents, the shares, and the sum they open.
    sets = (b"".join(map(u64, everyone)), b"".join(map(u64, alive)))
    for i in alive:
        _, upload, accepted, log, signature = said["consent", i][2]
        assert (upload, accepted, log) == (root(pack(said["upload", i])), b"", b"")
        keys[i].verify(
            signature,
            bind("CONSENT_SIGNATURE", transcript, directory, zero, *sets, upload, accepted, log),
        )
    revealed = {i: dict(said["reveal", i][2]) for i in alive}
    for i in alive:
        total = add(total, -1, self_mask(i, interpolate({holder: revealed[holder][i] for holder in alive})))
        total = add(total, -1 if i < 1 else 1, pair_mask(*sorted((i, 1))))
    assert interpolate({holder: revealed[holder][1] for holder in alive}) == seeds[1].mask_seed
    opened = [word % 256**w for word in total]
    assert opened == [int(word) % 256**w for word in result.values]
    units = [sum(codes[i][at] for i in alive) for at in range(m)]
    assert opened == [one % 256**w for one in units]

    # Phase 6: the answer, which a client checks, and what it calls it.
    tag = (polynomial(units, 3 * magnitude) + sum(pads[i] for i in alive)) % prime
    payload = b"".join(one.to_bytes(w, "little") for one in opened)
    for i in alive:
        assert asked["answer", i] == ["answer", transcript, 0, payload, tag.to_bytes(17, "little")]
        opened_sum = digest("OPENED", digest("ANSWERED", pack(asked["answer", i])), b"".join(map(u64, alive)))
        accepted = digest("ACCEPTED", opened_sum, u64(i))
        assert said["verdict", i] == ["verdict", 0, accepted, b""]


def test_the_graph() -> None:
    near = graph.Neighbourhood(4, 3)
    parameters = world(9).propose(profile=Profile.SEMI_HONEST, near=near)
    transcript = digest("TRANSCRIPT", encode(parameters))
    drawn = stream(digest("GRAPH", transcript), 9)
    circle = sorted(range(9), key=drawn.__getitem__)
    for at, client in enumerate(circle):
        expected = {circle[(at + step) % 9] for step in (-2, -1, 1, 2)}
        assert graph.Graph(parameters)[client] == expected
