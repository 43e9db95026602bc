"""What each operation of the vectors is, run on our code.

An operation takes the fields of a case's "input" and gives its "output", both as JSON (`reference.notation`).
A docstring tells an implementer what the operation is and goes into the files.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from enum import Enum
from typing import Any
from unittest import mock

import msgspec
import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.msgpack import Decoder
from reference.notation import shown, shown_words

from secure_afl.crypto import fixed_point, hpke, identity, kdf, prg, ring, shamir
from secure_afl.crypto.errors import SecureAflError
from secure_afl.crypto.lattice import bfv, ckks, joint_key, ntt, parameter_sets
from secure_afl.protocol.homomorphic import agreement
from secure_afl.protocol.homomorphic import messages as encrypted
from secure_afl.protocol.masking import messages as masked
from secure_afl.protocol.masking import replay as replaying
from secure_afl.protocol.masking import tags as authentic
from secure_afl.protocol.session import graph, parameters, roster, wire
from secure_afl.protocol.session.parameters import PARAMETERS
from secure_afl.protocol.session.profile import Verify
from secure_afl.protocol.transport import post

OPERATIONS: dict[str, Callable[..., Any]] = {}
REFUSALS = (SecureAflError, wire.WireError)
hexed = bytes.fromhex


def operation(function: Callable[..., Any]) -> Callable[..., Any]:
    """Listed under its name, with spaces."""
    OPERATIONS[function.__name__.replace("_", " ")] = function
    return function


def label_of(name: str) -> kdf.Label:
    return kdf.Label[name]


def words(values: list[int]) -> npt.NDArray[np.uint64]:
    return np.array(values, np.uint64)


# ---- kdf -----------------------------------------------------------------------------------------


@operation
def u64(value: int) -> Any:
    """An integer as 8 bytes (protocol.md §1)."""
    return shown(kdf.integer(value))


@operation
def bind(label: str, parts: list[str]) -> Any:
    """bind(label, parts…) (§3.2)."""
    return shown(kdf.bind(label_of(label), *map(hexed, parts)))


@operation
def digest(label: str, parts: list[str]) -> Any:
    """digest(label, parts…) (§3.2)."""
    return shown(kdf.digest(label_of(label), *map(hexed, parts)))


@operation
def derive(secret: str, label: str, parts: list[str], length: int) -> Any:
    """derive(secret, label, parts…; L = length) (§3.2)."""
    return shown(kdf.derive(hexed(secret), label_of(label), *map(hexed, parts), length=length))


# ---- fixed point and words -----------------------------------------------------------------------


def code_fields(code: fixed_point.FixedPoint) -> list[int]:
    return [code.fraction_bits, code.magnitude, code.summands, code.width]


@operation
def code(fields: list[int]) -> Any:
    """Whether a code (fraction bits, magnitude, summands, width) may exist: its fields again (§4.3)."""
    return code_fields(fixed_point.FixedPoint(*fields))


@operation
def fit(bound: str, members: int, fraction_bits: int, room: int | None) -> Any:
    """The code of a sum with at least so many fraction bits; room: the largest sum held, if that is less (§4.3)."""
    return code_fields(fixed_point.FixedPoint.fit(float.fromhex(bound), members, fraction_bits, room=room))


@operation
def encode(code: list[int], values: list[str]) -> Any:
    """Doubles as words mod 2⁶⁴ (§4.3)."""
    vector = np.array([float.fromhex(value) for value in values], np.float64)
    return shown_words(fixed_point.FixedPoint(*code).encode(vector))


@operation
def encode_units(code: list[int], units: list[int], fraction_bits: int) -> Any:
    """Whole numbers of 2^−fraction_bits as words mod 2⁶⁴ (§4.3)."""
    return shown_words(fixed_point.FixedPoint(*code).encode_units(np.array(units, np.int64), fraction_bits))


@operation
def decode_sum(code: list[int], total: list[int], summands: int) -> Any:
    """Words of a sum mod 2^(8·width) of so many summands as doubles; refused if clients cannot reach it (§4.4)."""
    return shown(fixed_point.FixedPoint(*code).decode_sum(words(total), summands).tolist())


@operation
def pack(values: list[int], width: int) -> Any:
    """The payload of words (§4.4)."""
    return shown(ring.pack(words(values), width))


@operation
def unpack(payload: str, length: int, width: int) -> Any:
    """The words of a payload (§4.4)."""
    total = np.zeros(length, np.uint64)
    ring.add_packed(total, hexed(payload), width)
    return shown_words(total.tolist())


@operation
def signed(values: list[int], width: int) -> Any:
    """The low bytes of words as two's complement (§4.4)."""
    return ring.signed(words(values), width).tolist()


