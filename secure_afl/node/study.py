"""A study as a file: what is learned from which columns, and how sums leave a site. Every party has the same one.

TOML. Each party derives from its own copy the sums that it agrees to, so a server that asks for others is refused:

    backend = "mask"                        # or "bfv+mask", "bfv", "ckks"
    features = ["age", "pressure"]          # columns of each site's table
    label = "disease"
    classes = ["0", "1"]
    max_rows = 1000                         # of one site

    [ridge]                                 # parameters of `FederatedRidgeClassifier`
    column_bounds = [120.0, 300.0]

or, with a codebook (`secure_afl.tables.codebook`) in place of features, label, classes and bounds:

    backend = "mask"
    codebook = "codebook.toml"              # beside the study; or its content as the table [codebook]
    max_rows = 1000
    rows_per_column = 10                    # optional: sites give nothing unless the pooled rows, which a first sum
                                            # counts, are as many for each column (docs/disclosure.md)
    [ridge]
    class_weight = "balanced"               # optional: every class counts alike, by the sum of counts (docs/codebook.md)

or, in the place of `[ridge]`, the parameters of `FedACnnL`:

    [fedacnnl]
    input_shape = [1, 8, 8]                 # of one row of the table, which is divided by `scale` first
    layers = [["Conv", 8, 3], ["ReLU"]]     # names and numbers as in `secure_afl.models.networks.network`
    scale = 16.0
    encoder = "seeded"                      # one sum; the others of `secure_afl.models.networks.encoders` take one a layer

    [fedacnnl.backbone]                     # optional: a frozen network that makes the rows (docs/extending.md)
    file = "net.onnx"                       # in each site's folder; the server needs none
    sha256 = "9c2f…"
    input_shape = [3, 224, 224]             # of a sample, which is divided by `scale`; that of [fedacnnl] is then the features'

A study of a network can leave out `features`: each site's table is then an .npz file with the array X of samples and one of
labels, which has the name that `label` says.

or, with a codebook, a regression of two classes or of a count (docs/regression.md), whose later sums follow from earlier ones
that the server announces, so that policies must say `trusts_reports = "verified"` (with backend bfv or ckks: "any"):

    [logistic]                              # or [poisson]
    steps = 25                              # the most gradient sums
    ridge = 0.0

A part of each site's rows can be held out of the model, to say how good it is (docs/disclosure.md):

    held_out = 0.2                          # with masks; not with noise or networks; a codebook can mark the rows instead

The sum can be kept, so that a later session changes it by rows that come in or leave (docs/changed-rows.md):

    keeps_sum = true                        # with [ridge] and masks; not with noise, held_out, counts of rows first
    continues = "0123…"                     # in later sessions: the number of the one before

A codebook's `least_rows` holds at each site (docs/disclosure.md), but not with noise.

With exact sums, differential privacy by noise that the clients add (docs/privacy.md):

    [privacy]
    epsilon = 1.0
    delta = 1e-6
"""

import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import msgspec
import numpy as np
import numpy.typing as npt

from secure_afl.analytic.privacy import Privacy
from secure_afl.crypto.kdf import Label, digest
from secure_afl.errors import ColumnWarning, DataError, DropoutWarning, SolveError
from secure_afl.node import changes, held_out, samples
from secure_afl.protocol.files import whole
from secure_afl.protocol.homomorphic.agreement import Encryption, Release
from secure_afl.protocol.session.backend import SECURE, Backend
from secure_afl.protocol.session.backend import parse as parse_backend
from secure_afl.protocol.session.errors import FileError, LocalProtocolError, PolicyError
from secure_afl.protocol.session.parameters import SumPlan, VerifiedSum
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.profile import Trust
from secure_afl.protocol.session.roster import Roster
from secure_afl.tables import codebook as codebooks
from secure_afl.tables.codebook import LEAST_ROWS, Codebook, Target
from secure_afl.tables.disclosure import Layout, Waves, categories, control_waves, holds, indicators
from secure_afl.tables.terms import row_norm, terms

if TYPE_CHECKING:  # scikit-learn and torch are loaded where a model is made
    from secure_afl.models.glm import FederatedLogisticRegression, FederatedPoissonRegression
    from secure_afl.models.networks.fedacnnl import FedACnnL
    from secure_afl.models.ridge import FederatedRidge, FederatedRidgeClassifier
    from secure_afl.sums.aggregation import Aggregate, Aggregator
    from secure_afl.sums.counted import Counts, Telling

    Linear = (
        FederatedRidge | FederatedRidgeClassifier | FederatedLogisticRegression | FederatedPoissonRegression
    )

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.str_] | npt.NDArray[np.float64]
"""Classes by name, or numbers."""


