"""What masks cost: the same networks trained under masks and in the clear, on one client's critical path."""

from collections.abc import Callable
from dataclasses import asdict
from statistics import median
from typing import Any

from rich.table import Table

from secure_afl.cli.terminal import table
from secure_afl.protocol.session.backend import Backend
from secure_afl.simulations.benchmarks.masking import machine
from secure_afl.simulations.experiments.analytic import train
from secure_afl.simulations.experiments.links import Link
from secure_afl.simulations.experiments.one_core import one_core
from secure_afl.simulations.experiments.problems import PROBLEMS

_PROBLEM, _REPEATS = "mnist-mlp", 3
DROPOUTS = (0.0, 0.2)


def steps() -> int:
    """How often `measure` calls `watch`."""
    return 2 * _REPEATS * len(DROPOUTS) * len(PROBLEMS[_PROBLEM].networks)


def measure(link: Link, watch: Callable[[str], None]) -> dict[str, Any]:
    """Medians over repeats that alternate between masks and none."""
    one_core()
    problem, records = PROBLEMS[_PROBLEM], []
    data, parts = problem.rows(0)
    for title, (network, encoder, ridge) in problem.networks.items():
        for dropout in DROPOUTS:
            runs: dict[Backend, list[dict[str, Any]]] = {Backend.MASK: [], Backend.PLAIN: []}
            for _ in range(_REPEATS):
                for backend, found in runs.items():
                    watch(f"{title}, {backend}, {dropout:.0%} dropouts")
                    outcome = train(
                        data,
                        parts,
                        network,
                        ridge=ridge,
                        encoder=encoder,
                        seed=0,
                        dropout=dropout,
                        backend=backend,
                    )
                    account = outcome.account
                    found.append(asdict(account) | {"network_seconds": account.network_seconds(link)})
            for backend, found in runs.items():
                phases = [run.pop("phases") for run in found]
                middle = {key: median(run[key] for run in found) for key in found[0]}
                middle["phases"] = {
                    name: [median(one[name][side] for one in phases) for side in (0, 1)] for name in phases[0]
                }
                middle["compute_seconds"] = middle["learning_seconds"] + middle["protocol_seconds"]
                records.append(
                    {"network": title, "dropout": dropout, "backend": backend, "clients": len(parts)} | middle
                )
    return {"experiment": "security", "machine": machine(), "link": asdict(link), "records": records}


def tables(figures: dict[str, Any]) -> list[Table]:
    """A row for each network and dropout fraction: masked, in the clear, and the ratio; then where the seconds are."""
    return [_ratios(figures), _parts(figures)]


def _pairs(figures: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Records under masks, each with that of the same training in the clear."""
    return list(zip(figures["records"][::2], figures["records"][1::2], strict=True))


def _ratios(figures: dict[str, Any]) -> Table:
    records = figures["records"]
    shown = table(
        f"Masked against plain float64, {records[0]['clients']} clients, active server; seconds of the critical "
        f"path with clients at work at the same time, {Link(**figures['link'])}",
        (
            "network",
            "dropouts",
            "compute s",
            "ratio",
            "network s",
            "ratio",
            "together",
            "least",
            "MB up",
            "ratio",
        ),
    )
    for masked, plain in _pairs(figures):
        both = [(masked[key], plain[key]) for key in ("compute_seconds", "network_seconds", "bytes_up")]
        total = [sum(pair) for pair in zip(*both[:2], strict=True)]
        (compute, compute_plain), (network, network_plain), (up, up_plain) = both
        shown.add_row(
            masked["network"],
            f"{masked['dropout']:.0%}",
            f"{compute:.2f} / {compute_plain:.2f}",
            f"{compute / compute_plain:.2f}",
            f"{network:.2f} / {network_plain:.2f}",
            f"{network / network_plain:.2f}",
            f"{total[0] / total[1]:.2f}",
            f"{(compute_plain + network) / total[1]:.2f}",
            f"{up / 1e6:.2f} / {up_plain / 1e6:.2f}",
            f"{up / up_plain:.2f}",
        )
    return shown


_PHASES = {
    "keys": ("start", "advertising", "sharing", "confirming"),
    "encoding, masks | checking signatures, adding": ("collecting",),
    "consents": ("consenting",),
    "shares | removing masks": ("unmasking",),
    "checking the sum | giving it out": ("answering",),
}


def _parts(figures: dict[str, Any]) -> Table:
    """A row for each part of what masks add, a column for each network."""
    link, pairs = Link(**figures["link"]), [pair for pair in _pairs(figures) if not pair[0]["dropout"]]
    shown = table(
        "Milliseconds that masks add, without dropouts: slowest client | server, or the network",
        ("part", *(masked["network"] for masked, _ in pairs)),
    )
    columns = [_added(masked, plain, link) for masked, plain in pairs]
    for name in columns[0]:
        shown.add_row(name, *(column[name] for column in columns))
    return shown


def _added(masked: dict[str, Any], plain: dict[str, Any], link: Link) -> dict[str, str]:
    """Parts by name. Those of the network can be below 0, as uploads are shorter under masks."""
    computing = {
        name: [1e3 * sum(masked["phases"].get(one, (0, 0))[side] for one in phases) for side in (0, 1)]
        for name, phases in _PHASES.items()
    }
    trips = masked["round_trips"] - masked["key_trips"] - plain["round_trips"]
    network = {
        "wait for keys, beyond clients' work": max(
            0.0, link.seconds(0, 0, masked["key_trips"]) - masked["ahead_seconds"]
        ),
        "round trips for consents and shares": link.seconds(0, 0, trips),
        "bytes up": link.seconds(masked["bytes_up"] - plain["bytes_up"], 0, 0),
        "bytes down, with the sum to check": link.seconds(0, masked["bytes_down"] - plain["bytes_down"], 0),
    }
    return {name: f"{client:.0f} | {server:.0f}" for name, (client, server) in computing.items()} | {
        name: f"{1e3 * seconds:+.0f}" for name, seconds in network.items()
    }
