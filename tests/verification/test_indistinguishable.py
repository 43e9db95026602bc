"""With the sum fixed, nothing that a server and its colluders see depends on how the sum is split.

First exactly, where masks are so few that all can be listed; then statistically on real uploads; then what both
rest on: that no byte of a mask is ever used twice.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import combinations, product
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import binomtest, chi2, ncx2
from worlds.cohorts import BOUND, Session, Tap, world
from worlds.encrypted import KeyWorld

from secure_afl.crypto import prg, ring
from secure_afl.crypto.fixed_point import FixedPoint
from secure_afl.crypto.identity import Identity
from secure_afl.protocol.masking import client as client_module
from secure_afl.protocol.masking import messages
from secure_afl.protocol.masking.client import MaskingClient
from secure_afl.protocol.masking.messages import Upload
from secure_afl.protocol.masking.states import ClientState
from secure_afl.protocol.session.ledger import Ledger
from secure_afl.protocol.session.parameters import SumPlan, SumWanted
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.profile import Verify

# ---- exactly, over a small ring ------------------------------------------------------------------

Values = npt.NDArray[np.int64]
Masks = Mapping[tuple[int, ...], Values]
"""In every case, the mask of every client `(i,)` and of every pair `(i, j)`, i < j."""


class Bare(MaskingClient):
    """Our client's `contribute` alone: it has keys, and signs nothing."""

    def __init__(self, index: int, cohort: range, modulus: int, own: int, pairs: Mapping[int, int]) -> None:
        spec = SimpleNamespace(
            length=1, modulus=modulus, width=8, encoding=lambda n: FixedPoint(0, modulus, n, 8)
        )
        self.index, self.name, self.state = index, f"site-{index}", ClientState.REQUESTED
        self._neighbours = frozenset(cohort) - {index}
        self._ledger = Ledger()
        self._plan = (SumPlan("sum", 1, 1.0),)
        self._transcript = b""
        keys = SimpleNamespace(
            self_seed=_key(own, index, index),
            pair_secrets={j: _key(value, index, j) for j, value in pairs.items()},
        )
        parameters = SimpleNamespace(rounds=(spec,), cohort=tuple(cohort), session=b"", verify=Verify.NONE)
        self._memory: Any = SimpleNamespace(
            parameters=parameters, round=0, participants=frozenset(cohort), rounds={0: keys}, accepted={}
        )
        self._answers, self._identity, self._policy = b"", Identity.generate(), Policy()

    def _frame(self, message: object) -> bytes:
        return b""


def _key(value: int, one: int, other: int) -> bytes:
    """A key whose whole stream is one value; the places make keys differ."""
    return bytes([value, one, other]) + bytes(29)