class Rows(NamedTuple):
    """A site's rows, as its table has them or as it contributes them.

    X: (rows, features); y: (rows,); weights: (rows,), None without; name: of the data set; marks: (rows,), those that the
    codebook holds out, None where it has no condition for that.
    """

    X: Floats
    y: Labels
    weights: Floats | None = None
    name: str = ""
    marks: Mask | None = None

    def __repr__(self) -> str:  # no value of a row, wherever this is printed
        return f"{type(self).__name__}({len(self.X)} rows of {self.name!r})"

    def some(self, at: Any) -> Self:
        """The rows of these numbers, or of this mask."""
        weights, marks = (None if part is None else part[at] for part in (self.weights, self.marks))
        return self._replace(X=self.X[at], y=self.y[at], weights=weights, marks=marks)


_MOST_ROUNDS = 1000  # of a study: each is a sum
_ROUNDING = 1e-6  # of a layer's largest weight, by which two machines' solutions may differ


class Ridge(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`FederatedRidgeClassifier`, without what the study says already."""

    row_norm: float | None = None
    column_bounds: tuple[float | tuple[float, float], ...] | None = None
    ridge: float | str = 1e-3  # or "gcv"
    rounds: int = 1
    class_weight: Literal["", "balanced"] = ""

    def __post_init__(self) -> None:
        if not 1 <= self.rounds <= _MOST_ROUNDS:
            raise DataError(f"expected rounds from 1 to {_MOST_ROUNDS}, got {self.rounds}")


class Deep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`FedACnnL`, without what the study says already."""

    input_shape: tuple[int, ...]
    layers: tuple[tuple[str | int | float | bool, ...], ...]
    scale: float = 1.0
    ridge: float = 3e-3
    seed: int = 0
    encoder: str = "seeded"
    # Unset is not in the digest of a study.
    backbone: samples.Frozen | msgspec.UnsetType = msgspec.UNSET


class Regression(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`FederatedLogisticRegression` or `FederatedPoissonRegression`, without what the study says already."""

    steps: int = 25
    ridge: float = 0.0


class Study(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What all studies have; see the module, and `RidgeStudy` and `NetworkStudy` for the two models.

    release: what key holders give away, "sum" or "weights"; empty is weights for CKKS, else sums. codebook: says features,
    label and classes, which are then its own.

    Raises `DataError` or `LocalProtocolError` for contradictory settings.
    """

    backend: Backend
    features: tuple[str, ...] = ()
    label: str = ""
    classes: tuple[str, ...] = ()
    max_rows: int
    release: str = ""
    privacy: Privacy | None = None
    codebook: Codebook | None = None
    purpose: str = ""
    held_out: float = 0.0
    keeps_sum: bool = False
    continues: str = ""

    def __post_init__(self) -> None:
        held_out.check(self)
        if self.codebook:
            self._follow(self.codebook)
        columns = [*self.features, self.label]
        measured = self.codebook is not None and not self.codebook.classes
        if (
            not (self.features or self.arrays)
            or len(set(columns)) < len(columns)
            or (len(set(self.classes)) < 2 and not measured)
        ):
            raise DataError("expected features and a label without repeats, and at least two classes")
        parse_backend(self.backend, SECURE)
        changes.check(self)
        if self.privacy and not self.backend.exact:
            raise DataError("expected [privacy] with exact sums: backend mask, bfv or bfv+mask, got ckks")
        _ = self.encryption

    def _follow(self, codebook: Codebook) -> None:
        """Take what a codebook says."""
        if self.features or self.label or self.classes:
            raise DataError("expected a codebook, or features, label and classes, got both")
        said = {
            "features": tuple(term.name for term in terms(codebook)),
            "label": codebook.outcome.column,
            "classes": codebook.classes,
        }
        for name, value in said.items():
            msgspec.structs.force_setattr(self, name, value)

    @property
    def arrays(self) -> bool:
        """Whether sites have arrays of samples in place of tables with columns."""
        return False

    @property
    def columns(self) -> tuple[str, ...]:
        """What is read at a site, besides labels."""
        return (
            tuple(self.codebook.columns) if self.codebook else self.features or (f"array {samples.SAMPLES}",)
        )

    @property
    def max_weight(self) -> float | None:
        """The largest weight of a row; None where rows have no weights."""
        return self.codebook.weights.largest if self.codebook and self.codebook.weights else None

    @property
    def tests(self) -> bool:
        """Whether rows are held out of the model, to say how good it is."""
        return bool(self.held_out or (self.codebook and self.codebook.held_out))

    @property
    def digest(self) -> bytes:
        """Digest of the file's content and the codebook; the same at every party that has the same study."""
        codebook = self.codebook.text if self.codebook else ""
        # Sorted, so that the order of a file's lines does not count; but that of levels and columns does.
        said = msgspec.json.encode(self, order="sorted")
        return digest(Label.STUDY, self.model.encode(), said, codebook.encode())

    @property
    def least_rows(self) -> int:
        """The fewest rows of a level under disclosure control; 1 switches it off."""
        return holds(self.codebook, private=self.privacy is not None)

    def check_policy(self, policy: Policy) -> None:
        """Raises `PolicyError` if a policy asks for more protection of categories than the study has."""
        if self.tests:
            held_out.check_policy(policy)
        if self.keeps_sum:
            changes.check_policy(policy)
        guarded = self.privacy or (self.encryption and self.encryption.release is Release.WEIGHTS)
        if policy.guards_categories and self.codebook and Layout.of(self.codebook).variables and not guarded:
            raise PolicyError(
                'the policy asks for noise, or for encrypted sums with release = "weights", where a table has categories '
                "(guards_categories), and this study opens exact sums: agree on [privacy] or on another backend"
            )

    @property
    def agreement(self) -> str:
        """What every sum's name says of the study, so that no session mixes parties of two studies."""
        return f"study {self.digest.hex()[:24]}"

    @property
    def waves(self) -> int:
        """Over how many sums a site's rows are dealt."""
        return 1

    @property
    def weighs_classes(self) -> bool:
        """Whether rows count by their classes."""
        return False

    def prepared(self, rows: Rows, folder: Path) -> Rows:
        """A site's rows as `vector` takes them. folder: the site's. Raises `DataError`."""
        return rows

    def controlled(self, rows: Rows) -> Waves:
        """What a site contributes of its rows to the model, and how it codes them. Raises `DataError` for too few rows."""
        X, y = rows.X, rows.y
        learned = np.flatnonzero(~held_out.chosen(self, len(X), rows.marks))
        if not self.codebook or self.least_rows == 1:
            return Waves(X, learned, ())
        classes = (y[learned, None] == np.array(self.classes)).argmax(axis=1) if self.classes else None
        layout = replace(Layout.of(self.codebook), weighed=self.weighs_classes)
        found = control_waves(X[learned], layout, classes, self.least_rows, self.waves)
        coded = X.copy()
        coded[learned] = found.X
        return Waves(coded, learned[found.kept], found.found)

    def contributed(self, rows: Rows) -> Rows:
        """The rows that a site contributes, as it codes them. Raises `DataError` for too few."""
        found = self.controlled(rows)
        coded = rows._replace(X=found.X)
        # Of a long table nothing is copied.
        return coded if len(found.kept) == len(found.X) else coded.some(found.kept)

    @property
    def encryption(self) -> Encryption | None:
        """How sums are encrypted; None for masks alone."""
        if self.backend.encrypted:
            return Encryption.of(self.backend, self.release or None)
        if self.release:
            raise DataError("expected release for encrypted sums only: masks have no key holders")
        return None

    @property
    def model(self) -> str:
        """The table of the file that has the model's parameters."""
        return next(name for name, kind in MODELS.items() if isinstance(self, kind))

    @abstractmethod
    def estimator(self, aggregator: "Aggregator | None" = None) -> "Linear | FedACnnL":
        """The model, not yet learned."""

    @abstractmethod
    def plan(self, clients: int) -> tuple[SumPlan, ...]:
        """The sums of a session. Raises `DataError` for parameters of the model that do not fit."""

    @abstractmethod
    def vector(self, number: int, rows: Rows, who: str, learned: Sequence[Floats] = ()) -> Floats:
        """What one site puts into the sum of that number, under disclosure control where that holds. Raises `DataError`.

        rows: as in its table; learned: the layers that came of the sums before, where they are needed.
        """

    @property
    def counts(self) -> "Counts | None":
        """What is asked of the pooled rows before anything but their number leaves; None for nothing."""
        return None

    def check_before(self, number: int, learned: Sequence[Floats]) -> None:
        """Raises `PolicyError` if the first sum counted too few rows for this one, or the server announced nothing of it."""
        if self.counts is None or number == 0:
            return
        if not learned:
            raise PolicyError(
                "expected the counts of the pooled rows before other sums, the server announced none"
            )
        self.counts.check(learned[0][0])

    def trust(self, clients: int) -> Trust:
        """The least `trusts_reports` of policies that take part."""
        if not any(one.trusts_server for one in self.plan(clients)):
            return Trust.NONE
        return Trust.VERIFIED if self.backend.masked else Trust.ANY

    def check_verified(
        self, verified: Mapping[int, VerifiedSum], learned: Sequence[Floats]
    ) -> Sequence[Floats]:
        """What a party goes on from, in place of what the server announced. Raises `PolicyError` if this does not follow from
        the sums that the party accepted, one that it was not given included.

        verified: all accepted sums by their numbers; learned: what was announced.
        """
        if self.counts is not None and learned:
            _check_same(0, verified, np.rint, learned[0][0])
        return learned

    @property
    def known_ahead(self) -> int:
        """How many sums, from the first one on, take vectors that follow from a site's rows alone."""
        return 1

    @abstractmethod
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Shapes of what the server announces: (1, 1 + classes) of counts, where there are any; then (1 + inputs, outputs) of the
        weights of each layer.
        """

    @abstractmethod
    def learn(self, aggregator: "Telling", clients: Sequence[str]) -> tuple[list[Floats], Any]:
        """The server's side: the model's weights, and the fitted estimator, whose `rounds_` say what is known of each sum."""

    def follow(
        self, verified: Mapping[int, VerifiedSum], clients: Roster, layers: Sequence[Floats]
    ) -> tuple[list[Floats], Any]:
        """The model that follows from the sums that a party accepted, and its fitted estimator.

        layers: the server's model. Raises `PolicyError` if it is another, but for rounding, or if a sum is missing.
        """
        own, fitted = self.recalled(verified, clients)
        # What two machines' roundings may make of a system that is all but singular; the party keeps its own.
        certified = getattr(getattr(fitted, "certificate_", None), "rounding", 0.0)
        for number, (mine, server) in enumerate(zip(own, layers, strict=True), 1):
            apart = max(_ROUNDING * abs(mine).max(), 2 * certified if number == len(own) else 0.0)
            if not np.allclose(mine, server, rtol=0, atol=apart):
                raise PolicyError(
                    "expected the model that follows from the sums that this party verified, the server's is another"
                    + (f" (layer {number} of {len(own)})" if len(own) > 1 else "")
                )
        return own, fitted

    def recalled(self, verified: Mapping[int, VerifiedSum], clients: Roster) -> tuple[list[Floats], Any]:
        """The model that follows from accepted sums, and its fitted estimator. Raises `PolicyError` if there is none."""
        from secure_afl.sums.recalled import Recalled

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DropoutWarning)  # of sums that the party saw
                warnings.simplefilter("ignore", ColumnWarning)  # which the model file says
                names = [member.name for member in clients.members]
                return self.learn(Recalled(verified, clients), names)
        except SolveError as error:
            raise PolicyError(
                f"expected a model that follows from the sums that this party verified, which give none: {error}"
            ) from None

    def check_layers(self, layers: Sequence[Floats]) -> None:
        """Raises `DataError` for layers of a network that some rows might fail on, or that are not the seed's."""

    def adapts(self, layers: Sequence[Floats], announced: bytes) -> bool:
        """Whether a site fits a head of its own to a model. announced: its layers that the server announced."""
        return False

    def personal_head(self, rows: Rows, who: str, layers: Sequence[Floats]) -> Floats:
        """A site's own head of a network, from its own rows and everybody's layers; else the model's."""
        return layers[-1]

    def unpacked(self, data: bytes) -> list[Floats]:
        """The first layers of the study's model, or all, out of what `packed` gives. Raises `DataError` for anything else."""
        layers, at = [], 0
        for shape in self.shapes():
            size = 8 * prod(shape)
            if at + size > len(data):
                break
            layers.append(np.frombuffer(data[at : at + size], "<f8").astype(np.float64).reshape(shape))
            at += size
        if at != len(data):
            sizes = ", ".join(str(8 * prod(shape)) for shape in self.shapes())
            raise DataError(
                f"expected a model of layers of {sizes} bytes, or the first of them, got {len(data)} bytes"
            )
        if not all(np.isfinite(layer).all() for layer in layers):
            raise DataError("expected a model of finite weights, got one with NaN or infinity")
        return layers

    def result(self, data: bytes) -> tuple[list[Floats], bytes]:
        """The layers at the end of a session, and the model file after them, empty where there is none; see `unpacked`."""
        size = sum(8 * prod(shape) for shape in self.shapes())
        if self.tabular:
            return self.unpacked(data[:size]), data[size:]
        return self.unpacked(data), b""

    def largest_result(self, members: Sequence[str]) -> int:
        """Bytes of the longest result of the study over a roster of these names: its layers and its model file."""
        weights = sum(8 * prod(shape) for shape in self.shapes())
        if not self.tabular:
            return weights
        from secure_afl.tables.terms import terms

        assert self.codebook is not None
        names = sum(len(one.name) + 8 for one in terms(self.codebook))
        who = len(self.plan(len(members))) * sum(len(one) + 8 for one in members)
        # Coefficients in two units, and twice more with standard errors; JSON within JSON, 12 bytes a character at most.
        return 5 * (weights + 4096) + 12 * (len(self.codebook.text) + names + who + 4096)

    @property
    def tabular(self) -> bool:
        """Whether there is a model file: of a linear model of columns that a codebook describes."""
        return self.codebook is not None and not isinstance(self, NetworkStudy)

    def check_announced(self, data: bytes) -> None:
        """Raises `DataError` unless these are hidden layers that can have come of sums, whatever is in the rows."""
        layers = self.unpacked(data)
        if len(layers) == len(self.shapes()):
            raise DataError(f"expected some of {len(layers) - 1} hidden layers, got a whole model")
        self.check_layers(layers)


class RidgeStudy(Study, frozen=True, kw_only=True):
    """A study with `[ridge]`."""

    ridge: Ridge
    rows_per_column: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rows_per_column < 0:
            raise DataError(
                f"expected rows_per_column of 0 (not asked for) or more, got {self.rows_per_column}"
            )
        released = self.encryption is None or self.encryption.release is Release.SUM
        counted = "rows_per_column" if self.rows_per_column else self.ridge.class_weight and "class_weight"
        if counted and (self.privacy or not released or self.ridge.rounds > 1):
            raise DataError(
                f"expected {counted} with sums that are exact, opened and one a study, got it with [privacy], release "
                "weights or several rounds: leave it out"
            )
        if self.ridge.class_weight and not self.classes:
            raise DataError("expected classes as outcome with class_weight, got a number: leave it out")
        if self.codebook and (self.ridge.row_norm, self.ridge.column_bounds) != (None, None):
            raise DataError(
                "expected bounds of the codebook, got row_norm or column_bounds in [ridge] besides"
            )
        if self.privacy and self.max_weight:
            raise DataError("expected rows without weights with [privacy], got weights in the codebook")

    def estimator(
        self, aggregator: "Aggregator | None" = None, counts: Floats | None = None
    ) -> "FederatedRidge | FederatedRidgeClassifier":
        """counts: pooled rows of each class (classes,), where sites weigh rows by them; else all weights are 1."""
        from secure_afl.models.ridge import FederatedRidge, FederatedRidgeClassifier

        common: dict[str, Any] = {
            "row_norm": row_norm(self.codebook) if self.codebook else self.ridge.row_norm,
            "column_bounds": self.ridge.column_bounds,
            "ridge": self.ridge.ridge,
            "rounds": self.ridge.rounds,
            "privacy": self.privacy,
            "max_rows": self.max_rows,
            "max_weight": self.max_weight,
            "agreement": self.agreement,
            "indicators": indicators(self.codebook, self.backend),
            "aggregator": aggregator,
        }
        if self.codebook and isinstance(self.codebook.outcome, Target):
            return FederatedRidge(target_bounds=self.codebook.outcome.range, **common)
        if self.ridge.class_weight:
            # The largest is 1, a public bound; a common factor changes no model.
            weights = np.ones(len(self.classes)) if counts is None else counts.min() / counts
            common["class_weight"] = dict(zip(self.classes, weights.tolist(), strict=True))
        return FederatedRidgeClassifier(classes=self.classes, **common)

    @property
    def counts(self) -> "Counts | None":
        from secure_afl.sums.counted import Counts

        if not self.rows_per_column and not self.ridge.class_weight:
            return None
        rows = max(1, self.rows_per_column * (1 + len(self.features)))
        least = self.codebook.least_rows if self.codebook else LEAST_ROWS
        return Counts(rows, least, self.classes, self.max_rows, self.agreement)

    def plan(self, clients: int) -> tuple[SumPlan, ...]:
        plan = tuple(self.estimator().plan(self.features, clients))
        if self.continues:
            return (changes.plan(self, plan[0], clients),)
        return (*(self.counts.plan(plan) if self.counts else plan), *held_out.plan(self, clients))

    @property
    def waves(self) -> int:
        return self.ridge.rounds

    @property
    def weighs_classes(self) -> bool:
        return bool(self.ridge.class_weight)

    @property
    def known_ahead(self) -> int:
        return 1 if self.ridge.class_weight else self.ridge.rounds + (self.counts is not None)

    def vector(self, number: int, rows: Rows, who: str, learned: Sequence[Floats] = ()) -> Floats:
        own = self.contributed(rows)
        if self.counts is None:
            return self.estimator().vector(own.X, own.y, who, number, own.weights)
        if number == 0:
            return self.counts.of(own.y)
        pooled = learned[0][0, 1:] if self.ridge.class_weight else None
        return self.estimator(counts=pooled).vector(own.X, own.y, who, number - 1, own.weights)

    def shapes(self) -> tuple[tuple[int, int], ...]:
        weights = (1 + len(self.features), len(self.classes) or 1)
        return ((1, 1 + len(self.classes)), weights) if self.counts else (weights,)

    def check_layers(self, layers: Sequence[Floats]) -> None:
        if self.counts and layers:
            self.counts.check_form(layers[0][0])

    def learn(self, aggregator: "Telling", clients: Sequence[str]) -> tuple[list[Floats], Any]:
        planned = held_out.planned(self, aggregator, len(clients))
        if self.counts is None:
            ridge = self.estimator(planned).fit_elsewhere(clients, self.features)
            return [ridge.weights_], ridge
        from secure_afl.sums.counted import Counted

        counted = Counted(planned, self.counts)
        ridge = self.estimator(counted).fit_elsewhere(clients, self.features)
        return [counted.counts[None, :], ridge.weights_], ridge


class NetworkStudy(Study, frozen=True, kw_only=True):
    """A study with `[fedacnnl]`."""

    fedacnnl: Deep

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.classes:
            raise DataError("expected classes as the outcome of the codebook for a network, got a number")
        if self.tests:
            raise DataError(
                "expected no held_out with [fedacnnl], got it: sites count for a model that they computed from checked sums, and "
                "of a network they compute the head alone (docs/disclosure.md)"
            )
        if self.max_weight:
            raise DataError("expected rows without weights for a network, got weights in the codebook")
        if self.codebook and self.fedacnnl.backbone:
            raise DataError("expected no codebook with [fedacnnl.backbone], which takes numbers as they are")
        if not self.arrays and prod(self._sample) != len(self.features):
            raise DataError(
                f"expected {prod(self._sample)} features for the input shape, got {len(self.features)}"
            )
        if not 0 < self.fedacnnl.scale < np.inf:
            raise DataError(f"expected a scale above 0, got {self.fedacnnl.scale}")

    @property
    def arrays(self) -> bool:
        return not self.features and self.codebook is None

    @property
    def _sample(self) -> tuple[int, ...]:
        """The shape of what a site has of one row."""
        backbone = self.fedacnnl.backbone
        return backbone.input_shape if backbone else self.fedacnnl.input_shape

    def read_arrays(self, file: Path, *, labelled: bool = True) -> tuple[npt.NDArray[Any], Labels]:
        """Samples and labels of an .npz file; labelled=False: without labels. Raises `DataError`."""
        largest = None if self.fedacnnl.backbone else self.fedacnnl.scale
        return samples.read(file, self.label if labelled else "", self.classes, self._sample, largest)

    def scores(self, X: npt.NDArray[Any], layers: Sequence[Floats], folder: Path) -> Floats:
        """(rows, classes) of samples as a file has them, by the layers that a party kept; folder: with the backbone, if the
        study names one. Raises `DataError`, also for layers of another network and another backbone.
        """
        rows = self._prepared(Rows(X, np.empty(0, np.str_)), folder, keep=False).X
        model, divisor = self.estimator(), self._divisor
        parts = [model.scores(block / divisor, layers) for _, block in samples.blocks(rows)]
        return np.vstack([np.empty((0, len(self.classes))), *parts])

    def prepared(self, rows: Rows, folder: Path) -> Rows:
        return self._prepared(rows, folder, keep=True)

    def _prepared(self, rows: Rows, folder: Path, *, keep: bool) -> Rows:
        deep = self.fedacnnl
        if not deep.backbone:
            return rows
        features = prod(deep.input_shape)
        return rows._replace(X=deep.backbone.rows(rows.X, deep.scale, features, folder, keep=keep))

    @property
    def _divisor(self) -> float:
        """Of prepared rows; a backbone's samples are divided already."""
        return 1.0 if self.fedacnnl.backbone else self.fedacnnl.scale

    def estimator(self, aggregator: "Aggregator | None" = None) -> "FedACnnL":
        from secure_afl.models.networks import network
        from secure_afl.models.networks.fedacnnl import FedACnnL

        deep = self.fedacnnl
        layers = tuple(network.parse_layer(layer) for layer in deep.layers)
        return FedACnnL(
            network.Network(deep.input_shape, layers, len(self.classes)),
            encoder=deep.encoder,
            ridge=deep.ridge,
            seed=deep.seed,
            privacy=self.privacy,
            classes=self.classes,
            max_rows=self.max_rows,
            agreement=self.agreement,
            aggregator=aggregator,
        )

    def plan(self, clients: int) -> tuple[SumPlan, ...]:
        return tuple(self.estimator().plan(clients))

    def vector(self, number: int, rows: Rows, who: str, learned: Sequence[Floats] = ()) -> Floats:
        if len(learned) != number:
            raise DataError(f"expected the layers of {number} sums before this one, got {len(learned)}")
        own, model, divisor = self.contributed(rows), self.estimator(), self._divisor
        if self.privacy or not self.arrays:
            return model.vector(own.X / divisor, own.y, who, learned)
        # The same bits, with few rows as numbers of eight bytes at a time.
        parts = samples.blocks(own.X)
        given = ((block / divisor, own.y[start : start + len(block)]) for start, block in parts)
        return model.streamed_vector(given, who, learned)

    def shapes(self) -> tuple[tuple[int, int], ...]:
        return tuple((1 + known.inputs, known.outputs) for known in self.estimator().network.trained)

    def learn(self, aggregator: "Telling", clients: Sequence[str]) -> tuple[list[Floats], Any]:
        network = self.estimator(aggregator).fit_elsewhere(
            clients, lambda layers, survivors: aggregator.tell(packed(layers), survivors)
        )
        return network.weights_, network

    def check_layers(self, layers: Sequence[Floats]) -> None:
        self.estimator().check_layers(layers)

    def check_verified(
        self, verified: Mapping[int, VerifiedSum], learned: Sequence[Floats]
    ) -> Sequence[Floats]:
        numbers = range(len(learned))
        if lacking := [number for number in numbers if number not in verified]:
            raise PolicyError(
                f"expected sum {lacking[0]} as this party accepted it, the server announced a layer of one that it was not given "
                "to check"
            )
        return self.estimator().follow(learned, [verified[number].total for number in numbers])

    def adapts(self, layers: Sequence[Floats], announced: bytes) -> bool:
        return self.fedacnnl.encoder == "seeded" or packed(layers[:-1]) == announced

    def personal_head(self, rows: Rows, who: str, layers: Sequence[Floats]) -> Floats:
        return self.estimator().personal_head(rows.X / self._divisor, rows.y, who, layers)


class RegressionStudy(Study, frozen=True, kw_only=True):
    """A study with `[logistic]` or `[poisson]`: the server announces every opened sum but the last, and each site computes
    from them by itself which one comes next.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.codebook is None:
            raise DataError(f"expected a codebook with [{self.model}], got features and a label")
        if self.privacy:
            raise DataError(
                f"expected no [privacy] with [{self.model}]: noise of each of its sums moves the points of later ones, and no "
                "accounting over them is offered"
            )
        if self.encryption and self.encryption.release is Release.WEIGHTS:
            raise DataError(
                f'expected release = "sum" with [{self.model}]: its steps follow from opened sums'
            )

    @property
    def regression(self) -> Regression:
        """The table of the file."""
        found: Regression = getattr(self, self.model)
        return found

    @abstractmethod
    def estimator(
        self, aggregator: "Aggregator | None" = None
    ) -> "FederatedLogisticRegression | FederatedPoissonRegression": ...

    def _common(self, aggregator: "Aggregator | None") -> dict[str, Any]:
        assert self.codebook is not None
        return {
            "row_norm": row_norm(self.codebook),
            "steps": self.regression.steps,
            "ridge": self.regression.ridge,
            "least_rows": self.least_rows,
            "categories": categories(self.codebook),
            "max_rows": self.max_rows,
            "max_weight": self.max_weight,
            "agreement": self.agreement,
            "aggregator": aggregator,
        }

    def plan(self, clients: int) -> tuple[SumPlan, ...]:
        return (*self.estimator().plan(self.features, clients), *held_out.plan(self, clients))

    def vector(self, number: int, rows: Rows, who: str, learned: Sequence[Floats] = ()) -> Floats:
        own = self.contributed(rows)
        return self.estimator().respond(own.X, own.y, who, number, _accepted(learned), own.weights)

    def check_verified(
        self, verified: Mapping[int, VerifiedSum], learned: Sequence[Floats]
    ) -> Sequence[Floats]:
        for number, announced in _accepted(learned).items():
            _check_same(number, verified, np.asarray, announced.total)
            if number == 0 and announced.entry_error != verified[0].entry_error:
                raise PolicyError(
                    f"expected the error {verified[0].entry_error:g} of an entry, which the agreed encoding has, the server "
                    f"announced {announced.entry_error:g}"
                )
        return learned

    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Shapes of the first sum with its error, of all other sums, and of the coefficients. Sums that were not needed are zeros."""
        moments, *others = self.estimator().plan(self.features, 2)
        sums = ((1, moments.length + 1), *((1, one.length) for one in others))
        return (*sums, (1 + len(self.features), 1))

    def check_layers(self, layers: Sequence[Floats]) -> None:
        *sums, weights = layers
        if len(layers) < len(self.shapes()):
            return
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ColumnWarning)  # which the model file says
                fitted = self.estimator().fit_sums(self.features, _accepted(sums))
        except SolveError as error:
            raise DataError(
                f"expected a model that follows from the announced sums, which give none: {error}"
            ) from None
        if not np.allclose(fitted.weights_, weights, rtol=1e-6, atol=1e-9):
            raise DataError(
                "expected the model that follows from the announced sums, the server's is another"
            )

    def learn(self, aggregator: "Telling", clients: Sequence[str]) -> tuple[list[Floats], Any]:
        announcing = _Announcing(held_out.planned(self, aggregator, len(clients)), self.regression.steps)
        fitted = self.estimator(announcing).fit_elsewhere(clients, self.features)
        *sums, _ = self.shapes()
        layers = [announcing.layers.get(number, np.zeros(shape)) for number, shape in enumerate(sums)]
        return [*layers, fitted.weights_], fitted


class LogisticStudy(RegressionStudy, frozen=True, kw_only=True):
    """A study with `[logistic]`."""

    logistic: Regression

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.classes) != 2:
            raise DataError(
                f"expected two classes as the codebook's outcome with [logistic], got {len(self.classes) or 'a number'}"
            )

    def estimator(self, aggregator: "Aggregator | None" = None) -> "FederatedLogisticRegression":
        from secure_afl.models.glm import FederatedLogisticRegression

        return FederatedLogisticRegression(classes=self.classes, **self._common(aggregator))


