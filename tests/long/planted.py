"""The table of planted flaws: which property of the verification kit finds each, on several seeds; and the sound one.

    python tests/long/planted.py --seeds 5 --sound 50 --log planted.jsonl

Every result is a line of the log at once; what stands there is not run again, so an interrupted run goes on. Runs go
seed by seed: every flaw on the first one, with a part of the sound runs, then all on the next. Ends with exit code 1 if a
flaw was missed or the sound aggregator failed a property.
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
    parser.add_argument("--log", type=Path, default=Path("planted.jsonl"), help="results, a line each")
    given = parser.parse_args()
    lines = given.log.read_text().splitlines() if given.log.exists() else []
    results = {(one["system"], one["seed"]): one for one in map(json.loads, lines)}
    with given.log.open("a") as log:
        for kind, seed in runs(given.seeds, given.sound):
            if (kind.__name__, seed) not in results:
                one = results[kind.__name__, seed] = result(kind, seed)
                print(json.dumps(one), file=log, flush=True)
                print(
                    f"{kind.__name__}, seed {seed}: {', '.join(one['failed']) or 'nothing'} failed",
                    flush=True,
                )
    return shown(results, given.seeds, given.sound)


def runs(seeds: int, sound: int) -> Iterator[tuple[type[Sound], int]]:
    """Flaws on each seed, and between seeds the sound runs in equal parts."""
    for seed in range(1, seeds + 1):
        yield from ((kind, seed) for kind in flawed.FLAWS)
        yield from ((Sound, one) for one in range(1 + sound * (seed - 1) // seeds, 1 + sound * seed // seeds))


def result(kind: type[Sound], seed: int) -> dict[str, Any]:
    """Check one system: a flawed one by the property that must find it, and its cause; the sound one by all."""
    only = [kind.found_by] if issubclass(kind, flawed.Flawed) else None
    started = time.process_time()
    report = check_aggregator(kind, only=only, on_fail="collect", seconds=PATIENCE, seed=seed, examples=10)
    seconds = round(time.process_time() - started, 2)
    return {"system": kind.__name__, "seed": seed, "failed": report.failed, "seconds": seconds}


def shown(results: dict[tuple[str, int], dict[str, Any]], seeds: int, sound: int) -> int:
    """Print the table; the exit code."""
    print("\n| flaw | property | found on seeds | CPU seconds at most |\n|---|---|---|---|")
    missed = 0
    for kind in flawed.FLAWS:
        mine = [results[kind.__name__, seed] for seed in range(1, seeds + 1)]
        found = sum(kind.found_by in one["failed"] for one in mine)
        missed += seeds - found
        most = max(one["seconds"] for one in mine)
        print(f"| {kind.__name__} | `{kind.found_by}` | {found} of {seeds} | {most:.1f} |")
    count = len(flawed.FLAWS) * seeds
    print(f"\n{count - missed} of {count} found")
    runs = [results[Sound.__name__, seed] for seed in range(1, sound + 1)]
    alarms = [one for one in runs if one["failed"]]
    for one in alarms:
        print(f"seed {one['seed']}: {', '.join(one['failed'])} failed")
    if runs:
        mean = sum(one["seconds"] for one in runs) / len(runs)
        print(f"sound: {len(alarms)} false alarms in {sound} runs, {mean:.1f} s of CPU each")
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB of memory at most")
    return int(bool(missed or alarms))


if __name__ == "__main__":
    sys.exit(main())
