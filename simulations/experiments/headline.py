"""How long each method trains and how well: FedACnnL and pFedACnnL under masks against gradient methods.

One process runs all parties one after another. Compute is the critical path, as if clients computed at the same
time; the network is computed from bytes and round trips by a stated `Link`. Training time is their sum.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from math import sqrt
from statistics import fmean, stdev
from typing import Any

from rich.table import Table

from secure_afl.cli.terminal import table
from secure_afl.simulations.baselines.harness import History, clients_of
from secure_afl.simulations.baselines.masked import masked_fedavg
from secure_afl.simulations.baselines.methods import METHODS
from secure_afl.simulations.baselines.settings import TUNED
from secure_afl.simulations.benchmarks.masking import machine
from secure_afl.simulations.experiments.analytic import Outcome, train
from secure_afl.simulations.experiments.links import Link
from secure_afl.simulations.experiments.one_core import one_core
from secure_afl.simulations.experiments.problems import PROBLEMS, Problem

Record = dict[str, Any]
_ALONE = ("local", "centralized")  # nothing is exchanged
DROPOUTS = (0.0, 0.2)
MASKED = "fedavg, masked"
_WITH_DROPOUTS = ("fedavg",)  # the other baselines run without


def steps(names: Sequence[str], seeds: int) -> int:
    """How often `measure` calls `watch`."""
    return seeds * sum(
        len(METHODS) + 1 - len(problem.left_out) + len(_WITH_DROPOUTS) + len(DROPOUTS) * len(problem.networks)
        for problem in (PROBLEMS[name] for name in names)
    )


def measure(names: Sequence[str], seeds: int, link: Link, watch: Callable[[str], None]) -> dict[str, Any]:
    """All figures, a record for each problem, method, dropout fraction and seed, with its curve."""
    one_core()
    records = [
        record
        for name in names
        for seed in range(seeds)
        for record in _of_seed(name, PROBLEMS[name], seed, link, watch)
    ]
    return {
        "experiment": "headline",
        "machine": machine(),
        "link": asdict(link),
        "seeds": seeds,
        "records": records,
    }


def _of_seed(
    name: str, problem: Problem, seed: int, link: Link, watch: Callable[[str], None]
) -> list[Record]:
    data, parts = problem.rows(seed)
    clients, model, records = clients_of(data, parts), problem.model(), []
    for method, fit in METHODS.items():
        if method in problem.left_out:
            continue
        for dropout in DROPOUTS if method in _WITH_DROPOUTS else DROPOUTS[:1]:
            watch(f"{name}, {method}, seed {seed}")
            settings = replace(TUNED[method, name], dropout=dropout)
            history = fit(clients, model, settings, seed, lambda point: None)
            records.append(of_history(history, link) | {"dropout": dropout})
    if MASKED not in problem.left_out:
        watch(f"{name}, {MASKED}, seed {seed}")
        history = masked_fedavg(clients, model, TUNED["fedavg", name], seed, lambda point: None)
        records.append(of_history(history, link) | {"dropout": 0.0})
    for title, (network, encoder, ridge) in problem.networks.items():
        for dropout in DROPOUTS:
            watch(f"{name}, fedacnnl ({title}), seed {seed}")
            outcome = train(data, parts, network, ridge=ridge, encoder=encoder, seed=seed, dropout=dropout)
            records += [one | {"dropout": dropout} for one in of_outcome(outcome, title, link)]
    return [{"problem": name, "seed": seed} | record for record in records]


def of_history(history: History, link: Link) -> Record:
    """The record of a gradient method's training."""
    trips, first = (0, 0) if history.method in _ALONE else (history.trips, history.first_trips)
    points, curve = history.points, []
    ahead = min(points[0].compute_seconds, link.seconds(0, 0, first))  # clients work while they exchange keys
    for point in points:
        network = link.seconds(point.bytes_up, point.bytes_down, first + trips * point.round) - ahead
        curve.append((point.compute_seconds + network, point.accuracy))
    last = points[-1]
    return {
        "method": history.method,
        "personal": history.personal,
        "accuracy": history.accuracy,
        "compute_seconds": last.compute_seconds,
        "network_seconds": curve[-1][0] - last.compute_seconds,
        "bytes_up": last.bytes_up,
        "bytes_down": last.bytes_down,
        "curve": curve,
    }


def of_outcome(outcome: Outcome, title: str, link: Link) -> list[Record]:
    """The records of the common network and of the personal ones, named by `title`."""
    account = outcome.account
    network = account.network_seconds(link)
    common = account.learning_seconds + account.protocol_seconds
    found = []
    for method, accuracy, compute in (
        ("fedacnnl", outcome.accuracy, common),
        ("pfedacnnl", outcome.personal, common + account.adapting_seconds),
    ):
        found.append(
            {
                "method": f"{method} ({title})",
                "personal": method == "pfedacnnl",
                "accuracy": accuracy,
                "compute_seconds": compute,
                "network_seconds": network,
                "protocol_seconds": account.protocol_seconds,
                "bytes_up": account.bytes_up,
                "bytes_down": account.bytes_down,
                "curve": [(compute + network, accuracy)],
            }
        )
    return found


