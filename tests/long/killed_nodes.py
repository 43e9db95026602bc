"""Kills a node of a Flower network at every message that it gets, and looks at what the study came to.

    python tests/long/killed_nodes.py [--backend mask|bfv+mask] [--moment before|after] [--victim client|holder]
                                      [--then gone|back]

SuperLink and nodes with TLS and node keys on this machine, started anew for every line: five clients, one of which dies
(by SIGKILL), or a key holder. What the others learn must be the model of the survivors that the server reports, bit for
bit as in one process; without the key holder nobody may learn anything. Where the victim is back, started again at once,
nobody is missing, and it learns the same.
Needs the extra `flower`. A line takes a minute or so, most of it until Flower notices who is gone.
"""

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from rich.console import Console
from worlds.folders import Federation, in_process, model
from worlds.mortal_node import NODE

from secure_afl.errors import DataError
from secure_afl.node.site import MODEL
from secure_afl.simulations.network import loopback

CLIENTS, VICTIM, HOLDER = 5, 2, 5
BACKENDS = ("mask", "bfv+mask")
VICTIMS = {"client": VICTIM, "holder": HOLDER}
THEN = ("gone", "back")
_DEADLINE, _LIMIT = 240.0, 1800.0  # seconds


@dataclass(frozen=True)
class Life:
    """One study. last: the message at which the victim dies, 0 for none; then: whether it is started again; asked: the
    messages that it got."""

    backend: str
    victim: str
    last: int
    moment: str
    then: str
    asked: tuple[str, ...]
    said: str
    right: bool
    seconds: float


def lived(backend: str, victim: str, last: int, moment: str, then: str) -> Life:
    """A study of a new federation on a new network."""
    with tempfile.TemporaryDirectory() as temporary:
        root, index = Path(temporary), VICTIMS[victim]
        federation = Federation(root / "parties", CLIENTS, holders=int(backend != "mask"), backend=backend)
        for party, folder in enumerate(federation.folders):
            (folder / "dies").write_text(f"{last if party == index else 0} {moment}")
        started = time.perf_counter()
        with loopback.Loopback(root / "network", federation.folders, federation.server, node=NODE) as network:

            def revive() -> None:
                network.await_end(index, _LIMIT)
                network.start(index)

            if last and then == "back":
                threading.Thread(target=revive, daemon=True).start()
            try:
                network.run(deadline=_DEADLINE, limit=_LIMIT)
            except DataError as error:
                stopped = str(error)
            else:
                stopped = ""
        seconds = time.perf_counter() - started
        asked = (federation.folders[VICTIMS[victim]] / "asked").read_text().splitlines()
        missing = bool(last) and then == "gone"
        said, right = (
            _stopped(federation, stopped) if stopped else _learned(federation, index if missing else -1)
        )
        if stopped:  # without a client there is a sum
            right = right and victim == "holder" and missing
        elif victim == "holder" and missing:  # after its last answer nobody misses it
            right = right and last == len(asked) and moment == "after"
        return Life(backend, victim, last, moment, then, tuple(asked), said, right, seconds)


def _stopped(federation: Federation, why: str) -> tuple[str, bool]:
    """A study that ended without a model: nobody has one."""
    with_model = [path for path in federation.root.rglob("model.npz")]
    reason = next((line for line in reversed(why.splitlines()) if "Error" in line), "no reason was given")
    return f"no model: {reason.strip()[:90]}", not with_model and "Error" in reason


def _learned(federation: Federation, gone: int) -> tuple[str, bool]:
    """The model of everybody who is left is that of the survivors, who are all but the victim at least."""
    report = json.loads((federation.server / "report.json").read_text())
    (survivors,) = report["survivors"]
    indices = [federation.names.index(name) for name in survivors]
    expected = in_process(federation, indices)
    left = [folder for party, folder in enumerate(federation.folders) if party not in (gone, HOLDER)]
    without = [folder.name for folder in left if not (folder / MODEL).exists()]
    kept = [folder for folder in (federation.server, *left) if folder.name not in without]
    same = all(np.array_equal(model(folder)[0], expected) for folder in kept)
    enough = not without and set(indices) >= set(range(CLIENTS)) - {gone}
    said = f"sum of {len(indices)}, {'right' if same else 'WRONG'}"
    return f"{said}{', no model at ' + ', '.join(without) if without else ''}", same and enough


def lives(backend: str, victim: str, moments: Sequence[str], thens: Sequence[str]) -> Iterator[Life]:
    """First nobody dies, which tells what messages there are."""
    whole = lived(backend, victim, 0, "before", "gone")
    yield whole
    for last, moment, then in product(range(1, 1 + len(whole.asked)), moments, thens):
        yield lived(backend, victim, last, moment, then)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backend", choices=BACKENDS, help="only this one")
    parser.add_argument("--victim", choices=VICTIMS, help="only these")
    parser.add_argument("--moment", choices=("before", "after"), help="only this one: of its answer")
    parser.add_argument("--then", choices=THEN, help="only this one: what becomes of it")
    arguments = parser.parse_args()
    moments = (arguments.moment,) if arguments.moment else ("before", "after")
    thens = (arguments.then,) if arguments.then else THEN
    console, bad = Console(), 0
    for backend in (arguments.backend,) if arguments.backend else BACKENDS:
        for victim in (arguments.victim,) if arguments.victim else tuple(VICTIMS):
            if victim == "holder" and backend == "mask":
                continue
            for life in lives(backend, victim, moments, thens):
                what = (
                    f"{life.moment} {life.asked[life.last - 1]}, {life.then}" if life.last else "nobody dies"
                )
                console.print(
                    f"{backend:<9} {victim:<7} {what:<46} {life.said} ({life.seconds:.0f} s)"
                    f"{'' if life.right else '  BAD'}",
                    highlight=False,
                    soft_wrap=True,
                )
                bad += not life.right
    console.print(f"{bad} bad")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