@operation
def modular(values: list[int], modulus: int) -> Any:
    """Words mod 2⁶⁴, read as signed, in Z_t (§4.4)."""
    return ring.modular(words(values), modulus).tolist()


@operation
def centred(values: list[int], modulus: int) -> Any:
    """Words of Z_t as integers in (−t/2, t/2) (§4.4)."""
    return ring.centred(words(values), modulus).tolist()


# ---- masks ---------------------------------------------------------------------------------------


@operation
def masks(vector: list[int] | int, plus: list[str], minus: list[str], modulus: int, size: int = 8) -> Any:
    """A vector (or so many zeros) with the masks of keys added and subtracted, mod 2⁶⁴ if modulus is 0, mod 2³² if
    the size of words is 4 then (§4.4)."""
    total = np.array([0] * vector if isinstance(vector, int) else vector, f"u{size}")
    prg.add_keystreams(total, plus=[*map(hexed, plus)], minus=[*map(hexed, minus)], modulus=modulus)
    return shown_words(total.tolist())


# ---- Shamir --------------------------------------------------------------------------------------


@contextmanager
def drawn(numbers: list[int]) -> Iterator[None]:
    """In place of random coefficients, these, in their order."""
    with mock.patch("secrets.randbelow", side_effect=numbers):
        yield


@operation
def split(secret: str, threshold: int, points: list[int], coefficients: list[int]) -> Any:
    """Shares at the points; coefficients: of the highest power first, without the secret (§4.2)."""
    with drawn(coefficients):
        shares = shamir.split(hexed(secret), threshold, points)
    return {str(point): share.hex() for point, share in shares.items()}


@operation
def combine(shares: dict[str, str], threshold: int) -> Any:
    """The secret behind the shares of the lowest points, by point (§4.2)."""
    return shown(shamir.combine({int(at): hexed(share) for at, share in shares.items()}, threshold))


# ---- signatures and frames -----------------------------------------------------------------------


def signer(private: str) -> identity.Identity:
    return identity.Identity(Ed25519PrivateKey.from_private_bytes(hexed(private)))


@operation
def identity_key(private: str) -> Any:
    """The Ed25519 public key of a private one (§1)."""
    return shown(signer(private).verify_key)


@operation
def sign(private: str, label: str, parts: list[str]) -> Any:
    """sign(key, label, parts…) (§3.2)."""
    return shown(signer(private).sign(label_of(label), *map(hexed, parts)))


@operation
def verify(key: str, signature: str, label: str, parts: list[str]) -> Any:
    """Refused unless the signature is the key's over the label and the parts (§3.2)."""
    identity.verify(hexed(key), hexed(signature), label_of(label), *map(hexed, parts))
    return "verified"


@operation
def sign_frame(private: str, transcript: str, question: str, place: int, message: str) -> Any:
    """A client's frame: an encoded message that answers an encoded question (§3.4)."""
    raw: Any = msgspec.Raw(hexed(message))  # encodes as these very bytes
    answers = wire.answered(hexed(question))
    return wire.sign_frame(signer(private), hexed(transcript), answers, place, raw).hex()


@operation
def verify_frame(frame: str, key: str, transcript: str, question: str, place: int) -> Any:
    """The message of a frame of the member at a place, in answer to a question (§3.4)."""
    answers = wire.answered(hexed(question))
    return shown(wire.verify_frame(hexed(frame), hexed(key), hexed(transcript), answers, place))


# ---- HPKE ----------------------------------------------------------------------------------------


@operation
def key_pair(suite: str, seed: str, label: str) -> Any:
    """The public key of keypair(seed, label) (§4.1)."""
    return shown(hpke.KeyPair(hpke.Suite(suite), hexed(seed), label_of(label)).public_key)


