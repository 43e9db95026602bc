"""Parties that outlive their processes: what they know is in a `Store`, and they are made anew for every message."""

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt

from secure_afl.protocol.durable.store import Kept, Store, StoreError
from secure_afl.protocol.session.errors import LocalProtocolError
from secure_afl.protocol.session.ledger import Ledger
from secure_afl.protocol.session.parameters import SumWanted
from secure_afl.protocol.session.party import Contributor, Party
from secure_afl.protocol.session.wire import answered


class Keeping(Party, Protocol):
    """A party whose memory can be kept: a `MaskingClient`, `HomomorphicClient` or `KeyHolder`."""

    @property
    def transcript(self) -> bytes: ...

    def foresee(self, data: bytes) -> bool: ...

    def memory(self) -> bytes: ...

    def resume(self, memory: bytes) -> None: ...


class Contributing(Keeping, Contributor, Protocol):
    """A client whose memory can be kept."""

    @property
    def wanted(self) -> SumWanted: ...


class DurableParty:
    """A client or key holder in the session that its owner calls `name`.

    make: a fresh party for this session, with the ledger it is given. Whatever process holds the store can go on:
    a message that was answered is answered with the same bytes again, one that was not is as if it never came, and
    a vector that was wanted and not contributed is wanted again. A sum whose opening failed is spent; one over which
    the key holder's process was killed or interrupted was not opened, and may be asked for again, by the same message
    and no other: that is written down before it is opened.
    """

    def __init__(self, make: Callable[[Ledger], Keeping], store: Store, name: str) -> None:
        self._make = make
        self._store = store
        self._name = name

    @property
    def transcript(self) -> bytes:
        """Of the session; empty before the party is in it, or after its end. Raises `StoreError`."""
        return self._party()[1].transcript

    def receive(self, data: bytes) -> bytes | SumWanted:
        """Take one message of the server; give the frame that answers it, or what it asks for.

        Raises what the party raises, and `StoreError`: then nothing happened, or nobody heard of it yet, and the same
        message gets its answer.
        """
        answer = None
        while answer is None:
            with self._store.transaction():
                answer = self._answered(data)
        return _raised(answer)

    def contribute(self, wanted: SumWanted, values: npt.NDArray[np.float64], data_set: str) -> bytes:
        """The upload that answers `wanted`; see the party's own `contribute`, and `receive`."""
        with self._store.transaction():
            kept, party = self._party()
            if kept is None or kept.answer:
                raise LocalProtocolError(
                    f"{self._name}: the sum of round {wanted.round} is not wanted (any more)"
                )
            client = cast(Contributing, party)  # key holders are never asked for a vector
            question = kept.question
            answer = self._stepped(party, kept, question, lambda: client.contribute(wanted, values, data_set))
        answer = _raised(answer)
        assert isinstance(answer, bytes)
        return answer

    def _answered(self, data: bytes) -> bytes | SumWanted | Exception | None:
        """None: what the message begins is written down, and it is to be taken again."""
        question = answered(data)
        kept, party = self._party()
        if kept is not None and kept.question == question:
            return kept.answer or cast(Contributing, party).wanted
        if kept is not None and party.foresee(data):
            self._store.keep(self._name, replace(kept, memory=party.memory()))
            return None
        return self._stepped(party, kept, question, lambda: party.receive(data))

    def _party(self) -> tuple[Kept | None, Keeping]:
        kept, party = self._store.kept(self._name), self._make(self._store.ledger)
        if kept is not None:
            party.resume(kept.memory)
        return kept, party

    def _stepped(
        self, party: Keeping, kept: Kept | None, question: bytes, step: Callable[[], bytes | SumWanted]
    ) -> bytes | SumWanted | Exception:
        """The step's answer or error, after what it changed is written: a refusal can change something too, as a key
        holder's sum that did not open and is spent.
        """
        answer: bytes | SumWanted | Exception
        try:
            answer = step()
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001  # also of a solver that the program gave
            answer = error
        try:
            memory = party.memory()
        except LocalProtocolError:  # it refused the invitation
            return answer
        if isinstance(answer, Exception):
            if kept is None or memory != kept.memory:  # a refusal that changed nothing costs no write
                said = (kept.question, kept.answer) if kept else (b"", b"")
                self._store.keep(self._name, Kept(memory, *said))
        else:
            frame = answer if isinstance(answer, bytes) else b""
            self._store.keep(self._name, Kept(memory, question, frame))
        return answer


def _raised(answer: bytes | SumWanted | Exception) -> bytes | SumWanted:
    if isinstance(answer, Exception):
        raise answer
    return answer
