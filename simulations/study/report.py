"""What came of a run, in the rows that a terminal and a page show. Loads nothing heavy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from secure_afl.protocol.transport.driver import PhaseCost
from secure_afl.simulations.study.control import sentences

if TYPE_CHECKING:  # NumPy
    from secure_afl.analytic.evaluation import Classified, Measured
    from secure_afl.models.evaluation import Evaluated

KEY_PHASES = (
    *("start", "advertising", "sharing", "confirming"),
    *("key commitments", "key shares", "key announcements", "inviting"),
)


class ClientRow(NamedTuple):
    """One client. rows: to train on; present: whether it is in the sum, or in how many of them; the others are
    accuracies (of a number root mean squared errors) on its own test rows, those on_all on everyone's: None
    without test rows or without such a model.
    """

    name: str
    rows: int
    present: str
    alone: float | None
    together: float | None
    personal: float | None
    alone_on_all: float | None
    personal_on_all: float | None


class LeftRow(NamedTuple):
    """Bytes that one client sent: for the sums, and for keys and their shares."""

    name: str
    sums: int
    keys: int


class PhaseRow(NamedTuple):
    """One phase: medians over clients of bytes and CPU milliseconds, and what the others spent. keys: of the set-up."""

    phase: str
    keys: bool
    up: float
    down: float
    client_ms: float
    server_ms: float
    holder_bytes: int
    holder_ms: float


@dataclass(frozen=True)
class Run:
    """What came of a run. `figures` is what the JSON file holds; `costs` is by phase; `learned` is the common model;
    `session` is its number in hexadecimal digits, empty where nothing was agreed on; `held_out` says how good the model
    is on all clients' test rows, and `evaluated` the same out of a secure sum, where one was asked for.
    """

    figures: dict[str, Any]
    costs: Mapping[str, PhaseCost]
    refusals: Sequence[Exception]
    learned: Any = None
    session: str = ""
    held_out: "Classified | Measured | None" = None
    evaluated: "Evaluated | None" = None

    @property
    def survivors(self) -> list[list[str]]:
        """Survivors of each sum."""
        survivors = self.figures["survivors"]
        return [survivors] if self.figures["rounds"] == 1 else survivors

    @property
    def encrypted(self) -> bool:
        """Whether key holders took part."""
        return "encryption" in self.figures

    @property
    def numeric(self) -> bool:
        """Whether a number was learned, and no classes."""
        return "rmse" in self.figures

    @property
    def scores(self) -> dict[str, Any]:
        """Accuracies, or of a number root mean squared errors."""
        scores: dict[str, Any] = self.figures["rmse" if self.numeric else "accuracy"]
        return scores

    @property
    def measure(self) -> str:
        """What the scores are."""
        unit = self.figures["unit"]
        return f"root mean squared error{unit and f' ({unit})'}" if self.numeric else "accuracy"

    def shown(self, score: float | None) -> str:
        """A score as text; a dash for none."""
        return "–" if score is None else f"{score:.4g}" if self.numeric else f"{score:.3f}"

    @property
    def personal(self) -> bool:
        """Whether each client has a model of its own."""
        return "personal" in self.scores

    def clients(self) -> list[ClientRow]:
        """A row for each client, in the order of their names."""
        accuracy = self.scores
        return [
            ClientRow(
                name,
                self.figures["rows"][name],
                self._presence(name),
                accuracy["alone"].get(name),
                accuracy["together_by_client"].get(name),
                accuracy.get("personal_by_client", {}).get(name),
                accuracy["alone_on_all"].get(name),
                accuracy.get("personal_on_all", {}).get(name),
            )
            for name in self.figures["clients"]
        ]

    def means(self) -> dict[str, float | None]:
        """Mean accuracies of alone, together and personal on own test rows, weighted by clients' test rows."""
        weights = self.figures["test_rows"]
        found: dict[str, float | None] = {}
        for model in ("alone", "together", "personal"):
            scores = [(getattr(one, model), weights[one.name]) for one in self.clients()]
            known = [(score, weight) for score, weight in scores if score is not None]
            if len(known) < sum(
                1 for name in weights if weights[name]
            ):  # a mean over others compares nothing
                found[model] = None
                continue
            total, power = (
                sum(weight for _, weight in known),
                2 if self.numeric else 1,
            )  # RMSE: mean of squares
            mean = sum(score**power * weight for score, weight in known) / total if total else None
            found[model] = None if mean is None else float(mean ** (1 / power))
        return found

    def left(self) -> list[LeftRow]:
        """What each client sent, in the order of their names."""
        plain = self.figures["bytes"]["upload_per_client"]
        return [
            LeftRow(
                name,
                sum(cost.up.get(at, 0) for phase, cost in self.costs.items() if phase not in KEY_PHASES)
                if self.costs
                else plain * (any(name in one for one in self.survivors)),
                sum(cost.up.get(at, 0) for phase, cost in self.costs.items() if phase in KEY_PHASES),
            )
            for at, name in enumerate(self.figures["clients"])
        ]

    def phases(self) -> list[PhaseRow]:
        """Those with costs to show, in the order of the protocol."""
        return [
            PhaseRow(
                phase,
                phase in KEY_PHASES,
                middle(cost.up),
                middle(cost.down),
                1e3 * middle(cost.client_seconds),
                1e3 * cost.server_seconds,
                cost.holder_bytes,
                1e3 * cost.holder_seconds,
            )
            for phase, cost in self.costs.items()
            if phase not in ("start", "opened")
        ]

    def agreement(self) -> list[str]:
        """What the parties agreed on, a sentence for each kind of session."""
        said = []
        if encryption := self.figures.get("encryption"):
            said.append(
                "{parameter_set}, {key_holders} key holder(s), releasing the {released}; up to {values_per_round:,} "
                "values a sum, {fraction_bits} fraction bits".format(**encryption)
            )
        if chosen := self.figures.get("parameters"):
            borne = chosen["dropouts_borne"]
            said.append(
                "{profile} server, {suite} keys, ".format(**self.figures)
                + "{neighbours} neighbours, threshold {threshold}".format(**chosen)
                + ("" if borne is None else f" (dropouts borne: {borne})")
                + "; up to {values_per_round:,} values a sum, {word_bytes} bytes each, {fraction_bits} fraction bits".format(
                    **chosen
                )
            )
        return said

    def summary(self) -> dict[str, str]:
        """The results in a line each, by name."""
        figures = self.figures
        scores, sizes, seconds = self.scores, figures["bytes"], figures["seconds"]
        proven = (
            ", of noise"
            if figures["privacy"]
            else ""
            if figures["certificate"] is None
            else ", {certificate:.1e} proven (certificate)".format(**figures)
        )
        lines = {
            f"{'RMSE' if self.numeric else 'accuracy'}, all test rows": (
                f"together {self.shown(scores['together'])}, pooled in the clear {self.shown(scores['pooled_plain'])}"
                + (f" {figures['unit']}" if self.numeric else "")
            ),
            "secure and integer sum": self.identical(),
            "distance to pooled weights": "{weight_difference:.1e} measured".format(**figures) + proven,
            "a client uploads": "{upload_per_client:,} bytes (float64: {plain_float64_per_client:,}); keys "
            "{key_exchange_per_client:,}".format(**sizes),
            "CPU seconds": "client {client:.4f}, server {server:.4f}, in the clear {plain:.6f}".format(
                **seconds
            )
            + (", key holders {key_holders:.4f}".format(**seconds) if self.encrypted else ""),
        }
        if told := sentences(figures):
            lines["disclosure control"] = "; ".join(told)
        if private := figures["privacy"]:
            lines["differential privacy"] = (
                "ε = {epsilon:g}, δ = {delta:g} for every row, whoever sees the model; needs {fewest_survivors} clients "
                "in the sum, {not_counted_on} of them not trusted to add noise; rows of norm up to {row_norm:g}".format(
                    **private
                )
            )
        if "groups" in figures:
            groups = ", ".join(map(str, figures["groups"]))
            lines["personal models"] = (
                f"{scores['personal']:.3f} on own test rows; clients by group: {groups}"
            )
        return lines

    def identical(self) -> str:
        """Whether the secure sum is that of the clients' integers, or why that was not compared."""
        figures = self.figures
        if figures["sums_bit_identical"] is not None:
            return "equal, bit for bit" if figures["sums_bit_identical"] else "DIFFERENT"
        if figures["backend"] == "plain":
            return "not compared: nothing is masked"
        if figures["privacy"]:
            return "not compared: the sum has noise that only the clients know"
        if figures["encryption"]["released"] == "weights":
            return "not compared: the key holder released the weights only"
        return "not compared: CKKS is approximate"

    def _presence(self, client: str) -> str:
        present = sum(client in survivors for survivors in self.survivors)
        if self.figures["rounds"] == 1:
            return "yes" if present else "no"
        return f"{present} of {len(self.survivors)}"


def middle(values: Mapping[int, float]) -> float:
    """The median over clients; 0 without any."""
    return float(median(values.values())) if values else 0.0
