"""What was learned, as a file that loads anywhere and runs no code (safetensors), with the codebook that raw tables need.

Tensors, all float64: `coef` (outputs, features) and `intercept` (outputs,), of features as the codebook scales them;
`table_coef`, `table_intercept`, the same in the table's units; and, where the sum gave them, `ls_coef` and `ls_se`
(1 + features, outputs), the intercept first: least squares without a penalty, and its standard errors, in the table's units;
0 and NaN for a column that is constant or follows from those before it.
Outputs are the classes, of which each has a least squares fit of its one-hot label, or the outcome's number.
Of a logistic or Poisson regression (`About.family`) coefficients are of the linear predictor, and `ls_coef` and `ls_se` are
those of maximum likelihood. With classes they are of the second one; the first has zeros.

The covariance matrix of the coefficients is not in the file: its inverse is the pooled Gram matrix, which shows single
rows (docs/threat-model.md), and a model is made to be passed on.
"""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np

from secure_afl.errors import DataError, SolveError
from secure_afl.tables import codebook as codebooks
from secure_afl.tables.codebook import Codebook, Target
from secure_afl.tables.terms import Floats, Term, in_table_units, terms

if TYPE_CHECKING:  # scikit-learn is loaded where it is used
    from secure_afl.analytic.inference import Regression
    from secure_afl.models.glm import FederatedLogisticRegression, FederatedPoissonRegression
    from secure_afl.models.ridge import FederatedRidge, FederatedRidgeClassifier
    from secure_afl.tables.encoding import Design

    Linear = (
        FederatedRidge | FederatedRidgeClassifier | FederatedLogisticRegression | FederatedPoissonRegression
    )

FORMAT = "secure-afl model 1"
OF_STUDY, AS_SAID = "a study", "a study, as its server says"
_TENSORS = ("coef", "intercept", "table_coef", "table_intercept")
_ERRORS = ("ls_coef", "ls_se")