# ---- what is printed -----------------------------------------------------------------------------


def reached(record: Record, target: float) -> float | None:
    """Seconds of training until this accuracy is measured first, None if it is not."""
    return next((seconds for seconds, accuracy in record["curve"] if accuracy >= target), None)


def tables(figures: dict[str, Any]) -> list[Table]:
    """One table a problem, from the records alone."""
    names = dict.fromkeys(record["problem"] for record in figures["records"])
    return [_table(name, figures) for name in names]


def _table(name: str, figures: dict[str, Any]) -> Table:
    records = [record for record in figures["records"] if record["problem"] == name]
    targets = {
        record["seed"]: record["accuracy"]
        for record in records
        if (record["method"], record["dropout"]) == ("fedavg", 0.0)
    }
    shown = table(
        f"{PROBLEMS[name].title}; {figures['seeds']} seeds; seconds of the critical path, {Link(**figures['link'])}",
        (
            "method",
            "dropouts",
            "accuracy %",
            "ours − it",
            "compute s",
            "network s",
            "to FedAvg's accuracy",
            "saved by ours",
        ),
    )
    shown.columns[0].no_wrap = True
    kinds = dict.fromkeys((record["personal"], record["method"], record["dropout"]) for record in records)
    for personal in (False, True):
        of = {
            kind[1:]: [r for r in records if (r["personal"], r["method"], r["dropout"]) == kind]
            for kind in kinds
            if kind[0] == personal
        }
        ours = max(
            (kind for kind in of if "fedacnnl" in kind[0] and not kind[1]),
            key=lambda kind: fmean(r["accuracy"] for r in of[kind]),
        )
        for kind, mine in of.items():
            gain = "" if kind == ours else paired(of[ours], mine)
            shown.add_row(*_row(*kind, mine, gain, records, targets))
        shown.add_section()
    return shown


def _row(
    method: str,
    dropout: float,
    mine: Sequence[Record],
    gain: str,
    records: Sequence[Record],
    targets: dict[int, float],
) -> tuple[str, ...]:
    times = [reached(record, targets[record["seed"]]) for record in mine]
    if mine[0]["personal"] or method == "centralized":
        to_target = ""
    elif all(time is not None for time in times):
        to_target = f"{fmean(time for time in times if time is not None):.2f} s"
    else:
        to_target = f"not by {sum(time is None for time in times)} of {len(times)}"
    return (
        method,
        f"{dropout:.0%}",
        spread([100 * record["accuracy"] for record in mine], 2),
        gain,
        f"{fmean(record['compute_seconds'] for record in mine):.2f}",
        f"{fmean(record['network_seconds'] for record in mine):.2f}",
        to_target,
        _saved(mine, records),
    )


def _saved(mine: Sequence[Record], records: Sequence[Record]) -> str:
    """How much less training time the first of our networks takes than this method's whole schedule, and the
    last of them: from the smallest to the largest.
    """
    if "fedacnnl" in mine[0]["method"] or mine[0]["method"] in _ALONE:
        return ""
    shares = []
    for title in dict.fromkeys(r["method"] for r in records if "fedacnnl" in r["method"]):
        ours = [
            r
            for r in records
            if (r["method"], r["personal"], r["dropout"]) == (title, mine[0]["personal"], 0.0)
        ]
        if ours:
            shares.append(1 - fmean(map(total, ours)) / fmean(map(total, mine)))
    return " / ".join(f"{share:.0%}" for share in shares)


def total(record: Record) -> float:
    return float(record["compute_seconds"] + record["network_seconds"])


def spread(values: Sequence[float], digits: int) -> str:
    """Mean and, from two values on, standard deviation."""
    if len(values) < 2:
        return f"{values[0]:.{digits}f}"
    return f"{fmean(values):.{digits}f} ± {stdev(values):.{digits}f}"


def difference(values: Sequence[float], digits: int = 2) -> str:
    """Mean of paired differences and, from two on, its standard error."""
    error = f" ± {stdev(values) / sqrt(len(values)):.{digits}f}" if len(values) > 1 else ""
    return f"{fmean(values):+.{digits}f}{error}"


def paired(ours: Sequence[Record], theirs: Sequence[Record]) -> str:
    """By how many points ours are more accurate, seed by seed."""
    of_seed = {one["seed"]: one["accuracy"] for one in theirs}
    return difference([100 * (one["accuracy"] - of_seed[one["seed"]]) for one in ours])
