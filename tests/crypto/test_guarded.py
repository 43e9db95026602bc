"""What holds secrets is not pickled, not copied and not printed, and every class that holds some is among them."""

import copy
import io
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from rich.console import Console
from worlds.cohorts import world
from worlds.encrypted import KeyWorld

from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.guarded import Guarded
from secure_afl.crypto.identity import Identity
from secure_afl.protocol.durable.store import Kept, Store


def holders_of_secrets(tmp_path: Path) -> list[Any]:
    """One of each, with real secrets in it."""
    masked = world(4)
    session = masked.session(masked.propose(rounds=2)).set_up()
    client = session.clients[0]
    memory = client._memory
    keys = memory.rounds[0]
    layered = KeyWorld(4, "bfv+mask").session().set_up()
    layered.sum()
    committee, single = KeyWorld(4, "bfv", 2).session().set_up(), KeyWorld(4, "bfv").session().set_up()
    held = [next(iter(one.holders.values())) for one in (committee, single)]
    assert layered.masks
    beneath = layered.masks.clients[0]._memory
    assert beneath.masked
    owner = Identity.generate()
    store = Store(tmp_path / "a", owner)
    store.keep("s", Kept(client.memory(), b"", b""))
    return [
        *(owner, client, memory, keys, keys.mask_key, beneath.masked),
        *(layered.clients[0], layered.clients[0]._memory),
        *(one for holder in held for one in (holder, holder._memory, holder._key, holder._key._secret)),  # type: ignore[union-attr]
        *(store, store.kept("s")),
    ]


def shown(value: Any) -> str:
    """In every way that people and libraries print; what rich shows is what its tracebacks have of local variables."""
    console = Console(record=True, width=200, file=io.StringIO())
    console.print(value)
    console.print({"local": [value]})
    return f"{value!r}\n{value!s}\n{console.export_text()}"


def test_nothing_with_a_secret_is_pickled_copied_or_printed(tmp_path: Path) -> None:
    for secret in holders_of_secrets(tmp_path):
        assert isinstance(secret, Guarded), type(secret)
        leaving: list[Callable[[Any], Any]] = [copy.copy, copy.deepcopy]
        leaving += [partial(pickle.dumps, protocol=number) for number in range(pickle.HIGHEST_PROTOCOL + 1)]
        for leave in leaving:
            with pytest.raises(CryptoError, match="cannot be pickled or copied"):
                leave(secret)
        text = shown(secret)
        for name in getattr(secret, "__struct_fields__", ()):
            value = getattr(secret, name)
            if isinstance(value, bytes) and len(value) >= 16:
                for form in (value.hex(), repr(value)[2:-1]):
                    assert form[:40] not in text, (type(secret), name)


def test_a_copy_would_have_masked_a_second_vector_under_one_key() -> None:
    """What is refused: two clients with the same keys, each of which uploads."""
    here = world(4)
    session = here.session(here.propose()).set_up()
    memory = session.clients[0].memory()
    twins = [here.client(0) for _ in range(2)]
    for twin in twins:  # as a store that was brought back would
        twin.resume(memory)
    assert structs.asdict(twins[0]._memory) == structs.asdict(twins[1]._memory)
    with pytest.raises(CryptoError, match="cannot be pickled or copied"):
        copy.deepcopy(session.clients[0])