@operation
def open_sealed(suite: str, seed: str, label: str, sealed: str, info: str) -> Any:
    """The plaintext of what was sealed to keypair(seed, label) under the info (§4.1)."""
    return shown(
        hpke.KeyPair(hpke.Suite(suite), hexed(seed), label_of(label)).open(hexed(sealed), hexed(info))
    )


@operation
def seal_to(suite: str, key: str) -> Any:
    """How many bytes are added in sealing to this key, if it is one (§4.1)."""
    return len(hpke.seal(hpke.Suite(suite), hexed(key), b"", b""))


# ---- derivations of the masked protocol ----------------------------------------------------------


@operation
def roster_digest(members: list[list[str]]) -> Any:
    """The digest of a roster of (name, key) (§4)."""
    listed = [roster.Member(name, hexed(key)) for name, key in members]
    return shown(roster.Roster(tuple(listed)).digest)


@operation
def transcript(message: str) -> Any:
    """The transcript of encoded `parameters`, or of an encoded `agreement` (§4)."""
    data = hexed(message)
    read: Any = wire.decode(data, KINDS["parameters" if b"parameters" in data[:16] else "agreement"])
    return shown(read.transcript())


@operation
def directory_digest(message: str) -> Any:
    """The digest of an encoded `directory` (§4)."""
    read = wire.decode(hexed(message), masked.FROM_SERVER)
    assert isinstance(read, masked.Directory)
    return shown(read.digest())


@operation
def answered(question: str) -> Any:
    """The digest of an encoded message that a frame answers (§3.4)."""
    return shown(wire.answered(hexed(question)))


@operation
def pair_secret(mask_seed: str, transcript: str, round: int, high: int) -> Any:
    """The pair secret that the lower place derives (§4)."""
    return shown(masked.pair_secret(hexed(mask_seed), hexed(transcript), round, high))


@operation
def pair_mask_key(secret: str, transcript: str, round: int, one: int, other: int) -> Any:
    """The key of the mask between two places, in whichever order (§4)."""
    return shown(masked.pair_mask_key(hexed(secret), hexed(transcript), round, one, other))


@operation
def self_mask_key(seed: str, transcript: str, round: int, place: int) -> Any:
    """The key of a client's own mask (§4)."""
    return shown(masked.self_mask_key(hexed(seed), hexed(transcript), round, place))


@operation
def commitment(transcript: str, round: int, dealer: int, holder: int, kind: int, secret: str) -> Any:
    """The commitment to a share or a pair secret (§4)."""
    return shown(masked.commitment(hexed(transcript), round, dealer, holder, kind, hexed(secret)))


@operation
def own_commitments(transcript: str, round: int, place: int, seed: str, share: str) -> Any:
    """The self commitment, and the commitment to the own share of the self seed (§4)."""
    return shown(masked.own_commitments(hexed(transcript), round, place, hexed(seed), hexed(share)))


@operation
def consent_parts(
    transcript: str,
    directory: str,
    round: int,
    participants: list[int],
    survivors: list[int],
    roots: list[str],
) -> Any:
    """The parts that a consent signs; roots: of the survivors' uploads with replay, else none (§4)."""
    signed = list(map(hexed, roots))
    return shown(
        masked.consent_parts(hexed(transcript), hexed(directory), round, participants, survivors, signed)
    )


@operation
def mask_commitments(transcript: str, round: int, place: int, seed: str, secrets: list[Any]) -> Any:
    """The mask commitments of an upload; secrets: with each other participant, by place (§4)."""
    shared = {other: hexed(one) for other, one in secrets}
    return shown(masked.mask_commitments(hexed(transcript), round, place, hexed(seed), shared))


@operation
def replay(parameters: str, members: list[Any], evidence: str) -> Any:
    """The sum of an encoded `evidence`, and the roots of its uploads; members: the roster's names and keys (§5)."""
    session = wire.decode(hexed(parameters), PARAMETERS)
    known = roster.Roster(tuple(roster.Member(name, hexed(key)) for name, key in members))
    said = wire.decode(hexed(evidence), masked.FROM_SERVER)
    if not isinstance(said, masked.Evidence):
        raise wire.WireError("expected evidence")
    words, roots = replaying.replayed(session, known, said)
    replaying.check_consents(session, known, said, roots)
    signed = ring.signed(words, session.rounds[said.round].width)
    return {"sum": signed.tolist(), "roots": shown(roots)}