class About(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a model is from.

    rows, freedom: pooled rows, and residual degrees of freedom of the standard errors, None where nobody knows; certificate:
    proven bound on the distance from the weights of the pooled rows; ridge: penalty, see `FederatedRidge`, None where a party was
    not told; survivors: of each sum; session: its number in hexadecimal digits, empty without one; no_errors: why there are no
    standard errors; family: "logistic" or "poisson", empty for least squares; deviance: of these, None for least squares.
    verified: digests of the sums that a party checked and from which it computed this; unverified: why it checked none. Both are
    empty in a server's file.
    """

    data: str
    backend: str
    ridge: float | None
    survivors: tuple[tuple[str, ...], ...]
    session: str = ""
    rows: int | None = None
    freedom: int | None = None
    certificate: float | None = None
    privacy: str = ""
    no_errors: str = ""
    versions: dict[str, str] = {}
    family: Literal["", "logistic", "poisson"] = ""
    deviance: float | None = None
    verified: tuple[str, ...] = ()
    unverified: str = ""

    def __post_init__(self) -> None:
        names = [name for one in self.survivors for name in one]
        texts = [self.data, self.backend, self.session, self.privacy, self.no_errors, self.unverified, *names]
        texts += self.verified
        if not all(text.isprintable() for text in [*texts, *self.versions, *self.versions.values()]):
            raise DataError("expected printable texts, got control characters")


@dataclass(frozen=True, eq=False)
class Model:
    """See the module. coef (outputs, features), intercept (outputs,); ls_coef, ls_se: None without standard errors.

    Raises `DataError` for arrays that do not fit the codebook.
    """

    codebook: Codebook
    coef: Floats
    intercept: Floats
    about: About
    ls_coef: Floats | None = None
    ls_se: Floats | None = None

    def __post_init__(self) -> None:
        shape = (len(self.outputs), len(self.terms))
        if self.coef.shape != shape or self.intercept.shape != shape[:1]:
            raise DataError(
                f"expected coefficients of shape {shape}, as the codebook has it, got {self.coef.shape}"
            )
        expected = {"logistic": 2, "poisson": 0}.get(self.about.family)
        if expected is not None and len(self.codebook.classes) != expected:
            raise DataError(
                f"expected {'two classes' if expected else 'a number'} as outcome of a {self.about.family} regression, got "
                f"{len(self.codebook.classes) or 'no'} classes"
            )
        if not (np.isfinite(self.coef).all() and np.isfinite(self.intercept).all()):
            raise DataError("expected finite coefficients, got NaN or infinity")
        for table in (self.ls_coef, self.ls_se):
            if table is not None and table.shape != (1 + shape[1], shape[0]):
                raise DataError(
                    f"expected standard errors of shape {(1 + shape[1], shape[0])}, got {table.shape}"
                )

    @property
    def terms(self) -> tuple[Term, ...]:
        """Its features."""
        return terms(self.codebook)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The classes, or the outcome's column."""
        return self.codebook.classes or (self.codebook.outcome.column,)

    def scores(self, X: Floats) -> Floats:
        """(rows, outputs), of X (rows, features) as the codebook encodes them: of a logistic regression the probabilities,
        of a Poisson regression the expected counts.
        """
        scores = np.asarray(X @ self.coef.T + self.intercept)
        if self.about.family == "poisson":
            return np.exp(scores)
        if self.about.family == "logistic":
            from scipy.special import expit

            odds = scores[:, 1] - scores[:, 0]
            return np.column_stack([expit(-odds), expit(odds)])
        return scores

    def predict(self, design: "Design") -> np.ndarray[Any, Any]:
        """A class or a number for each row (rows,)."""
        scores = self.scores(design.X)
        return np.array(self.outputs)[scores.argmax(axis=1)] if self.codebook.classes else scores[:, 0]

    def to_sklearn(self) -> Any:
        """A fitted `Ridge`, `RidgeClassifier`, `LogisticRegression` or `PoissonRegressor` of scikit-learn, for features as
        the codebook encodes them.
        """
        from sklearn.linear_model import LogisticRegression, PoissonRegressor, Ridge, RidgeClassifier

        nothing = np.zeros((len(self.outputs), len(self.terms)))
        if self.about.family == "logistic":
            fitted = LogisticRegression().fit(nothing, np.array(self.outputs))
            first, second = (self.outputs.index(label) for label in fitted.classes_.tolist())
            fitted.coef_ = self.coef[[second]] - self.coef[[first]]
            fitted.intercept_ = self.intercept[[second]] - self.intercept[[first]]
        elif self.about.family == "poisson":
            fitted = PoissonRegressor().fit(nothing, np.ones(len(nothing)))
            fitted.coef_, fitted.intercept_ = self.coef[0], float(self.intercept[0])
        elif not self.codebook.classes:
            fitted = Ridge().fit(nothing, np.zeros(len(nothing)))
            fitted.coef_, fitted.intercept_ = self.coef[0], float(self.intercept[0])
        else:
            fitted = RidgeClassifier().fit(nothing, np.array(self.outputs))  # which prepares its labels
            # Scikit-learn sorts classes, and fits -1 and 1 where we fit 0 and 1; of two classes it has the second one.
            order = [self.outputs.index(label) for label in fitted.classes_.tolist()]
            order = order[1:] if len(order) == 2 else order
            fitted.coef_, fitted.intercept_ = 2 * self.coef[order], 2 * self.intercept[order] - 1
        fitted.n_features_in_ = len(self.terms)
        fitted.feature_names_in_ = np.array([term.name for term in self.terms], dtype=object)
        return fitted

    def save(self, path: Path) -> None:
        """Write the file in one step, over an earlier one. Raises `FileError`."""
        from secure_afl.protocol.files import whole

        whole.replace(path, self.content)

    @property
    def content(self) -> bytes:
        """Content of the model file; `parse` reads it."""
        from safetensors.numpy import save

        table_coef, table_intercept = in_table_units(self.terms, self.coef, self.intercept)
        tensors = {
            "coef": self.coef,
            "intercept": self.intercept,
            "table_coef": table_coef,
            "table_intercept": table_intercept,
        }
        if self.ls_coef is not None and self.ls_se is not None:
            tensors |= {"ls_coef": self.ls_coef, "ls_se": self.ls_se}
        metadata = {
            "format": FORMAT,
            "codebook": self.codebook.text,
            "codebook_sha256": self.codebook.digest,
            "features": msgspec.json.encode([term.name for term in self.terms]).decode(),
            "outputs": msgspec.json.encode(self.outputs).decode(),
            "about": msgspec.json.encode(self.about).decode(),
        }
        plain = {name: np.ascontiguousarray(tensor, dtype="<f8") for name, tensor in tensors.items()}
        return save(plain, metadata=metadata)


def load(path: Path) -> Model:
    """Read a model file. Raises `DataError` for anything else."""
    try:
        return parse(path.read_bytes(), path.name)
    except OSError as error:
        raise DataError(f"{path.name}: cannot be read: {error.strerror}") from None


def parse(content: bytes, name: str) -> Model:
    """The model in the content of a file. name: what errors call it. Raises `DataError` for anything else."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(content)
    except (SafetensorError, KeyError) as error:  # KeyError: a type of numbers that NumPy has not
        raise DataError(
            f"{name}: expected a model file that `secure-afl` wrote: {str(error)[:100]}"
        ) from None
    header = content[8 : 8 + int.from_bytes(content[:8], "little")]  # which `load` has checked
    metadata: Mapping[str, str] = msgspec.json.decode(header).get("__metadata__", {})
    if metadata.get("format") != FORMAT:
        raise DataError(f"{name}: expected the format {FORMAT!r}, got {str(metadata.get('format'))[:100]!r}")
    try:
        codebook = codebooks.from_text(metadata["codebook"])
        about = msgspec.json.decode(metadata["about"], type=About)
        if codebook.digest != metadata["codebook_sha256"]:
            raise DataError("expected a codebook whose SHA-256 is codebook_sha256, got an altered one")
        if any(tensor.dtype != np.float64 for tensor in tensors.values()):
            kinds = ", ".join(sorted({str(tensor.dtype) for tensor in tensors.values()}))
            raise DataError(f"expected tensors of float64, got {kinds}")
        coef, intercept, *_ = (tensors[name] for name in _TENSORS)
        return Model(codebook, coef, intercept, about, *(tensors.get(name) for name in _ERRORS))
    except KeyError as error:
        raise DataError(f"{name}: expected a model file with {error}, got one without") from None
    except (DataError, msgspec.MsgspecError) as error:
        raise DataError(f"{name}: {error}") from None


def of_ridge(
    fitted: "FederatedRidge | FederatedRidgeClassifier",
    codebook: Codebook,
    *,
    data: str,
    backend: str,
    session: str = "",
    verified: tuple[str, ...] = (),
) -> Model:
    """The model of an estimator that learned from rows as `codebook` encodes them, its classes in the codebook's order.

    Raises `DataError` for one that scales columns of its own.
    """
    of = terms(codebook)
    regression, why = _regression(fitted, tuple(term.name for term in of))
    statistics = fitted.statistics_
    about = About(
        data,
        backend,
        float(fitted.ridge_),
        tuple(tuple(one.survivors) for one in fitted.rounds_),
        session,
        None if statistics is None or fitted.privacy_ else int(statistics.count),
        regression.freedom if regression else None,
        None if fitted.privacy_ else float(fitted.certificate_.bound),
        f"epsilon {fitted.privacy_.epsilon:g}, delta {fitted.privacy_.delta:g}" if fitted.privacy_ else "",
        why,
        _versions(),
        verified=verified,
    )
    coef, intercept = _own(fitted.weights_, codebook, fitted)
    errors = _table_errors(of, regression) if regression else (None, None)
    return Model(codebook, coef, intercept, about, *errors)


def of_glm(
    fitted: "FederatedLogisticRegression | FederatedPoissonRegression",
    codebook: Codebook,
    *,
    data: str,
    backend: str,
    session: str = "",
    verified: tuple[str, ...] = (),
) -> Model:
    """The model of an estimator that learned from rows as `codebook` encodes them, as `of_ridge`."""
    of, statistics, why = terms(codebook), fitted.statistics_, ""
    assert statistics is not None  # no fit goes on without it
    errors: tuple[Floats | None, Floats | None] = (None, None)
    try:
        found = fitted.inference()
    except SolveError as error:
        why = str(error)
    else:
        se = found.se[:, None]
        raw = _in_table_units(of, found.coef[:, None], se, found.covariance, np.ones(1))
        errors = (_second(raw[0], codebook), _second(raw[1], codebook))
    coef, intercept = _own(fitted.weights_, codebook, fitted)
    about = About(
        data,
        backend,
        float(fitted.ridge),
        tuple(tuple(one.survivors) for one in fitted.rounds_[:1]),
        session,
        int(statistics.count),
        no_errors=why,
        versions=_versions(),
        family=fitted.family,
        deviance=fitted.deviance_,
        verified=verified,
    )
    return Model(codebook, coef, intercept, about, *errors)


def _second(column: Floats, codebook: Codebook) -> Floats:
    """For two classes: the column of the second class beside zeros for the first."""
    return np.hstack([np.zeros_like(column), column]) if codebook.classes else column


def of_study(
    weights: Floats,
    codebook: Codebook,
    estimator: "Linear",
    backend: str,
    session: str = "",
    file: bytes = b"",
    *,
    unverified: str,
) -> Model:
    """A party's model where it checks no sums: what the server says came out of a study. Nobody vouches for it.

    weights (1 + features, outputs): as `estimator`, which has not learned, would have them. file: the server's model file;
    empty if it sent the weights only. Raises `DataError` for a file of other weights, another study or another session.
    """
    own = _own(weights, codebook, estimator)
    if not file:
        why = "the server sent the weights only"
        family: Literal["", "logistic", "poisson"] = getattr(estimator, "family", "")
        about = About(
            AS_SAID,
            backend,
            None,
            (),
            session,
            no_errors=why,
            versions=_versions(),
            family=family,
            unverified=unverified,
        )
        return Model(codebook, *own, about)
    sent = parse(file, "the server's model file")
    for what, same in (
        ("the study's codebook", sent.codebook == codebook),
        ("the weights beside it", all(map(np.array_equal, (sent.coef, sent.intercept), own))),
        ("the study's backend", sent.about.backend == backend),
        ("this session", sent.about.session == session),
    ):
        if not same:
            raise DataError(f"the server's model file: it does not fit {what}: no model is taken")
    about = msgspec.structs.replace(sent.about, data=AS_SAID, verified=(), unverified=unverified)
    return replace(sent, about=about)


def _own(weights: Floats, codebook: Codebook, estimator: "Linear") -> tuple[Floats, Floats]:
    """Coefficients (outputs, features) and intercepts (outputs,) of features, in the outcome's unit, out of weights as they
    are summed. Raises `DataError` for an estimator that scales columns of its own.
    """
    if estimator.column_bounds is not None:
        raise DataError(
            "expected an estimator with row_norm, as the codebook scales features, got column_bounds"
        )
    if hasattr(estimator, "family"):  # whose weights are in own units
        both = _second(np.asarray(weights, dtype=np.float64), codebook)
        return np.ascontiguousarray(both[1:].T), both[0].copy()
    one = estimator.rows(np.zeros((1, len(weights) - 1)))[0, 0]  # what stands in the intercept's column
    coef, intercept = (
        np.asarray(weights[1:].T, dtype=np.float64),
        np.asarray(weights[0] * one, dtype=np.float64),
    )
    if isinstance(codebook.outcome, Target):
        from secure_afl.models.columns import Columns

        over = Columns.parse([codebook.outcome.range], 1, "the outcome's range").scaling
        return np.ldexp(coef, over.exponent[:, None]), np.ldexp(intercept, over.exponent) + over.centre
    return coef, intercept


def _versions() -> dict[str, str]:
    return {"secure-afl": version("secure-afl"), "numpy": np.__version__, "python": platform.python_version()}


def _regression(
    fitted: "FederatedRidge | FederatedRidgeClassifier", features: tuple[str, ...]
) -> tuple["Regression | None", str]:
    """Least squares out of the same sum, or why there is none."""
    from secure_afl.analytic.inference import least_squares

    try:
        return least_squares(replace(fitted.moments_, features=features), leave_out=True), ""
    except (DataError, SolveError) as error:
        return None, str(error)


def _table_errors(of: Sequence[Term], regression: "Regression") -> tuple[Floats, Floats]:
    """Coefficients and standard errors (1 + features, outputs) in the table's units."""
    return _in_table_units(of, regression.coef, regression.se, regression.covariance, regression.sigma2)


def _in_table_units(
    of: Sequence[Term], coef: Floats, se: Floats, covariance: Floats, sigma2: Floats
) -> tuple[Floats, Floats]:
    """Coefficients and standard errors (1 + features, outputs), covariance being that for sigma2 = 1."""
    half, middle = (np.array([getattr(term, one) for term in of]) for one in ("half", "middle"))
    raw, intercept = in_table_units(of, coef[1:].T, coef[0])
    towards = np.concatenate([[1.0], -middle / half])  # the raw intercept, out of the coefficients
    variance = towards @ covariance @ towards
    return np.vstack([intercept, raw.T]), np.vstack([np.sqrt(variance * sigma2), se[1:] / half[:, None]])
