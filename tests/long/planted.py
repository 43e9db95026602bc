"""The table of planted flaws: which property of the verification kit finds each, on several seeds; and the sound one.

    python tests/long/planted.py --seeds 5 --sound 50

Ends with exit code 1 if a flaw was missed or the sound aggregator failed a property.
"""

import argparse
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from verification import flawed
from verification.sound import Sound

from secure_afl.testing import check_aggregator

PATIENCE = 600.0  # seconds for a property: no verdict depends on the clock


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--sound", type=int, default=50, help="runs of the sound aggregator with all properties"
    )
    parser.add_argument("--only", default="", help="a part of the names of flaws")
    given = parser.parse_args()
    missed = alarms = count = 0
    print("| flaw | property | found on seeds |\n|---|---|---|", flush=True)
    for kind in flawed.FLAWS:
        if given.only not in kind.__name__:
            continue
        found = [seed for seed in range(1, given.seeds + 1) if kind.found_by in failures(kind, seed)]
        missed += given.seeds - len(found)
        count += given.seeds
        print(f"| {kind.__name__} | `{kind.found_by}` | {len(found)} of {given.seeds} |", flush=True)
    print(f"\n{count - missed} of {count} found", flush=True)
    started = time.process_time()
    for seed in range(1, given.sound + 1):
        report = check_aggregator(Sound, on_fail="collect", seconds=PATIENCE, seed=seed, examples=10)
        alarms += bool(report.failed)
        if report.failed:
            print(report, flush=True)
    if given.sound:
        seconds = (time.process_time() - started) / given.sound
        print(f"sound: {alarms} false alarms in {given.sound} runs, {seconds:.1f} s of CPU each")
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB of memory at most")
    return int(bool(missed or alarms))


def failures(kind: type[flawed.Flawed], seed: int) -> tuple[str, ...]:
    return check_aggregator(
        kind, only=[kind.found_by], on_fail="collect", seconds=PATIENCE, seed=seed, examples=10
    ).failed


if __name__ == "__main__":
    sys.exit(main())
