"""What the check of a sum costs a client: its CPU time for a session of one sum, and its bytes, with tags and without.

    python tests/long/verified_cost.py --clients 50 --values 1000000
    python tests/long/verified_cost.py --clients 50 --values 1000000 --bits 24 --check replay --sessions 1

One client is measured, the first of its roster; the others and the server run beside it. Its time is that of setting up,
upload, consent, reveal and the check of the sum, each message's decoding in it, as `time.process_time` has it; the median of several sessions.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from worlds.cohorts import EVERY_PROFILE, World, world

from secure_afl.protocol.masking.client import MaskingClient
from secure_afl.protocol.masking.server import MaskingServer
from secure_afl.protocol.session.parameters import Parameters, SumPlan, SumWanted
from secure_afl.protocol.session.profile import Verify

T = TypeVar("T")
PHASES = ("set-up", "upload", "consent", "reveal", "check")


class Clock:
    """Seconds of CPU and bytes of one client, by phase."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.up = dict.fromkeys(PHASES, 0)
        self.down = dict.fromkeys(PHASES, 0)

    def take(self, phase: str, step: Callable[[], T]) -> T:
        started = time.process_time()
        came = step()
        self.seconds[phase] += time.process_time() - started
        return came


def session(here: World, parameters: Parameters, values: np.ndarray) -> Clock:
    """One session of one sum; the measured client is the first."""
    server, clock = MaskingServer(parameters, here.roster), Clock()
    clients = {index: here.client(index) for index in parameters.cohort}

    def answers(outbox: dict[int, bytes], phase: str = "") -> None:
        for index, data in outbox.items():
            if phase == "check" and index:
                break  # the others' checks cost the same, and no phase follows
            answer = answered(clients[index], data, phase if index == 0 else "")
            server.receive(index, answer)

    def answered(client: MaskingClient, data: bytes, phase: str) -> bytes:
        def step() -> bytes:
            said = client.receive(data)
            if isinstance(said, SumWanted):
                return client.contribute(said, values, parameters.session.hex())
            return said

        if not phase:
            return step()
        frame = clock.take(phase, step)
        clock.down[phase] += len(data)
        clock.up[phase] += len(frame)
        return frame

    answers(dict(server.start()), "set-up")
    answers(dict(server.advance()), "set-up")
    answers(dict(server.advance()), "set-up")
    server.advance()
    answers(dict(server.open_round(0)), "upload")
    answers(dict(server.advance()), "consent")
    answers(dict(server.advance()), "reveal")
    server.result()
    if parameters.verify is not Verify.NONE:
        answers(dict(server.advance()), "check")
    return clock


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--values", type=int, default=10**6)
    parser.add_argument("--bits", type=int, nargs="+", default=[16, 24, 44])
    parser.add_argument("--sessions", type=int, default=5)
    parser.add_argument("--check", type=Verify, choices=[Verify.TAGS, Verify.REPLAY], default=Verify.TAGS)
    args = parser.parse_args()
    values = np.random.default_rng(0).uniform(-100, 100, args.values)
    for bits in args.bits:
        clocks: dict[Verify, list[Clock]] = {one: [] for one in (Verify.NONE, args.check)}
        for _ in range(args.sessions):
            for verify, some in clocks.items():  # by turns, so that a busy machine meets both
                here = world(args.clients)
                here.policy = EVERY_PROFILE
                parameters = here.propose()
                here.plan = [SumPlan("sum 0", args.values, 100.0, bits)]
                parameters = Parameters.propose(
                    here.roster,
                    here.plan,
                    profile=parameters.profile,
                    suite=parameters.suite,
                    degree=parameters.degree,
                    threshold=parameters.threshold,
                    verify=verify,
                )
                here.policy = type(EVERY_PROFILE)(
                    profiles=EVERY_PROFILE.profiles, suites=EVERY_PROFILE.suites, verify=frozenset(Verify)
                )
                some.append(session(here, parameters, values))
        width = parameters.rounds[0].width
        print(f"{args.clients} clients, {args.values} values of {width} bytes; ms of CPU, bytes up and down")
        totals = {}
        for verify, some in clocks.items():
            ms = {phase: 1e3 * statistics.median(one.seconds[phase] for one in some) for phase in PHASES}
            totals[verify] = sum(ms.values()), sum(some[0].up.values()), sum(some[0].down.values())
            shown = ", ".join(f"{phase} {spent:.1f}" for phase, spent in ms.items())
            print(
                f"  {verify.value:6} {totals[verify][0]:7.1f} ({shown}); up {totals[verify][1]}, down {totals[verify][2]}"
            )
        with_, without = totals[args.check], totals[Verify.NONE]
        print(
            f"  ratio {with_[0] / without[0]:.3f}; up + {with_[1] - without[1]}, down + {with_[2] - without[2]}"
        )


if __name__ == "__main__":
    main()
