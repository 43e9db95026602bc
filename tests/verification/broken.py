"""Aggregators with one flaw each, known from other projects, so that `check_aggregator` has something to find."""

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt

from secure_afl.crypto.hpke import KeyPair, Suite
from secure_afl.crypto.kdf import KEY_BYTES, Label
from secure_afl.crypto.prg import add_keystreams
from secure_afl.protocol.masking import client as client_module
from secure_afl.protocol.masking import memory as memory_module
from secure_afl.protocol.masking import messages
from secure_afl.protocol.masking import server as server_module
from secure_afl.protocol.masking.client import MaskingClient
from secure_afl.protocol.masking.states import ClientState
from secure_afl.protocol.session.parameters import Profile, SumPlan, SumWanted
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.transport.driver import Contribution, Envelope, Network
from secure_afl.sums.aggregation import Aggregate, MaskedAggregator

Words = npt.NDArray[np.uint64]
Given = Mapping[str, Contribution]
Vector = npt.NDArray[np.float64]


class Broken(MaskedAggregator):
    """Ours, with its vectors changed or its masks made in another way."""

    def __init__(self, network: Network, profile: Profile = Profile.SEMI_HONEST) -> None:
        policy = Policy(profiles=frozenset({profile}), suites=frozenset({Suite.X25519}))
        super().__init__(policy, profile=profile, suite=Suite.X25519, network=network)
        self.network = network

    @contextmanager
    def weakened(self) -> Iterator[None]:
        """In force while the aggregator works."""
        yield

    def altered(self, vector: Vector, entry: SumPlan) -> Vector:
        """What is summed in place of a client's vector."""
        return vector

    def open(self, clients: Sequence[str], plan: Sequence[SumPlan]) -> None:
        with self.weakened():
            super().open(clients, plan)

    def sum(self, number: int, contributions: Given) -> Aggregate:
        entry = self._plan[number]
        given = {name: (self.altered(one[0], entry), one[1]) for name, one in contributions.items()}
        with self.weakened():
            return super().sum(number, given)


class BrokenMasks(Broken):
    """`masks` stands in for our mask expansion, at clients and server alike."""

    def masks(self, vector: Words, plus: Sequence[bytes], minus: Sequence[bytes]) -> None:
        raise NotImplementedError

    @contextmanager
    def weakened(self) -> Iterator[None]:
        def add(
            vector: Words, *, plus: Sequence[bytes] = (), minus: Sequence[bytes] = (), modulus: int = 0
        ) -> None:
            self.masks(vector, plus, minus)

        with (
            patch.object(client_module, "add_keystreams", add),
            patch.object(server_module, "add_keystreams", add),
        ):
            yield


class SmallSeeds(BrokenMasks):
    """Flower: 28 bits of seed into MT19937."""

    def masks(self, vector: Words, plus: Sequence[bytes], minus: Sequence[bytes]) -> None:
        for keys, sign in ((plus, 1), (minus, -1)):
            for key in keys:
                seed = int.from_bytes(key[:4], "little") & (2**28 - 1)
                mask = np.random.RandomState(seed).randint(0, 2**64, len(vector), np.uint64)
                vector += mask if sign > 0 else -mask


class KeystreamForEachPart(BrokenMasks):
    """Fed-BioMed: a keystream begins anew for every part of a vector (there, each vector of a round)."""

    def masks(self, vector: Words, plus: Sequence[bytes], minus: Sequence[bytes]) -> None:
        for start in range(0, len(vector), 256):
            add_keystreams(vector[start : start + 256], plus=plus, minus=minus)


class ScalarMask(BrokenMasks):
    """OpenFL: one number masks all entries."""

    def masks(self, vector: Words, plus: Sequence[bytes], minus: Sequence[bytes]) -> None:
        one = np.zeros(1, np.uint64)
        add_keystreams(one, plus=plus, minus=minus)
        vector += one


class KeystreamForEverySum(Broken):
    """The keys of a session's first sum mask all its sums."""

    def __init__(self, network: Network) -> None:
        super().__init__(network)
        self._keys: dict[tuple[Any, ...], bytes] = {}

    @contextmanager
    def weakened(self) -> Iterator[None]:
        def first(derive: Callable[..., bytes]) -> Callable[..., bytes]:
            def key(secret: bytes, transcript: bytes, number: int, *who: int) -> bytes:
                return self._keys.setdefault(
                    (transcript, *sorted(who)), derive(secret, transcript, number, *who)
                )

            return key

        with (
            patch.object(messages, "pair_mask_key", first(messages.pair_mask_key)),
            patch.object(messages, "self_mask_key", first(messages.self_mask_key)),
        ):
            yield