@pytest.fixture
def small_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask is not derived from a secret, and no stream is drawn from a key: the secret names the mask's value."""
    monkeypatch.setattr(messages, "self_mask_key", lambda seed, transcript, number, index: seed)
    monkeypatch.setattr(messages, "pair_mask_key", lambda secret, transcript, number, one, other: secret)
    monkeypatch.setattr(prg, "keystream", lambda key: lambda size: bytes([key[0], *bytes(7)]) * (size // 8))


@dataclass
class Uploads:
    """What client i of n uploads for a value, by our client's own code, asked once for every value of its masks."""

    n: int
    modulus: int
    known: dict[tuple[int, int], Values] = field(default_factory=dict)

    def __call__(self, i: int, value: int, masks: Masks) -> Values:
        if (i, value) not in self.known:
            table = np.zeros((self.modulus,) * self.n, np.int64)
            for own, *pairs in product(range(self.modulus), repeat=self.n):
                others = dict(zip((j for j in range(self.n) if j != i), pairs, strict=True))
                client = Bare(i, range(self.n), self.modulus, own, others)
                client.contribute(client.wanted, np.array([float(value)]), "rows")
                table[own, *pairs] = client.masked(0)[0][0]
            self.known[i, value] = table
        own_masks = masks.get((i,), np.int64(0))
        found: Values = self.known[i, value][
            own_masks, *(masks[min(i, j), max(i, j)] for j in range(self.n) if j != i)
        ]
        return found


def all_masks(names: Sequence[tuple[int, ...]], modulus: int) -> Masks:
    """Every value of every mask, each as likely as any other."""
    return dict(zip(names, np.indices((modulus,) * len(names)).reshape(len(names), -1), strict=True))


def mask_names(n: int, without_self: Sequence[int] = ()) -> list[tuple[int, ...]]:
    return [(i,) for i in range(n) if i not in without_self] + list(combinations(range(n), 2))


def splits(clients: int, total: int, modulus: int) -> list[tuple[int, ...]]:
    """All vectors of so many values with this sum."""
    return [x for x in product(range(modulus), repeat=clients) if sum(x) % modulus == total]


def distribution(view: Sequence[Values], modulus: int) -> Values:
    """How many cases give each view."""
    encoding = sum(column * modulus**at for at, column in enumerate(view))
    return np.bincount(np.asarray(encoding), minlength=modulus ** len(view))


def all_equal(distributions: Sequence[Values]) -> bool:
    return all(np.array_equal(one, distributions[0]) for one in distributions)


@pytest.mark.usefixtures("small_masks")
def test_view_of_server_and_colluder_is_the_same_for_every_split() -> None:
    """Claim: three honest survivors, a colluder with all its secrets, self masks opened: the distribution of the view
    is one and the same for all 9 splits of a sum in Z_3, and another for another sum. Exact (19,683 cases a split):
    no false alarm; power 1.
    """
    n, q, honest, upload = 4, 3, range(3), Uploads(4, 3)
    masks = all_masks(mask_names(n, without_self=[3]), q)
    secrets = [*(masks[i,] for i in honest), *(masks[i, 3] for i in honest)]
    of_sums = [
        [distribution([*(upload(i, x[i], masks) for i in honest), *secrets], q) for x in splits(3, total, q)]
        for total in range(q)
    ]
    assert all(len(each) == 9 and all_equal(each) for each in of_sums)
    assert not all_equal([each[0] for each in of_sums])


def dropout_views(late: bool, without_self: Sequence[int] = ()) -> list[Values]:
    """Client 3 of 4 is declared dropped: its pair masks are opened, and the others' self masks. late: its upload comes
    after all. One distribution for every split of the others' sum, and every value of its own.
    """
    n, q, upload = 4, 3, Uploads(4, 3)
    masks = all_masks(mask_names(n, without_self if late else [3]), q)
    secrets = [*(masks[i,] for i in range(3)), *(masks[i, 3] for i in range(3))]
    return [
        distribution(
            [
                *(upload(i, x[i], masks) for i in range(3)),
                *secrets,
                *([upload(3, own, masks)] if late else []),
            ],
            q,
        )
        for x in splits(3, 1, q)
        for own in (range(q) if late else [0])
    ]


@pytest.mark.usefixtures("small_masks")
def test_view_with_a_dropout_is_the_same_for_every_split() -> None:
    """Claim: as above with a dropout whose pair masks are opened, also if its upload comes late, whatever is in it.
    Without its self mask the late upload changes the view. Exact: no false alarm; power 1, shown on the weak design.
    """
    assert all_equal(dropout_views(late=False))
    assert all_equal(dropout_views(late=True))
    assert not all_equal(dropout_views(late=True, without_self=[3]))


@pytest.mark.usefixtures("small_masks")
def test_view_of_two_rounds_is_the_same_for_every_split() -> None:
    """Claim: two rounds with masks of their own: the joint view of three clients is the same for all splits of both
    sums in Z_2. With the masks of the first round used again it is not: uploads differ by the values' difference.
    Exact: no false alarm; power 1, shown on the weak design.
    """
    n, q, upload = 3, 2, Uploads(3, 2)
    names = mask_names(n)
    both = all_masks([(r, *name) for r in range(2) for name in names], q)
    first, second = ({name: both[r, *name] for name in names} for r in range(2))

    def seen(x: Sequence[int], masks: Masks) -> list[Values]:
        return [*(upload(i, x[i], masks) for i in range(n)), *(masks[i,] for i in range(n))]

    cases = list(product(splits(n, 1, q), splits(n, 0, q)))
    assert all_equal([distribution(seen(x, first) + seen(y, second), q) for x, y in cases])
    assert not all_equal([distribution(seen(x, first) + seen(y, first), q) for x, y in cases])


@pytest.mark.usefixtures("small_masks")
def test_view_of_a_vector_is_the_same_for_every_split() -> None:
    """Claim: three entries with masks of their own: the joint view of two clients in Z_2 is the same for every split.
    With one mask for the whole vector (a scalar mask) it tells the differences of a client's entries. Exact: no
    false alarm; power 1, shown on the weak design.
    """
    n, q, entries, upload = 2, 2, range(3), Uploads(2, 2)
    names = mask_names(n)
    every = all_masks([(e, *name) for e in entries for name in names], q)
    own = [{name: every[e, *name] for name in names} for e in entries]

    def seen(vectors: Sequence[Sequence[int]], masks: Sequence[Masks]) -> list[Values]:
        sent = [upload(i, x[i], each) for x, each in zip(vectors, masks, strict=True) for i in range(n)]
        return [*sent, *(each[i,] for each in masks for i in range(n))]

    cases = list(product(splits(n, 1, q), splits(n, 0, q), splits(n, 1, q)))
    assert all_equal([distribution(seen(x, own), q) for x in cases])
    assert not all_equal([distribution(seen(x, own[:1] * 3), q) for x in cases])


# ---- on real uploads -----------------------------------------------------------------------------

LENGTH, CLIENTS = 16_384, 4
FALSE_ALARM = 1e-9
"""Of one statistical test; a test function makes fewer than 100 of them: under 1e-7 for all."""


@dataclass
class Run:
    """Uploads of one real session, as words of the wire's width, and what was in them."""

    words: list[npt.NDArray[np.uint64]]
    values: list[npt.NDArray[np.float64]]
    width: int


def real_run(values: list[npt.NDArray[np.float64]]) -> Run:
    tap, parties = Tap(), world(CLIENTS)
    session = parties.session(parties.propose(length=LENGTH), tap)
    session.vectors = {(i, 0): each for i, each in enumerate(values)}
    session.set_up().sum()
    width = session.parameters.rounds[0].width
    words = []
    for i in range(CLIENTS):
        upload = session.message(tap.last("collecting", i))
        assert isinstance(upload, Upload)
        padded = np.zeros((LENGTH, 8), np.uint8)
        padded[:, :width] = np.frombuffer(upload.payload, np.uint8).reshape(LENGTH, width)
        words.append(padded.view("<u8").ravel())
    return Run(words, values, width)


@pytest.fixture(scope="module")
def runs() -> list[Run]:
    """Three splits of one sum: all zero; half at each end of the range, opposite; one ramp against another."""
    zero, top = np.zeros(LENGTH), np.full(LENGTH, BOUND)
    ramp = np.linspace(-BOUND, BOUND, LENGTH)
    return [real_run(x) for x in ([zero] * 4, [top, top, -top, -top], [ramp, zero, -ramp, zero])]


def low_bytes(words: npt.NDArray[np.uint64], width: int) -> npt.NDArray[np.uint8]:
    return words.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :width].ravel()


def uniform_p(data: npt.NDArray[np.uint8]) -> float:
    """Of Pearson's chi-square test that bytes are uniform."""
    counts, expected = np.bincount(data, minlength=256), len(data) / 256
    return float(chi2.sf(float(((counts - expected) ** 2).sum() / expected), 255))


def detection_power(share: float, count: int) -> float:
    """Of that test at FALSE_ALARM, where this share of the bytes is one fixed byte and the rest are uniform."""
    shift = share * np.append(255, -np.ones(255)) / 256
    excess = count * 256 * float((shift**2).sum())
    return float(ncx2.sf(chi2.isf(FALSE_ALARM, 255), 255, excess))


def test_uploads_are_uniform_whatever_the_split(runs: list[Run]) -> None:
    """Claim: the bytes of each upload, of differences of the uploads of two splits, and of the uploads' sum over every
    proper subset of clients are uniform: 3·4 + 3·4 + 3·10 chi-square tests at 1e-9. False alarm: under 1e-7.
    Power: over 0.999 if one byte in fifty is fixed; a bias of that size is planted and found.
    """
    tests: dict[tuple[object, ...], npt.NDArray[np.uint8]] = {}
    mask = np.uint64(2 ** (8 * runs[0].width) - 1)
    for at, run in enumerate(runs):
        for size in range(1, CLIENTS):
            for few in combinations(range(CLIENTS), size):
                total = np.bitwise_and(np.sum([run.words[i] for i in few], axis=0, dtype=np.uint64), mask)
                tests[at, few] = low_bytes(total, run.width)
    for (a, one), (b, two) in combinations(enumerate(runs), 2):
        for i in range(CLIENTS):
            tests[a, b, i] = low_bytes((one.words[i] - two.words[i]) & mask, one.width)
    assert len(tests) < 100
    assert {name: p for name, data in tests.items() if (p := uniform_p(data)) < FALSE_ALARM} == {}

    data = tests[0, (0,)].copy()
    assert detection_power(0.02, len(data)) > 0.999
    data[np.random.default_rng(0).random(len(data)) < 0.02] = 7
    assert uniform_p(data) < FALSE_ALARM


def test_an_upload_tells_nothing_of_its_own_vector(runs: list[Run]) -> None:
    """Claim: the top bit of a word agrees with the sign of its value in half of the cases (with the ramp, where signs
    differ), and so does whether two neighbouring words' difference is over half the range. 2·2 binomial tests at
    1e-9: under 1e-8. Power: over 0.99 if they agree in 53 %; planted by showing 8 % of the signs, and found.
    """
    run = runs[2]
    half = np.uint64(2 ** (8 * run.width - 1))

    def agreement_p(top: npt.NDArray[np.bool_], sign: npt.NDArray[np.bool_]) -> float:
        return float(binomtest(int((top == sign).sum()), len(top)).pvalue)

    for i in (0, 2):
        top, sign = (run.words[i] & half) > 0, run.values[i] < 0
        steps = ((run.words[i][1:] - run.words[i][:-1]) & half) > 0
        assert agreement_p(top, sign) > FALSE_ALARM
        assert agreement_p(steps, sign[1:]) > FALSE_ALARM
        shown = np.where(np.random.default_rng(i).random(LENGTH) < 0.08, sign, top)
        assert agreement_p(shown, sign) < FALSE_ALARM


def test_a_scalar_mask_would_be_found(runs: list[Run]) -> None:
    """Claim: differences of neighbouring words are uniform; with one mask word for a whole vector they would be those
    of the values. 12 chi-square tests at 1e-9: under 2e-8. Power: 1 on the weak design, shown.
    """
    mask = np.uint64(2 ** (8 * runs[0].width) - 1)
    for run in runs:
        for words, values in zip(run.words, run.values, strict=True):
            assert uniform_p(low_bytes(np.diff(words) & mask, run.width)) > FALSE_ALARM
            scalar = (np.rint(values * 2**16).astype(np.int64).view(np.uint64) + words[0]) & mask
            assert uniform_p(low_bytes(np.diff(scalar) & mask, run.width)) < FALSE_ALARM


# ---- every mask byte is fresh --------------------------------------------------------------------

Where = tuple[str, int, int]
"""A session, a round, a client."""


@dataclass
class Recorder:
    """All that clients mask with. uses: for each key, where and with which sign; streams: what came out of it."""

    uses: dict[bytes, list[tuple[Where, int]]] = field(default_factory=lambda: defaultdict(list))
    streams: dict[tuple[bytes, Where], bytes] = field(default_factory=lambda: defaultdict(bytes))
    where: Where = ("", 0, 0)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """In all clients' `add_keystreams`, and in every cipher."""
        real_cipher, real_masks, real_contribute = (
            prg._cipher,
            prg.add_keystreams,
            MaskingClient.contribute,
        )
        recorder, masking = self, False

        class Stream:
            def __init__(self, key: bytes) -> None:
                self.key, self.cipher = key, real_cipher(key)

            def update(self, data: bytes) -> bytes:
                out = self.cipher.update(data)
                if masking:
                    recorder.streams[self.key, recorder.where] += out
                return out

            def update_into(self, data: bytes, into: bytearray) -> int:
                size = self.cipher.update_into(data, into)
                if masking:
                    recorder.streams[self.key, recorder.where] += bytes(into[:size])
                return size

        def masks(vector: Any, *, plus: Sequence[bytes], minus: Sequence[bytes], modulus: int) -> None:
            nonlocal masking
            for keys, sign in ((plus, 1), (minus, -1)):
                for key in keys:
                    recorder.uses[key].append((recorder.where, sign))
            masking = True
            real_masks(vector, plus=plus, minus=minus, modulus=modulus)
            masking = False

        def contribute(self: MaskingClient, wanted: SumWanted, values: Any, data_set: str) -> bytes:
            recorder.where = (self._memory.parameters.session.hex(), wanted.round, self.index)
            return real_contribute(self, wanted, values, data_set)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(prg, "_cipher", Stream)
            patched.setattr(client_module, "add_keystreams", masks)
            patched.setattr(MaskingClient, "contribute", contribute)
            yield

    def faults(self) -> list[str]:
        """What is used twice."""
        found = []
        for uses in self.uses.values():
            indices = [where for where, _ in uses]
            rounds = {where[:2] for where in indices}
            if len(uses) > 2 or len(rounds) > 1 or len(set(indices)) < len(indices):
                found.append(f"a key for {len(uses)} vectors of {len(rounds)} rounds")
            elif len(uses) == 2 and {(1, min(indices)), (-1, max(indices))} != {(s, w) for w, s in uses}:
                found.append("a pair's key without opposite signs")
        blocks: dict[bytes, bytes] = {}
        for (key, _), stream in self.streams.items():
            for at in range(0, len(stream) - 15, 16):
                block = stream[at : at + 16]
                # The two ends of a pair draw one stream; each block has one place in it.
                if blocks.setdefault(block, key + at.to_bytes(8, "big")) != key + at.to_bytes(8, "big"):
                    found.append("a block of keystream twice")
        return found

    def counts(self) -> tuple[int, int]:
        """Keys of one client, and keys of pairs."""
        single = sum(len(uses) == 1 for uses in self.uses.values())
        return single, len(self.uses) - single


@pytest.mark.slow
def test_no_mask_byte_is_used_twice() -> None:
    """Claim: over two sessions of the same clients and vectors, three rounds each (the layers of a network are rounds),
    longer than a chunk of keystream: every key masks one vector, or those of two clients in one round with opposite
    signs, and no 16-byte block comes twice. False alarm: 2^-88 (some 2^20 blocks, birthday). Power: any repeat is
    found; a repeated key, a repeated block and equal signs are planted.
    """
    n, rounds, length = 4, 3, 33_000
    recorder, parties = Recorder(), world(n)
    with recorder.attached():
        for _ in range(2):
            session = parties.session(parties.propose(length=length, rounds=rounds)).set_up()
            for number in range(rounds):
                session.sum(number)
    assert recorder.counts() == (2 * rounds * n, 2 * rounds * n * (n - 1) // 2)
    assert len(recorder.streams) == 2 * rounds * n * n
    size = np.dtype(ring.words_of(session.encodings[0].width)).itemsize
    assert size * length > prg.CHUNK_BYTES
    assert all(len(stream) == size * length for stream in recorder.streams.values())
    assert recorder.faults() == []

    some = next(key for key, uses in recorder.uses.items() if len(uses) == 2)
    (first, sign), second = recorder.uses[some]
    recorder.uses[some] = [(first, sign), (second[0], sign)]
    assert recorder.faults() == ["a pair's key without opposite signs"]
    recorder.uses[some] = [(first, sign), ((first[0], first[1] + 1, first[2]), sign)]
    assert recorder.faults() == ["a key for 2 vectors of 2 rounds"]
    recorder.uses[some] = [(first, sign), second]
    one, two = list(recorder.streams)[:2]
    recorder.streams[one] = recorder.streams[two][:16] + recorder.streams[one][16:]
    assert "a block of keystream twice" in recorder.faults()


def test_no_mask_byte_is_used_twice_with_dropouts() -> None:
    """Claim: as above where a client uploads in a round that is given up, and again in the next one, without the
    client that was lost. False alarm and power: as above.
    """
    n, recorder, parties = 5, Recorder(), world(5)
    with recorder.attached():
        session: Session = parties.session(parties.propose(length=64, rounds=2)).set_up()
        session.cohort.collect(0, session.contribute)
        session.server.give_up_round()
        session.cohort.sum(1, session.contribute, among=range(n - 1))
    assert recorder.counts() == (n + n - 1, n * (n - 1) // 2 + (n - 1) * (n - 2) // 2)
    assert recorder.faults() == []


def test_no_mask_byte_is_used_twice_under_encryption() -> None:
    """Claim: as above for `bfv+mask`, whose masks are drawn by rejection. False alarm and power: as above."""
    n, recorder = 4, Recorder()
    with recorder.attached():
        keys = KeyWorld(n, "bfv+mask")
        for _ in range(2):
            session = keys.session(rounds=2, length=9).set_up()
            for number in range(2):
                session.sum(number)
    assert recorder.counts() == (2 * 2 * n, 2 * 2 * n * (n - 1) // 2)
    assert recorder.faults() == []


def test_no_block_of_ciphertext_comes_twice() -> None:
    """Claim: three clients that encrypt the same vector in two sessions: no aligned 32-byte block of residues (four or
    more of them) occurs in two of six uploads, or twice in one. False alarm: under 2^-150. Power: any repeat at these
    offsets is found; one is planted.
    """
    uploads_seen = []
    for _ in range(2):
        tap, keys = Tap(), KeyWorld(3, "bfv")
        session = keys.session(tap, length=8)
        session.vectors = {index: np.full(8, 1.5) for index in session.vectors}
        session.set_up().sum()
        uploads_seen += [tap.last("encrypting", i).data for i in range(3)]
    assert len({len(data) for data in uploads_seen}) == 1

    def repeated(all_data: Sequence[bytes]) -> int:
        # The first bytes say which message it is, the last ones are its signature.
        blocks = [data[at : at + 32] for data in all_data for at in range(64, len(data) - 128, 32)]
        return len(blocks) - len(set(blocks))

    assert len(uploads_seen[0]) > 2**15
    assert repeated(uploads_seen) == 0
    first, second, *rest = uploads_seen
    assert repeated([first, first[:128] + second[128:], *rest]) > 0
