"""pFedACnnL: a common network, and from it a personal model for every client (arXiv 2502.06915).

The hidden layers and the head (or one head for each group of clients with similar labels) come from masked sums. Each
client then fits its own head (`personal_head`) by itself; nothing leaves the client for that.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from secure_afl.analytic.statistics import Matrix
from secure_afl.errors import DataError, GroupWarning
from secure_afl.models.estimator import feature_names, parse_integer
from secure_afl.models.networks import grouping
from secure_afl.models.networks.encoder import Encoder
from secure_afl.models.networks.encoders import coded
from secure_afl.models.networks.fedacnnl import HEADS, Coordinator, FedACnnL, Learner, Training
from secure_afl.models.networks.grid import Weights, on_weight_grid
from secure_afl.models.networks.network import Fourier
from secure_afl.models.networks.stream import beside, refined_head
from secure_afl.models.personal import Adapted, Local
from secure_afl.models.personal_head import own_head
from secure_afl.sums.aggregation import Aggregator, Outcome, warn_of_dropouts

ADAPTED = ("head", "all")


@dataclass(frozen=True, eq=False)
class Personal:
    """A client's personal model, which never leaves it. weights: of its own network; group: its index; layers: the result
    for each adapted layer, the head last; stream: cosines beside the head's inputs, if the client took them (`refine`).
    """

    weights: tuple[Weights, ...]
    group: int
    layers: tuple[Adapted, ...]
    stream: Fourier | None = None


@dataclass(eq=False, repr=False, kw_only=True)
class PFedACnnL(FedACnnL):
    """`FedACnnL`, plus a network for every site, adapted to the site's own rows.

    Parameters
    ----------
    groups : number of heads; 1: one head for all sites. With more, the classes in their order are cut into as many
        runs, and a site belongs to the run that holds most of its rows: so list classes that occur together side by
        side. The server learns the number of sites in each run. A group too small to hide a site joins a neighbour,
        with a `GroupWarning`. More than 1 depends on the server's report of a sum: under the active profile the
        policy must say `Trust.VERIFIED`, or `Trust.ANY` for encrypted sums. All sums must then have the same survivors.
    adapt : "head", the default; or "all", which also adapts hidden layers, if the encoder trains them by least
        squares (spatial, replicated, mixed).
    refine : True lets each site put cosines of the head's inputs beside them in its own head where its leave-one-out
        errors are then no more (`secure_afl/models/networks/stream.py`). Nothing is sent for it.
    The other parameters are those of `FedACnnL`; privacy and other heads than ridge are refused.

    Attributes
    ----------
    personal_ : site name → `Personal`; in a real federation each client has only its own.
    heads_ : the groups' heads; groups_ : the run of labels of each (all labels if there is one group).
    A pickled estimator contains all of these. The attributes of `FedACnnL` describe the common network, which
    `predict` uses unless sites are given.
    """

    groups: int = 1
    adapt: str = "head"
    refine: bool = False

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike, site: npt.ArrayLike) -> "PFedACnnL":
        """Like `FedACnnL.fit`; then every site, even a dropout, adapts the network to its rows.

        Warns (`GroupWarning`) if fewer groups remain than requested.
        """
        groups, columns = parse_integer("groups", self.groups), feature_names(X)
        parsed, learners = self._begin(X, y, site)
        aggregator = self._ask()
        names = list(learners)
        # So many may drop out of the last sum, all from one group, that the group is still large enough.
        absent = aggregator.policy.dropouts(len(names))
        least = aggregator.policy.least_survivors(len(names)) + absent
        survivors = len(names) - absent
        if groups > 1 and groups * least > len(names):
            raise DataError(
                f"expected at most {max(1, len(names) // least)} groups of {len(names)} clients, got {groups}: a group "
                f"needs {least}, so that its sum still hides each of them when {absent} drop out"
            )
        runs = grouping.runs(self.network.classes, groups)
        coordinator = self._coordinator(groups, survivors)
        counted = [grouping.plan(groups, survivors)] if groups > 1 else []
        aggregator.open(names, [*counted, *coordinator.plan(self.max_rows, len(names))])

        held = {name: parsed.places[rows] for name, rows in parsed.sites.items()}
        outcomes: list[Outcome] = []
        mine = dict.fromkeys(held, 0)
        if groups > 1:
            # From here on each client knows its group, and no other party does.
            mine, runs, counts = self._grouped(aggregator, held, runs, least)
            outcomes.append(counts)
        training = Training(
            aggregator, coordinator, learners, self.data_set, self._given(), first=len(counted)
        )
        while not training.at_head:
            training.next_layer()
        if groups > 1:
            slots = {
                name: (_in_slot(vector, mine[name], groups), data_set)
                for name, (vector, data_set) in training.contributions().items()
            }
            last = training.sum(slots)
            common, heads = coordinator.heads(last.total, last.entry_error)
            training.layers.append(common)
        else:
            training.head()
            heads = training.layers[-1:]
        outcomes += training.outcomes
        warn_of_dropouts(names, outcomes)
        hidden = training.layers[:-1]
        personal = {
            name: self._adapted(
                parsed.X[rows], parsed.places[rows], learners[name], coordinator, hidden, heads, mine[name]
            )
            for name, rows in parsed.sites.items()
        }
        self._learnt(parsed.classes, training.layers, outcomes, coordinator)
        self._with_names(columns)
        self.heads_, self.personal_ = heads, personal
        self.groups_ = [tuple(parsed.classes[list(run)].tolist()) for run in runs]
        return self

    def decision_function(
        self, X: npt.ArrayLike, site: npt.ArrayLike | None = None
    ) -> npt.NDArray[np.float64]:
        """Scores (rows, classes): by the common network, or with `site` (rows,) by each row's site's own network."""
        if site is None:
            return super().decision_function(X)
        features, names = self._features(X), np.asarray(site).astype(np.str_)
        if names.shape != (len(features),):
            raise DataError(f"expected a site for each of {len(features)} rows, got shape {names.shape}")
        if strangers := sorted(set(names.tolist()) - self.personal_.keys()):
            raise DataError(f"expected sites that took part, got {strangers[0]}")
        scores = np.zeros((len(features), self.network.classes))
        for name in np.unique(names):
            rows = names == name
            scores[rows] = self._own_scores(features[rows], self.personal_[str(name)])
        return scores

    def predict(self, X: npt.ArrayLike, site: npt.ArrayLike | None = None) -> npt.NDArray[Any]:
        """The label of each row, see `decision_function`."""
        return self._labels(self.decision_function(X, site))

    def _own_scores(self, features: Matrix, own: Personal) -> Matrix:
        if own.stream is None:
            return self._scores(features, own.weights)
        learner = self._learner(features, np.zeros(len(features), np.int64), "the rows to predict")
        learner.install_all(own.weights[:-1])
        return beside(learner.rows(self.network.trained[-1]), own.stream) @ own.weights[-1]

    def _check(self) -> None:
        super()._check()
        if self.privacy is not None:
            raise DataError("expected no privacy: the sums for personal networks have no noise")
        if self.head != HEADS[0]:
            raise DataError("expected a ridge head, around which the sites' own heads are fitted")
        if self.adapt not in ADAPTED:
            raise DataError(f"expected adapt as {' or '.join(ADAPTED)}, got {self.adapt!r}")
        if not isinstance(self.refine, bool):
            raise DataError(f"expected refine as True or False, got {self.refine!r}")
        encoder = Encoder(self.encoder)
        if self.adapt == "all" and encoder not in (Encoder.SPATIAL, Encoder.REPLICATED, Encoder.MIXED):
            raise DataError(
                f"the hidden layers of encoder {self.encoder!r} do not come from least squares, so they cannot be adapted: "
                "use spatial, replicated or mixed, or adapt the head"
            )

    def _grouped(
        self,
        aggregator: Aggregator,
        held: Mapping[str, npt.NDArray[np.int64]],
        runs: list[grouping.Run],
        least: int,
    ) -> tuple[dict[str, int], list[grouping.Run], Outcome]:
        """Each client's group, the groups' classes, and the sum that counted clients. held: the class of each row."""
        own = {name: grouping.own(places, runs) for name, places in held.items()}
        counts = aggregator.sum(
            0, {name: (grouping.count(run, len(runs)), self.data_set) for name, run in own.items()}
        )
        joined = grouping.joined(np.rint(counts.total), least)  # CKKS gives counts with noise
        groups = [
            tuple(place for run, at in zip(runs, joined, strict=True) if at == group for place in run)
            for group in range(max(joined) + 1)
        ]
        if len(groups) < len(runs):
            warnings.warn(
                f"{len(runs)} groups were requested and {len(groups)} remain: a group needs {least} clients, so that "
                "its sum still hides each of them when some drop out",
                GroupWarning,
                stacklevel=3,
            )
        return {name: joined[run] for name, run in own.items()}, groups, counts

    def _adapted(
        self,
        X: Matrix,
        places: npt.NDArray[np.int64],
        learner: Learner,
        coordinator: Coordinator,
        layers: Sequence[Weights],
        heads: Sequence[Weights],
        group: int,
    ) -> Personal:
        """One client's own network; `learner` is ready for the common head."""
        own, found = list(layers), []
        if self.adapt == "all":
            learner = self._learner(X, places, "this client")
            for number, known in enumerate(self.network.trained[:-1]):
                trained = coded(Encoder(self.encoder), known, self.network.classes)
                if trained:
                    factors = coordinator.scales[known.at][-trained:]
                    adapted = Local(
                        learner.rows(known), learner.targets(known) * factors, layers[number][:, -trained:]
                    ).choose()
                    found.append(adapted)
                    own[number] = on_weight_grid(
                        np.hstack([layers[number][:, :-trained], adapted.weights]), known.limit
                    )
                learner.install(known, own[number])
        head = self.network.trained[-1]
        given = learner.rows(head), learner.targets(head), heads[group], places
        adapted, stream = refined_head(*given, int(self.seed)) if self.refine else (own_head(*given), None)
        return Personal((*own, adapted.weights), group, (*found, adapted), stream)


def _in_slot(vector: Matrix, group: int, groups: int) -> Matrix:
    """`vector` in its group's slot, zeros in the other slots; under masks all slots look alike."""
    slots = np.zeros((groups, len(vector)))
    slots[group] = vector
    return slots.ravel()