@operation
def root_of(part: str, times: int) -> Any:
    """root(message), of a part so many times over (§3.4)."""
    return shown(wire.root(hexed(part) * times))


@operation
def sign_vote(private: str, view: list[str], upload: str, accepted: str, log: str) -> Any:
    """An encoded vote; view: the parts that a consent signs besides, `consent parts` (§4)."""
    parts = {"upload": hexed(upload), "accepted": hexed(accepted), "log": hexed(log)}
    return wire.encode(masked.Vote.sign(signer(private), tuple(map(hexed, view)), **parts)).hex()


@operation
def verify_vote(vote: str, key: str, view: list[str]) -> Any:
    """Refused unless the client signed this encoded vote with this view (§4)."""
    said = wire.decode(hexed(vote), Decoder(masked.Vote))
    said.verify(hexed(key), tuple(map(hexed, view)))
    return "verified"


@operation
def sum_digest(answer: str, survivors: list[int]) -> Any:
    """What parties call the sum of an encoded answer over these survivors (§4)."""
    return shown(masked.sum_digest(wire.answered(hexed(answer)), survivors))


@operation
def accepted_sums(rounds: list[int], opened: list[str], place: int) -> Any:
    """What a client at a place says of the sums of these rounds and digests with a consent (§4)."""
    return shown(masked.accepted_sums(dict(zip(rounds, map(hexed, opened), strict=True)), place))


@operation
def accepted_digest(opened: str, place: int) -> Any:
    """What the client at a place says of the sum of this digest (§4)."""
    return shown(masked.accepted_digest(hexed(opened), place))


# ---- tags of masked sums -------------------------------------------------------------------------


@operation
def tag_commitment(transcript: str, place: int, secret: str) -> Any:
    """The commitment to a tag secret (§4)."""
    return shown(authentic.commitment(hexed(transcript), place, hexed(secret)))


@operation
def tag_key(secrets: list[str], transcript: str, directory: str, round: int, participants: list[int]) -> Any:
    """The tag key of a round, from its participants' secrets (§4)."""
    listed = [hexed(secret) for secret in secrets]
    return shown(authentic.round_key(listed, hexed(transcript), hexed(directory), round, participants))


@operation
def pair_mask_of_a_tag(secret: str, transcript: str, round: int, one: int, other: int) -> Any:
    """What masks a tag between two places, in whichever order (§4)."""
    return shown(authentic.packed(authentic.pair_mask(hexed(secret), hexed(transcript), round, one, other)))


@operation
def self_mask_of_a_tag(seed: str, transcript: str, round: int, place: int) -> Any:
    """What a client masks its tag with by itself (§4)."""
    return shown(authentic.packed(authentic.self_mask(hexed(seed), hexed(transcript), round, place)))


@operation
def tag(key: str, vector: list[int], magnitude: int, size: int, participants: int, index: int) -> Any:
    """The tag of a participant's codes, hashed as words of so many bytes, before it is masked (§4.5)."""
    units = np.array(vector, np.int64).view(np.uint64)
    made = authentic.TagKey(hexed(key), participants).tag(units, magnitude, size, index)
    return shown(authentic.packed(made))


@operation
def tag_fits(
    key: str, total: list[int], tag: str, magnitude: int, size: int, participants: int, survivors: list[int]
) -> Any:
    """Refused unless this is the sum of those participants, by their indices, with the sum of their tags (§4.5)."""
    units, number = np.array(total, np.int64), authentic.parsed(hexed(tag))
    if not authentic.TagKey(hexed(key), participants).fits(units, number, magnitude, size, survivors):
        raise wire.WireError("the sum does not fit its tag")
    return "accepted"


@operation
def shares_info(transcript: str, dealer: int, holder: int) -> Any:
    """HPKE info of sealed shares (§4)."""
    return shown(masked.shares_info(hexed(transcript), dealer, holder))


@operation
def pair_info(transcript: str, round: int, dealer: int, holder: int) -> Any:
    """HPKE info of a sealed pair secret (§4)."""
    return shown(masked.pair_info(hexed(transcript), round, dealer, holder))


