"""All attacks, and the figures of a run of some of them."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from secure_afl.errors import DataError
from secure_afl.simulations.attacks.finding import Gallery, Result, Watch
from secure_afl.simulations.attacks.population import Setting
from secure_afl.simulations.attacks.reading import (
    collusion,
    differencing,
    few_rows,
    key_recovery,
    labels,
    leverage,
    membership,
    one_row,
)


@dataclass(frozen=True)
class Attack:
    """An attack. question: what it tries to learn; source: its publication; steps: of progress."""

    question: str
    source: str
    steps: int
    measure: Callable[[Setting, Watch], Result]


ATTACKS = {
    one_row.NAME: Attack(
        "Is the only row of a client read from its upload, or a single row from the sum?",
        "rank-one factorisation; for gradients: Zhu et al., NeurIPS 2019",
        one_row.STEPS,
        one_row.measure,
    ),
    few_rows.NAME: Attack(
        "Are rows, fewer than there are features, read from a client's upload, or from the sum?",
        "exact non-negative factorisation: Donoho and Stodden, NeurIPS 2003; Arora et al., STOC 2012",
        few_rows.STEPS,
        few_rows.measure,
    ),
    labels.NAME: Attack(
        "Which labels does a client have, and how many rows?",
        "for gradients: Wainakh et al., PoPETs 2022",
        labels.STEPS,
        labels.measure,
    ),
    leverage.NAME: Attack(
        "Do columns of 0 and 1 single rows out in the opened sum?",
        "differencing of tables: Denning, Denning and Schwartz, ACM TODS 1979; short vectors: Lenstra et al., 1982",
        leverage.STEPS,
        leverage.measure,
    ),
    membership.NAME: Attack(
        "Is a person's row in the data?",
        "Homer et al., PLoS Genetics 2008; Yeom et al., CSF 2018; arXiv 2403.17775",
        membership.STEPS,
        membership.measure,
    ),
    differencing.NAME: Attack(
        "Do two sums differ by what one client has?",
        "So et al., arXiv 2106.03328",
        differencing.STEPS,
        differencing.measure,
    ),
    collusion.NAME: Attack(
        "What do the server and some clients read of another client?",
        "the threat model of Bonawitz et al., CCS 2017",
        collusion.STEPS,
        collusion.measure,
    ),
    key_recovery.NAME: Attack(
        "Do two decrypted CKKS sums give the secret key away?",
        "Li and Micciancio, eprint 2020/1533",
        key_recovery.STEPS,
        key_recovery.measure,
    ),
}


def chosen(names: Sequence[str]) -> list[str]:
    """The names in the table's order; all if none is given. Raises `DataError` for an unknown name."""
    if unknown := [name for name in names if name not in ATTACKS]:
        raise DataError(f"expected attacks from {', '.join(ATTACKS)}, got {unknown[0]!r}")
    return [name for name in ATTACKS if not names or name in names]


def measure(setting: Setting, names: Sequence[str], watch: Watch) -> tuple[dict[str, Any], list[Gallery]]:
    """The figures of these attacks, as JSON has them, and their pictures."""
    results = [ATTACKS[name].measure(setting, watch) for name in names]
    figures = {
        "data": setting.data.name,
        "seed": setting.seed,
        "repeats": setting.repeats,
        "findings": [asdict(one) | {"verdict": one.verdict} for result in results for one in result.findings],
    }
    return figures, [result.gallery for result in results if result.gallery]