class PoissonStudy(RegressionStudy, frozen=True, kw_only=True):
    """A study with `[poisson]`."""

    poisson: Regression

    def __post_init__(self) -> None:
        super().__post_init__()
        outcome = self.codebook and self.codebook.outcome
        if not isinstance(outcome, Target) or outcome.range[0] < 0:
            raise DataError(
                "expected a number with a range from 0 on as the codebook's outcome with [poisson]"
            )

    def estimator(self, aggregator: "Aggregator | None" = None) -> "FederatedPoissonRegression":
        from secure_afl.models.glm import FederatedPoissonRegression

        assert self.codebook is not None
        assert isinstance(self.codebook.outcome, Target)
        return FederatedPoissonRegression(
            largest_count=self.codebook.outcome.range[1], **self._common(aggregator)
        )


def _check_same(
    number: int, verified: Mapping[int, VerifiedSum], read: Callable[[Floats], Floats], announced: Floats
) -> None:
    """Raises `PolicyError` unless this sum was announced as the party accepted it. read: what is announced of a sum."""
    if number not in verified or not np.array_equal(read(verified[number].total), announced):
        got = "another" if number in verified else "one that it was not given to check"
        raise PolicyError(f"expected sum {number} as this party accepted it, the server announced {got}")


def _accepted(layers: Sequence[Floats]) -> "dict[int, Aggregate]":
    """Announced sums by their numbers. The first one's last entry is its error, which says what columns can be told from
    constants. Raises `DataError` for an error below 0.
    """
    from secure_afl.sums.aggregation import Aggregate

    accepted = {}
    for number, (layer,) in enumerate(layers):
        total, error = (layer[:-1], float(layer[-1])) if number == 0 else (layer, 0.0)
        if error < 0:
            raise DataError(f"expected an entry error of a sum, the server announced {error:g}")
        accepted[number] = Aggregate((), error, len(total), total)
    return accepted


