"""Parties that survive restarts: a `Store` keeps their state, and a new object handles each message."""

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, cast

from secure_afl.protocol.durable.store import Kept, Store, StoreError
from secure_afl.protocol.session.errors import LocalProtocolError
from secure_afl.protocol.session.ledger import Ledger
from secure_afl.protocol.session.parameters import SumWanted, Values
from secure_afl.protocol.session.party import Contributor, Party
from secure_afl.protocol.session.wire import answered


class Keeping(Party, Protocol):
    """A party whose memory can be stored: a `MaskingClient`, `HomomorphicClient` or `KeyHolder`."""

    largest_message: int

    @property
    def transcript(self) -> bytes: ...

    def foresee(self, data: bytes) -> bool: ...

    def memory(self) -> bytes: ...

    def resume(self, memory: bytes) -> None: ...


class Contributing(Keeping, Contributor, Protocol):
    """A client whose memory can be stored."""

    @property
    def wanted(self) -> SumWanted: ...


class DurableParty:
    """A client or key holder in the session that its owner calls `name`.

    make: makes a fresh party for this session with the given ledger. Any process that has the store can continue:

    - an answered message gets the same bytes again; an unanswered one counts as never received;
    - a vector that was requested and not contributed is requested again;
    - a sum whose opening failed is spent;
    - if the key holder's process was killed or interrupted while opening a sum, only the same message can ask for that
      opening again: the store records it before the opening begins.
    """

    def __init__(self, make: Callable[[Ledger], Keeping], store: Store, name: str) -> None:
        self._make = make
        self._store = store
        self._name = name

    @property
    def transcript(self) -> bytes:
        """The session's transcript; empty before the party has joined and after the session's end. Raises `StoreError`."""
        return self._party()[1].transcript

    def receive(self, data: bytes) -> bytes | SumWanted:
        """Take a message of the server; return the frame that answers it, or the request for a vector.

        Raises the party's exceptions, and `StoreError`: then nothing has left this party, and the same message can be
        given again.
        """
        answer = None
        while answer is None:
            with self._store.transaction():
                answer = self._answered(data)
        return _raised(answer)

    def contribute(self, wanted: SumWanted, values: Values, data_set: str) -> bytes:
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
        """The answer. None: the store has recorded what the message begins; take the message again."""
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
        """The step's answer or error, after writing its changes. A refusal can change something too: a key holder's sum
        that did not open is spent.
        """
        answer: bytes | SumWanted | Exception
        try:
            answer = step()
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001  # includes errors of the program's own solver
            answer = error
        try:
            memory = party.memory()
        except LocalProtocolError:  # the party refused the invitation
            return answer
        if isinstance(answer, Exception):
            if kept is None or memory != kept.memory:  # a refusal that changed nothing needs no write
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