@operation
def sign_bundle(private: str, transcript: str, dealer: int, bundle: str) -> Any:
    """An encoded bundle again, with its dealer's signature in place of what stood there (§4)."""
    draft = wire.decode(hexed(bundle), Decoder(masked.Bundle))
    signed = masked.Bundle.sign(
        signer(private),
        hexed(transcript),
        dealer,
        recipient=draft.recipient,
        sealed=draft.sealed,
        pair_secrets=draft.pair_secrets,
        commitments=draft.commitments,
    )
    return wire.encode(signed).hex()


@operation
def verify_bundle(bundle: str, key: str, transcript: str, dealer: int) -> Any:
    """Refused unless the dealer signed this encoded bundle (§4)."""
    wire.decode(hexed(bundle), Decoder(masked.Bundle)).verify(hexed(key), hexed(transcript), dealer)
    return "verified"


# ---- derivations of the encrypted protocol -------------------------------------------------------


@operation
def share_commitment(transcript: str, party: int, share: str) -> Any:
    """The commitment to a key share (encrypted-protocol.md §4)."""
    return shown(encrypted.share_commitment(hexed(transcript), party, hexed(share)))


@operation
def key_parts(transcript: str, key: str) -> Any:
    """What an announcement signs: the transcript and the key's fingerprint (encrypted-protocol.md §4)."""
    return shown(encrypted.key_parts(hexed(transcript), hexed(key)))


@operation
def challenge_parts(offer: str, seed: str) -> Any:
    """What a challenge signs, for an encoded offer (encrypted-protocol.md §4)."""
    read = wire.decode(hexed(offer), encrypted.TO_HOLDER)
    assert isinstance(read, encrypted.Offer)
    return shown(encrypted.challenge_parts(read, hexed(seed)))


@operation
def ciphertexts_digest(transcript: str, ciphertexts: str) -> Any:
    """`offered`, of a packed sum (encrypted-protocol.md §4)."""
    return shown(encrypted.ciphertexts_digest(hexed(transcript), hexed(ciphertexts)))


@operation
def data_set_digest(client: str, data_set: str) -> Any:
    """The digest of a data set's name (encrypted-protocol.md §4)."""
    return shown(encrypted.data_set_digest(client, data_set))


# ---- messages ------------------------------------------------------------------------------------

KINDS: dict[str, Decoder[Any]] = {
    "parameters": parameters.PARAMETERS,
    "masked, from a client": masked.FROM_CLIENT,
    "masked, from the server": masked.FROM_SERVER,
    "agreement": agreement.AGREEMENT,
    "invitation": encrypted.INVITATION,
    "encrypted, from a party": encrypted.FROM_PARTY,
    "encrypted, to a key holder": encrypted.TO_HOLDER,
    "encrypted, to a client": encrypted.TO_CLIENT,
    "from an address": post.HERE,
    "beside a session": post.LEARNED,
}


def meaning(value: Any) -> Any:
    """A message by the names of its fields."""
    if isinstance(value, wire.Message):
        tag = value.__struct_config__.tag
        fields = {name: meaning(getattr(value, name)) for name in value.__struct_fields__}
        return {"message": tag, **fields}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple):
        return [meaning(each) for each in value]
    return shown(value)


@operation
def message(kind: str, encoded: str) -> Any:
    """What an encoded message says, where just messages of this kind are expected (§3.1, §5)."""
    return meaning(wire.decode(hexed(encoded), KINDS[kind]))


@operation
def advertise_of(encoded: str, suite: str, rounds: int, verify: str) -> Any:
    """An `advertise` with the lengths that a session demands (§5)."""
    read = wire.decode(hexed(encoded), masked.ADVERTISE)
    read.check(hpke.Suite(suite), rounds, Verify(verify))
    return meaning(read)


@operation
def shares_of(encoded: str, suite: str, rounds: int, dealer: int, verify: str) -> Any:
    """`shares` with the lengths that a session demands of the dealer's bundles (§5)."""
    read = wire.decode(hexed(encoded), Decoder(masked.Shares))
    read.check(hpke.Suite(suite), rounds, dealer, Verify(verify))
    return meaning(read)


# ---- graph ---------------------------------------------------------------------------------------