class _Announcing:
    """An aggregator that announces each opened sum to those in it, but the last one, of number steps + 1.

    layers: opened sums by their numbers, one row each; the first has its error behind it.
    """

    def __init__(self, inner: "Telling", steps: int) -> None:
        self.backend, self.policy = inner.backend, inner.policy
        self.layers: dict[int, Floats] = {}
        self._inner, self._steps = inner, steps

    def open(self, clients: Sequence[str], plan: Sequence[SumPlan]) -> None:
        self._inner.open(clients, plan)

    def sum(self, number: int, contributions: Any) -> "Aggregate":
        one = self._inner.sum(number, contributions)
        error = [one.entry_error] if number == 0 else []
        self.layers[number] = np.concatenate([one.total, error])[None, :]
        if number <= self._steps:
            self._inner.tell(packed(list(self.layers.values())), one.survivors)
        return one

    def solve(self, number: int, contributions: Any) -> Any:
        return self._inner.solve(number, contributions)


MODELS: dict[str, type[Study]] = {
    "ridge": RidgeStudy,
    "logistic": LogisticStudy,
    "poisson": PoissonStudy,
    "fedacnnl": NetworkStudy,
}


def packed(layers: Sequence[Floats]) -> bytes:
    """A model's weights as they travel: little-endian float64, row by row, layer by layer."""
    return b"".join(layer.astype("<f8").tobytes() for layer in layers)


