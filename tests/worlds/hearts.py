"""Heart disease at four hospitals by a codebook in which no column separates the outcome, as logistic regression needs."""

from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from secure_afl.tables import codebook, reading
from secure_afl.tables.disclosure import Layout, categories, control_rows
from secure_afl.tables.encoding import Design, encode
from secure_afl.tables.terms import row_norm

_FILES = Path(__file__).parents[2] / "simulations" / "data" / "files"
TABLE = _FILES / "heart_disease_uci.csv"
CODEBOOK = _FILES / "heart_logistic.toml"
CATEGORIES = categories(codebook.read(CODEBOOK))
Floats = npt.NDArray[np.float64]


@cache
def _design() -> tuple[codebook.Codebook, Design]:
    book = codebook.read(CODEBOOK)
    return book, encode(book, reading.read(TABLE))


def coded(share: float = 1.0, seed: int = 0) -> tuple[Floats, Floats, npt.NDArray[np.str_], float]:
    """X (rows, features), y in {0, 1} (rows,), hospitals (rows,), and the bound on the norm of a row.

    A share of each hospital's rows, drawn with a seed, as disclosure control codes them.
    """
    book, design = _design()
    assert design.outcome is not None
    assert design.site is not None
    draws = np.random.default_rng(seed)
    X, y, site = list[Floats](), list[Floats](), list[str]()
    for name in np.unique(design.site).tolist():
        rows = draws.permutation(np.flatnonzero(design.site == name))
        rows = rows[: round(len(rows) * share)]
        own, found = control_rows(design.X[rows], Layout.of(book), design.outcome[rows].astype(np.int64), 5)
        X.append(own)
        y.append(design.outcome[rows][found.kept])
        site += [name] * len(own)
    return np.vstack(X), np.concatenate(y), np.array(site), row_norm(book)