@operation
def neighbours(encoded: str, place: int) -> Any:
    """The neighbours of a place under encoded `parameters`, increasing (§6)."""
    read = wire.decode(hexed(encoded), parameters.PARAMETERS)
    return sorted(graph.Graph(read)[place])


@operation
def choose_graph(n: int, profile: str, corrupted: int, dropout: str, rounds: int) -> Any:
    """Degree and threshold that a server chooses for a session of so many rounds (§6)."""
    chosen = graph.choose(
        n,
        parameters.Profile(profile),
        corrupted=corrupted,
        dropout=float.fromhex(dropout),
        rounds=rounds,
    )
    return [chosen.degree, chosen.threshold]


@operation
def least_threshold(profile: str, n: int, degree: int) -> Any:
    """The least threshold (§6)."""
    return graph.least_threshold(parameters.Profile(profile), n, degree)


# ---- lattices ------------------------------------------------------------------------------------


def lattice_of(name: str, degree: int) -> parameter_sets.Lattice:
    """The set, with another degree for short vectors."""
    return replace(parameter_sets.LATTICES[name], degree=degree)


def drawn_residues(
    given: list[list[int]] | str, primes: tuple[int, ...], polynomials: int, degree: int
) -> parameter_sets.Residues:
    """(polynomials, primes, N): as listed by prime, or drawn below it from the stream of SHA-256(seed ‖ j)."""
    rows = []
    for j, prime in enumerate(primes):
        if isinstance(given, str):
            key = hashlib.sha256(hexed(given) + bytes([j])).digest()
            rows.append(prg.uniform(prg.keystream(key), polynomials * degree, prime))
        else:
            rows.append(words(given[j]))
    return np.stack([row.reshape(polynomials, degree) for row in rows], axis=1)


def by_prime(array: parameter_sets.Residues) -> list[Any]:
    """The residues of each prime in their order."""
    return [shown_words(array[..., at, :].ravel().tolist()) for at in range(array.shape[-2])]


@operation
def sizes(set: str, length: int) -> Any:
    """Bytes of the ciphertexts of a vector, and of a public key (encrypted-protocol.md §3, §4)."""
    one = parameter_sets.LATTICES[set]
    return [one.ciphertext_bytes(length), one.public_key_bytes]


@operation
def pack_residues(set: str, degree: int, count: int, residues: list[list[int]] | str) -> Any:
    """Ciphertexts' residues as bytes, given by prime or by a seed (encrypted-protocol.md §4)."""
    one = lattice_of(set, degree)
    given = drawn_residues(residues, one.primes, 2 * count, degree)
    return shown(one.pack(given.reshape(count, 2, len(one.primes), degree)))


@operation
def unpack_residues(set: str, degree: int, length: int, packed: str) -> Any:
    """The ciphertexts of a vector of so many values, by prime (encrypted-protocol.md §4)."""
    return by_prime(lattice_of(set, degree).unpack(hexed(packed), length))


@operation
def pack_key(set: str, degree: int, residues: list[list[int]] | str) -> Any:
    """A public key's residues as bytes (encrypted-protocol.md §4)."""
    one = lattice_of(set, degree)
    return shown(one.pack_key(drawn_residues(residues, (*one.primes, one.key_prime), 2, degree)[None]))


@operation
def unpack_key(set: str, degree: int, packed: str) -> Any:
    """A public key's residues, by prime, the key prime last (encrypted-protocol.md §4)."""
    return by_prime(lattice_of(set, degree).unpack_key(hexed(packed)))


@operation
def add_residues(set: str, degree: int, one: str, other: str) -> Any:
    """The sum of two packed vectors that fill one ciphertext each, packed (encrypted-protocol.md §4)."""
    used = lattice_of(set, degree)
    total = used.unpack(hexed(one), used.slots)
    used.add(total, used.unpack(hexed(other), used.slots))
    return shown(used.pack(total))


@operation
def tags(set: str, degree: int, count: int, residues: list[list[int]] | str, seed: str) -> Any:
    """The tags of ciphertexts under a challenge's seed (encrypted-protocol.md §4)."""
    one = lattice_of(set, degree)
    given = drawn_residues(residues, one.primes, 2 * count, degree)
    return list(one.tags(given.reshape(count, 2, len(one.primes), degree), hexed(seed)))


