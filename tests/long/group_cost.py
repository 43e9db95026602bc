"""What it costs to group clients by one count, beside groups from second moments, which gave histograms away.

    python tests/long/group_cost.py

prints the table in docs/experiments.md: accuracy of personal models and of the groups' heads on each client's own
test rows. Sums are made in the clear, which gives the same models to the last bit.
"""

import argparse
import dataclasses
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from worlds import weak_groups

from secure_afl.errors import GroupWarning
from secure_afl.models.networks import grouping
from secure_afl.models.networks.network import Network
from secure_afl.models.networks.pfedacnnl import PFedACnnL
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.profile import Trust
from secure_afl.simulations.data.dataset import Ints, load
from secure_afl.simulations.data.partition import partition, stacked
from secure_afl.sums.aggregation import Aggregator, Outcome, PlainAggregator

CASES = (("labels:2", 20), ("labels:3", 50), ("dirichlet:0.1", 20))
GROUPS = 4
# Nobody drops out, so that a group of a fifth of the clients is large enough.
POLICY = Policy(dropout=0.0, backends=frozenset({"plain"}), trusts_reports=Trust.VERIFIED)


class Moments(PFedACnnL):
    """The former groups."""

    def _grouped(
        self, aggregator: Aggregator, held: Mapping[str, Ints], runs: list[grouping.Run], least: int
    ) -> tuple[dict[str, int], list[grouping.Run], Outcome]:
        own = [weak_groups.histogram(indices, self.network.classes) for indices in held.values()]
        groups = weak_groups.assigned(own, len(runs), least, self.seed)
        return dict(zip(held, groups, strict=True)), runs[: max(groups) + 1], Outcome(tuple(held), 0.0, 0)


def accuracies(spec: str, clients: int, seed: int, shuffled: bool) -> dict[str, tuple[float, float]]:
    """For each way to group: accuracy of personal models, and of the heads of groups."""
    data = load("digits")
    parts = partition(data, spec, clients, seed)
    if shuffled:  # classes that occur together are no neighbours
        data = dataclasses.replace(data, y=np.random.default_rng(seed).permutation(len(data.classes))[data.y])
    rows, site = stacked({part.client: part.train for part in parts})
    test, own = stacked({part.client: part.test for part in parts})
    found = {}
    for name, kind, groups in (
        ("one group", PFedACnnL, 1),
        ("second moments", Moments, GROUPS),
        ("one count", PFedACnnL, GROUPS),
    ):
        network = Network((data.X.shape[1],), (), len(data.classes))
        model = kind(
            network, groups=groups, classes=range(len(data.classes)), aggregator=PlainAggregator(POLICY)
        )
        model.fit(data.X[rows], data.y[rows], site)
        personal = float((model.predict(data.X[test], own) == data.y[test]).mean())
        right = 0
        for client, mine in model.personal_.items():
            held = own == client
            scores = model._scores(data.X[test][held], (*model.weights_[:-1], model.heads_[mine.group]))
            right += int((scores.argmax(axis=1) == data.y[test][held]).sum())
        found[name] = personal, right / len(test)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", GroupWarning)
    print("| rows | classes | groups from | personal models | heads of groups |\n|---|---|---|---|---|")
    for spec, clients in CASES:
        for order in ("in order", "shuffled"):
            runs = [accuracies(spec, clients, seed, order == "shuffled") for seed in range(seeds)]
            for name in runs[0]:
                cells = [
                    f"{np.mean(values):.4f} ± {np.std(values):.4f}"
                    for values in zip(*(run[name] for run in runs), strict=True)
                ]
                print(
                    f"| {spec}, {clients} clients | {order} | {name} | {cells[0]} | {cells[1]} |", flush=True
                )


if __name__ == "__main__":
    main()
