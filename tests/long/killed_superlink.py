"""Kills the SuperLink, or the run of `secure-afl study run`, in each phase of a study on a network of real nodes.

    python tests/long/killed_superlink.py [--victim superlink|run] [--phase collecting]

SuperLink and four nodes with TLS and node keys on this machine, started anew for every line. The victim dies (SIGKILL) when
the phase begins; a SuperLink is started again at once. Nothing may be released then: no model is anywhere, and the run says
what to do, unless all parties had the model already. The next run goes on with the same session, and its model is that of
all, bit for bit as in one process; no data set is spent twice. Needs the extra `flower`.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from rich.console import Console
from worlds.folders import Federation, in_process, model, session_of, with_a_key

from secure_afl.errors import DataError
from secure_afl.simulations.network import loopback

PHASES = ("advertising", "sharing", "confirming", "collecting", "consenting", "unmasking", "answering")
VICTIMS = ("superlink", "run")
_DEADLINE, _LIMIT = 240.0, 1800.0  # seconds


def lived(victim: str, phase: str) -> tuple[str, bool]:
    """A study of a new federation on a new network: what the killed run said, and whether all was right."""
    with tempfile.TemporaryDirectory() as temporary:
        federation = Federation(Path(temporary) / "parties")
        with_a_key(federation)
        with loopback.Loopback(Path(temporary) / "network", federation.folders, federation.server) as network:

            def watch(line: str) -> None:
                if f"phase: {phase}" not in line:
                    return
                if victim == "run":
                    network.kill_server()
                else:
                    network.kill_superlink()
                    network.start_superlink()

            try:
                network.run(deadline=_DEADLINE, limit=_LIMIT, watch=watch)
            except DataError as error:
                said = str(error)
            else:
                return "the run learned a model", False
            early = [
                path.name for path in (federation.server, *federation.folders) if list(path.glob("model*"))
            ]
            again = network.run(deadline=_DEADLINE, limit=_LIMIT)
        expected = in_process(federation)
        same = all(
            np.array_equal(model(folder)[-1], expected) for folder in (federation.server, *federation.folders)
        )
        once = all(len(session_of(federation, party)) == 1 for party in range(4))
        reason = next((line for line in said.splitlines() if line.startswith("error:")), "")
        named = "the study again" in reason if victim == "superlink" else not reason
        return reason or "killed", bool(named and not early and "left open" in again and same and once)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--victim", choices=VICTIMS, help="only this one")
    parser.add_argument("--phase", choices=PHASES, action="append", help="only these")
    arguments = parser.parse_args()
    console, bad = Console(), 0
    for victim in (arguments.victim,) if arguments.victim else VICTIMS:
        for phase in arguments.phase or PHASES:
            started = time.perf_counter()
            said, right = lived(victim, phase)
            seconds = time.perf_counter() - started
            line = f"{victim:<9} {phase:<12} {said[:150]} ({seconds:.0f} s){'' if right else '  BAD'}"
            console.print(line, highlight=False, soft_wrap=True)
            bad += not right
    console.print(f"{bad} bad")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
