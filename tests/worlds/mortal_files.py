"""A client that goes on from a file, in processes that are killed."""

import os
import resource
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from secure_afl.protocol.durable.parties import DurableParty
from secure_afl.protocol.durable.store import Kept, Store
from secure_afl.protocol.masking.client import MaskingClient
from secure_afl.protocol.session.parameters import Profile
from worlds.cohorts import Session, World

BESIDE = ("-wal", "-shm", "-journal")


def beside(path: Path) -> list[Path]:
    """What SQLite has beside a party's file, if it has."""
    return [path.with_name(path.name + ending) for ending in BESIDE]


def log_bytes(path: Path) -> int:
    """How long the log is; 0 if there is none."""
    log = beside(path)[0]
    return log.stat().st_size if log.exists() else 0


def asked(here: World, rounds: int = 1, profile: Profile = Profile.ACTIVE) -> tuple[Session, bytes]:
    """A session that is set up, and what client 0 is asked for first."""
    session = here.session(here.propose(rounds=rounds, profile=profile)).set_up()
    return session, session.server.open_round(0)[0]


def stored(session: Session, path: Path) -> Store:
    """The file of client 0, as it stands in the session."""
    store = Store(path, session.world.identities[0])
    store.keep("s", Kept(session.clients[0].memory(), b"before", b"before"))
    return store


def process(session: Session, store: Store, name: str = "s") -> DurableParty:
    here = session.world
    return DurableParty(
        lambda ledger: MaskingClient(here.identities[0], here.roster, here.plan, here.policy, ledger),
        store,
        name,
    )


def at_once(works: Sequence[Callable[[], bytes]]) -> list[bytes]:
    """What processes of their own say that run at the same time; nothing of one that is killed before."""
    ends, children = [], []
    for work in works:
        reader, writer = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads: the child uses none of them
            child = os.fork()
        if not child:
            try:
                os.write(writer, work())
            finally:
                os._exit(0)
        os.close(writer)
        ends.append(reader)
        children.append(child)
    said = []
    for reader, child in zip(ends, children, strict=True):
        with open(reader, "rb") as pipe:
            said.append(pipe.read())
        os.waitpid(child, 0)
    return said


def forked(work: Callable[[], bytes]) -> bytes:
    """What a process of its own says; nothing, if it is killed before."""
    (said,) = at_once([work])
    return said


@contextmanager
def limited(room: int) -> Iterator[None]:
    """This process can write to no file behind that many bytes."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


def killed_at(store: Store, statement: int) -> Store:
    """A store whose process is killed when it comes to that statement; the first is 1."""
    left = [statement]

    def count(_: str) -> None:
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    store._database.set_trace_callback(count)
    return store