@operation
def add_tags(set: str, one: list[int], other: list[int]) -> Any:
    """The tags of a sum (encrypted-protocol.md §4)."""
    return list(parameter_sets.LATTICES[set].add_tags(tuple(one), tuple(other)))


def polynomial(degree: int, terms: dict[str, int]) -> npt.NDArray[np.uint64]:
    array = np.zeros(degree, np.uint64)
    for at, value in terms.items():
        array[int(at)] = value
    return array


@operation
def transform(prime: int, degree: int, terms: dict[str, int]) -> Any:
    """The transformed form of a polynomial, given by its terms (encrypted-protocol.md §4)."""
    return shown_words(ntt.forward(polynomial(degree, terms), prime).tolist())


@operation
def transform_back(prime: int, degree: int, terms: dict[str, int]) -> Any:
    """The polynomial with these values at these places (encrypted-protocol.md §4)."""
    return shown_words(ntt.inverse(polynomial(degree, terms), prime).tolist())


@operation
def root(prime: int, degree: int) -> Any:
    """ψ (encrypted-protocol.md §4)."""
    return ntt.root(degree, prime)


@operation
def joint_polynomial(set: str, degree: int, transcript: str) -> Any:
    """The public polynomial of a joint key, by prime (encrypted-protocol.md §4)."""
    return by_prime(joint_key.common(lattice_of(set, degree), hexed(transcript)))


@operation
def joint_public_key(set: str, degree: int, transcript: str, shares: list[str]) -> Any:
    """The packed public key that packed shares make (encrypted-protocol.md §4)."""
    one = lattice_of(set, degree)
    a = joint_key.common(one, hexed(transcript))
    return shown(joint_key.public_key(one, a, [*map(hexed, shares)]))


@operation
def put_together(set: str, degree: int, length: int, total: str, partials: list[str]) -> Any:
    """c₀ and all partial decryptions added, packed, with zeros behind (encrypted-protocol.md §4)."""
    one = lattice_of(set, degree)
    parts = [joint_key.unpack_partial(one, hexed(part), length) for part in partials]
    assert [joint_key.pack_partial(one, part).hex() for part in parts] == partials
    return shown(one.pack(joint_key.opened(one, one.unpack(hexed(total), length), parts)))


# ---- the choice of sets and codes ----------------------------------------------------------------


@operation
def choose_bfv(demands: list[tuple[str, int]], summands: int, committee: bool) -> Any:
    """The set and the codes for sums of (bound, least fraction bits) (encrypted-protocol.md §3)."""
    wanted = [bfv.Demand(float.fromhex(bound), bits) for bound, bits in demands]
    chosen, codes = bfv.choose(wanted, summands, bfv.JOINT_SETS if committee else bfv.SETS)
    return [chosen.name, [code_fields(one) for one in codes]]


@operation
def choose_ckks(demands: list[tuple[int, str, str]], summands: int) -> Any:
    """The set and the codes for sums of (length, bound, accepted error) (encrypted-protocol.md §3)."""
    wanted = [
        ckks.Demand(length, float.fromhex(bound), float.fromhex(error)) for length, bound, error in demands
    ]
    chosen, codes = ckks.choose(wanted, summands)
    return [chosen.name, [code_fields(one) for one in codes]]


@operation
def smudging_bits(set: str, holders: int, summands: int) -> Any:
    """B, for a committee's partial decryptions (encrypted-protocol.md §3)."""
    return joint_key.smudging_bits(parameter_sets.LATTICES[set], holders, summands)


@operation
def check_bfv(set: str, values: list[int], budget: int) -> Any:
    """Decrypted values as words of Z_t, if enough noise budget is left (encrypted-protocol.md §3)."""
    return bfv.checked(np.array(values, np.int64), budget, parameter_sets.LATTICES[set]).tolist()


@operation
def release_ckks(set: str, code: list[int], slots: list[str], summands: int, decryptions: int) -> Any:
    """What a key holder gives out of decrypted, flooded slots, in units of the code (encrypted-protocol.md §3)."""
    values = np.array([float.fromhex(slot) for slot in slots], np.float64)
    used = fixed_point.FixedPoint(*code)
    return shown(ckks.released(values, parameter_sets.LATTICES[set], used, summands, decryptions).tolist())
