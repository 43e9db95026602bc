"""A server's steps as values, so that a layer around the server (a log, a journal) handles all in one place."""

from abc import ABC, abstractmethod
from collections.abc import Collection
from enum import Enum
from typing import Any, ClassVar, Generic, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from secure_afl.protocol.session.server import OpenedSum, Outbox, SumServer

R = TypeVar("R")
S = TypeVar("S", bound=SumServer)


class Step(msgspec.Struct, Generic[R], frozen=True, array_like=True):
    """A call of a `SumServer` method, with its arguments in order. name: the method's name, also in journals."""

    name: ClassVar[str]

    def on(self, server: SumServer) -> R:
        """Take the step; re-raises the server's exceptions."""
        came: R = getattr(server, self.name)(*msgspec.structs.astuple(self))
        return came


class Start(Step[Outbox], frozen=True):
    name = "start"


class Advance(Step[Outbox], frozen=True):
    name = "advance"


class OpenRound(Step[Outbox], frozen=True):
    name = "open_round"
    number: int
    among: tuple[int, ...] | None


class Receive(Step[None], frozen=True):
    name = "receive"
    sender: int
    data: bytes


class Result(Step[OpenedSum], frozen=True):
    name = "result"


class TakeTotal(Step[None], frozen=True):
    """words: little-endian."""

    name = "take_total"
    words: bytes
    survivors: tuple[int, ...]

    def on(self, server: SumServer) -> None:
        server.take_total(np.frombuffer(self.words, "<u8").astype(np.uint64), self.survivors)


class GiveUpRound(Step[None], frozen=True):
    name = "give_up_round"


STEPS: dict[str, type[Step[Any]]] = {
    kind.name: kind for kind in (Start, Advance, OpenRound, Receive, Result, TakeTotal, GiveUpRound)
}


class Layer(ABC, Generic[S]):
    """A `SumServer` that wraps another one: each step goes through `_do`."""

    def __init__(self, server: S) -> None:
        self.server = server

    @abstractmethod
    def _do(self, step: Step[R]) -> R: ...

    @property
    def state(self) -> Enum:
        return self.server.state

    @property
    def round(self) -> int:
        return self.server.round

    def start(self) -> Outbox:
        return self._do(Start())

    def advance(self) -> Outbox:
        return self._do(Advance())

    def open_round(self, number: int, among: Collection[int] | None = None) -> Outbox:
        return self._do(OpenRound(number, None if among is None else tuple(among)))

    def receive(self, sender: int, data: bytes) -> None:
        self._do(Receive(sender, data))

    def result(self) -> OpenedSum:
        return self._do(Result())

    def take_total(self, words: npt.NDArray[np.uint64], survivors: Collection[int]) -> None:
        self._do(TakeTotal(words.astype("<u8").tobytes(), tuple(survivors)))

    def give_up_round(self) -> None:
        self._do(GiveUpRound())