def parse(content: str, folder: Path | None = None) -> Study:
    """The study in the text of a file. folder: where a codebook of its own stands. Raises `FileError`."""
    document = whole.load_toml(content)
    whole.check_printable(document)
    try:
        if "codebook" in document:
            document["codebook"] = _codebook(document["codebook"], folder)
        if isinstance(backend := document.get("backend"), str):
            parse_backend(backend, SECURE)  # says which there are; msgspec would not
        tables = [name for name, part in document.items() if isinstance(part, dict)]
        models = [kind for name, kind in MODELS.items() if name in tables]
        if len(models) != 1:
            found = ", ".join(f"[{name}]" for name in tables) or "none"
            raise DataError(
                f"expected one model, the table {' or '.join(f'[{name}]' for name in MODELS)}, got the tables {found}"
            )
        return msgspec.convert(document, models[0])
    except (msgspec.ValidationError, LocalProtocolError, DataError) as error:
        raise FileError(str(error)) from None


def read(path: Path) -> Study:
    """The study in a file. Raises `FileError`."""
    return whole.read_parsed(path, lambda content: parse(content, path.parent))


def _codebook(said: object, folder: Path | None) -> Codebook:
    """The codebook that a study names, or holds. Raises `FileError`, `DataError`."""
    if isinstance(said, dict):
        return codebooks.convert(said)
    if not isinstance(said, str) or folder is None:
        raise DataError("expected codebook as the name of a file beside the study, or as a table")
    if Path(said).name != said:
        raise DataError(f"expected codebook as the name of a file beside the study, got the path {said!r}")
    return codebooks.read(folder / said)
