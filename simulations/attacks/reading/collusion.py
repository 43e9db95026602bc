"""Collusion: the server and clients that give it everything that they have, against one client."""

from collections.abc import Sequence

import numpy as np

from secure_afl.crypto.shamir import combine
from secure_afl.protocol.masking import messages
from secure_afl.simulations.attacks import designs
from secure_afl.simulations.attacks.finding import Finding, Result, Watch, paired, relative
from secure_afl.simulations.attacks.population import Setting, Statistic, draw
from secure_afl.simulations.attacks.tap import Tap
from secure_afl.simulations.attacks.weak import cancelling
from secure_afl.simulations.attacks.weak.unmasking import pair_keys, revealed, unmasked
from secure_afl.simulations.data.dataset import Floats
from secure_afl.sums.aggregation import MaskedAggregator

NAME = "collusion"
_CLIENTS, _ROWS, _VICTIM = 7, 10, 0
_SESSIONS = 12
_ENCRYPTED_SESSIONS = 1
_THRESHOLD = 5  # of 7 under the active profile
_COLLUDERS = (1, _THRESHOLD - 1, _THRESHOLD)
STEPS = len(_COLLUDERS) + 2
_MEASURED = "server and {} of 7 clients: relative error of a vector"
_MASK, _BFV = "secure-afl, mask", "secure-afl, bfv"


def measure(setting: Setting, watch: Watch) -> Result:
    """Attack our design with a growing number of colluders, and designs in which one colluder is enough."""
    rng, statistic = setting.draws(6), Statistic.of(setting.data)

    def vectors() -> list[Floats]:
        return statistic.vectors(draw(setting.data, [_ROWS] * _CLIENTS, rng, per_label=True))

    findings, left = [], []
    for colluders in _COLLUDERS:
        watch(f"{NAME}: {colluders} of {_CLIENTS} clients")
        errors = []
        for _ in range(_SESSIONS):
            mine = vectors()
            read, total = masked(mine, statistic, colluders)
            honest = total - np.sum(mine[_CLIENTS - colluders :], axis=0)
            errors.append(_errors(read, honest / (_CLIENTS - colluders), mine))
            if colluders == _THRESHOLD - 1:
                truth = np.sum(mine[: _CLIENTS - colluders], axis=0)
                left.append(
                    (relative(honest, truth), relative(total * (len(mine) - colluders) / len(mine), truth))
                )
        findings.append(_finding(_MASK, True, _MEASURED.format(colluders), errors, _NOTES[colluders]))
    measured = f"server and {_THRESHOLD - 1} of 7 clients: relative error of the honest sum"
    findings.append(_finding(_MASK, True, measured, left, "any sum, less what colluders know of it"))
    watch(f"{NAME}: one key for all")
    errors = []
    for _ in range(_SESSIONS):
        mine = vectors()
        errors.append(_errors(designs.one_key(mine, statistic)[_VICTIM], _share(mine), mine))
    findings.append(
        _finding(designs.ONE_KEY.name, False, _MEASURED.format(1), errors, "every client has the key")
    )
    watch(f"{NAME}: encrypted sums")
    errors = []
    for _ in range(_ENCRYPTED_SESSIONS):
        mine = vectors()
        errors.append(_errors(cancelling.read(mine, statistic), _share(mine), mine))
    note = "a ciphertext carries no proof: use mask or bfv+mask where a client may help the server"
    findings.append(_finding(_BFV, True, _MEASURED.format(1), errors, note))
    return Result(findings)


_NOTES = {
    1: "",
    _THRESHOLD
    - 1: f"below the threshold of {_THRESHOLD}; against a server that lies, ours bears fewer than a third",
    _THRESHOLD: "the threshold is reached: their shares open any client's masks",
}


def masked(vectors: Sequence[Floats], statistic: Statistic, colluders: int) -> tuple[Floats, Floats]:
    """What the server and the last `colluders` clients can read of the first client's vector, and of the sum."""
    tap, names = Tap(), [f"client {index}" for index in range(len(vectors))]
    aggregator = MaskedAggregator(network=tap)
    aggregator.open(names, [statistic.plan])
    cohort = aggregator.cohort
    parameters, transcript = cohort.server.parameters, cohort.server.parameters.transcript()
    colluding = {index: cohort.clients[index] for index in range(len(names) - colluders, len(names))}
    # The colluders' own programs: the server has all that they hold from the start.
    held = {index: client._memory.rounds[0] for index, client in colluding.items()}
    shares = {index + 1: keys.shares[_VICTIM][messages.SEED_SHARE] for index, keys in held.items()}
    keys = {
        index: messages.pair_mask_key(own.pair_secrets[_VICTIM], transcript, 0, _VICTIM, index)
        for index, own in held.items()
    }
    total = aggregator.sum(
        0, {name: (vector, "rows") for name, vector in zip(names, vectors, strict=True)}
    ).total
    reveals = {one.client: one.data for one in tap.seen if one.phase == "unmasking" and one.upward}
    self_seed = revealed(
        reveals, _VICTIM, parameters.threshold
    )  # a survivor's, which the server opens for the sum
    if len(shares) >= parameters.threshold:
        keys = pair_keys(tap, parameters, _VICTIM, combine(shares, parameters.threshold))
    return unmasked(tap, parameters, _VICTIM, keys, [self_seed]), total


def _share(vectors: Sequence[Floats]) -> Floats:
    """A client's share of the sum without the helping client's part."""
    return np.asarray(np.sum(vectors[:-1], axis=0) / (len(vectors) - 1))


def _errors(read: Floats, guess: Floats, vectors: Sequence[Floats]) -> tuple[float, float]:
    return relative(read, vectors[_VICTIM]), relative(guess, vectors[_VICTIM])


def _finding(
    design: str, ours: bool, measured: str, errors: Sequence[tuple[float, float]], note: str
) -> Finding:
    mine, guesses = zip(*errors, strict=True)
    # A guess never reaches six digits of a vector.
    chance = 0.0 if min(mine) < 1e-6 else paired(mine, guesses)
    value, guess = float(np.mean(mine)), float(np.mean(guesses))
    return Finding(NAME, design, ours, measured, value, guess, len(mine), chance, note)