class AnswersTwice(MaskingClient):
    """Answers every list of survivors that it is shown."""

    def receive(self, data: bytes) -> bytes | SumWanted:
        state = self.state
        keys = self._memory.current if state is not ClientState.START else None
        answer = super().receive(data)
        if b"survivors" in data[:16]:
            self.state, self._memory.current = state, keys
        return answer


class BothShares(Broken):
    """Clients reveal one share of a dealer, and when they are shown another list the other."""

    def open(self, clients: Sequence[str], plan: Sequence[SumPlan]) -> None:
        with patch("secure_afl.sums.aggregation.MaskingClient", AnswersTwice):
            super().open(clients, plan)


class Truncates(Broken):
    """Cuts a vector to the agreed length, or fills it up."""

    def altered(self, vector: Vector, entry: SumPlan) -> Vector:
        return (
            vector if vector.ndim != 1 else np.resize(np.append(vector, np.zeros(entry.length)), entry.length)
        )


class Wraps(Broken):
    """Takes a value over the bound modulo twice the bound."""

    def altered(self, vector: Vector, entry: SumPlan) -> Vector:
        if vector.dtype != np.float64 or not np.isfinite(vector).all():
            return vector
        over = np.abs(vector) > entry.bound
        return np.where(over, np.remainder(vector + entry.bound, 2 * entry.bound) - entry.bound, vector)


class Clips(Broken):
    """Every value over the bound is clipped to it."""

    def altered(self, vector: Vector, entry: SumPlan) -> Vector:
        return np.clip(vector, -entry.bound, entry.bound) if vector.dtype == np.float64 else vector


class ClipsToEight(Broken):
    """Flower: every value is clipped to ±8, whatever was agreed."""

    def altered(self, vector: Vector, entry: SumPlan) -> Vector:
        return np.clip(vector, -8.0, 8.0) if vector.dtype == np.float64 else vector


class CountsInTheClear(Broken):
    """Flower: beside the masked vector goes the number of examples."""

    def sum(self, number: int, contributions: Given) -> Aggregate:
        for index, (vector, _) in enumerate(contributions.values()):
            count = vector.ravel()[-1:].astype(str).tolist()
            text = f'{{"num_examples": {"".join(count).removesuffix(".0")}}}'
            list(self.network.carry(Envelope("counting", index, True, text.encode())))
        return super().sum(number, contributions)


class OneKeyForAll(Broken):
    """NVFlare: all clients have one secret key, here the one that shares are sealed to."""

    def __init__(self, network: Network) -> None:
        super().__init__(network)
        self.secret = secrets.token_bytes(KEY_BYTES)

    @contextmanager
    def weakened(self) -> Iterator[None]:
        def pair(suite: Suite, seed: bytes, label: Label) -> KeyPair:
            return KeyPair(suite, self.secret if label is Label.CHANNEL_KEY else seed, label)

        with patch.object(memory_module, "KeyPair", pair):
            yield


class PlaintextFallback(Broken):
    """NVFlare: what is not in its list of vectors travels as it is."""

    def sum(self, number: int, contributions: Given) -> Aggregate:
        if number:
            for index, (vector, _) in enumerate(contributions.values()):
                list(self.network.carry(Envelope("fallback", index, True, vector.tobytes())))
        return super().sum(number, contributions)


class ForgetsDropouts(Broken):
    """Names everybody that was invited as a survivor."""

    def sum(self, number: int, contributions: Given) -> Aggregate:
        one = super().sum(number, contributions)
        return replace(one, survivors=tuple(member.name for member in self.cohort.server.roster.members))


class ReusesData(Broken):
    """Keeps no account of which data sets were used."""

    def sum(self, number: int, contributions: Given) -> Aggregate:
        session = self.cohort.server.parameters.session.hex()
        return super().sum(number, {name: (one[0], one[1] + session) for name, one in contributions.items()})


class TriesAgain(Broken):
    """Asked again for a sum that lacks somebody, it makes another one, to have all in it."""

    def __init__(self, network: Network) -> None:
        super().__init__(network)
        self._lacking: set[int] = set()

    def open(self, clients: Sequence[str], plan: Sequence[SumPlan]) -> None:
        self._lacking = set()
        super().open(clients, plan)

    def sum(self, number: int, contributions: Given) -> Aggregate:
        if number in self._lacking:
            names = [member.name for member in self.cohort.server.roster.members]
            self.open(names, self._plan)
            for _, data_set in contributions.values():
                self.renew(data_set, may_expose=True)
        one = super().sum(number, contributions)
        if len(one.survivors) < len(contributions):
            self._lacking.add(number)
        return one
