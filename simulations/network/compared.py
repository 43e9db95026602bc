"""Compare a study over Flower with the same study in one process."""

from collections.abc import Mapping, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.markup import escape

from secure_afl.cli.terminal import console, say, table
from secure_afl.models.ridge import FederatedRidgeClassifier
from secure_afl.node.site import Folder, kept
from secure_afl.simulations.data.dataset import Dataset
from secure_afl.simulations.data.partition import Part
from secure_afl.simulations.network.laid_out import LaidOut
from secure_afl.sums.aggregation import MaskedAggregator
from secure_afl.sums.encrypted import EncryptedAggregator

if TYPE_CHECKING:
    from secure_afl.models.networks.fedacnnl import FedACnnL


def phase_table(report: Mapping[str, Any]) -> str:
    """The report's phases as a text table; bytes are those of the client with the most."""
    lines = [f"{'phase':<28}{'seconds':>9}{'server CPU s':>14}{'bytes up':>12}{'bytes down':>12}"]
    for one in report["phases"]:
        lines.append(
            f"{one['phase']:<28}{one['seconds']:>9.2f}{one.get('server_cpu_seconds', 0):>14.3f}"
            f"{one.get('bytes_up', 0):>12}{one.get('bytes_down', 0):>12}"
        )
    return "\n".join([*lines, *report["silences"]])


def compare(
    parties: LaidOut, report: Mapping[str, Any], rows: Dataset, parts: Sequence[Part], holders: int
) -> None:
    """Print the difference between the network's model and the one of a single process over the same survivors, and
    their accuracies."""
    terms, study = Folder(parties.server).terms()
    aggregator = (
        MaskedAggregator(terms.policy)
        if terms.encryption is None
        else EncryptedAggregator(
            terms.backend, terms.policy, holders=holders, release=terms.encryption.release.value
        )
    )
    survivors = report["survivors"][-1]
    # As sites contribute them, under disclosure control.
    tables = [
        (study.contributed(Folder(folder).data(study)), part.client)
        for folder, part in zip(parties.clients, parts, strict=True)
        if part.client in survivors
    ]
    X, y = np.vstack([one.X for one, _ in tables]), np.concatenate([one.y for one, _ in tables])
    site = np.concatenate([[name] * len(one.y) for one, name in tables])
    weights_of_rows = [one.weights for one, _ in tables if one.weights is not None]
    given = {"sample_weight": np.concatenate(weights_of_rows)} if weights_of_rows else {}
    here = study.estimator(aggregator).fit(X, y, site, **given)
    weights = here.weights_ if isinstance(here.weights_, list) else [here.weights_]
    there = kept(parties.server, "model.npz")
    apart = max(float(np.abs(a - b).max()) for a, b in zip(weights, there, strict=True))
    say(f"survivors: {escape(', '.join(survivors))}")
    same = f"{apart:.1e} apart" if apart else "the same, bit for bit"
    say(f"weights over the network and in one process: {same}")
    shown = table("accuracy on its own test rows", ("client", "training rows", "everyone's model", "its own"))
    for folder, part in zip(parties.clients, parts, strict=True):
        own = "–"
        if (folder / "personal.npz").exists():
            mine = copy(here)
            mine.weights_ = kept(folder, "personal.npz")
            own = _accuracy(mine, rows, part)
        shown.add_row(escape(part.client), f"{len(part.train):,}", _accuracy(here, rows, part), own)
    console.print(shown)


def _accuracy(model: "FederatedRidgeClassifier | FedACnnL", rows: Dataset, part: Part) -> str:
    """Accuracy on a client's test rows."""
    truth = np.array(rows.classes)[rows.y[part.test]]
    return f"{model.score(rows.X[part.test], truth):.3f}"
