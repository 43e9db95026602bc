"""CKKS: the secret key from two decrypted sums (Li and Micciancio, eprint 2020/1533).

A raw decryption contains the ciphertext's noise: encoded again it is exactly c₀ + c₁·s. SEAL stores ciphertexts as values
at the roots of unity, where this is a linear equation for each root. Real parts couple only the roots ζ and ζ̄, at indices
i and N − 1 − i: two unknowns, so two sums give the whole key.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from tenseal import sealapi

from secure_afl.crypto.fixed_point import FixedPoint
from secure_afl.crypto.lattice import ckks, seal
from secure_afl.crypto.lattice.parameter_sets import LATTICES, Lattice, Residues
from secure_afl.protocol.session.parameters import SumPlan
from secure_afl.simulations.attacks.finding import Finding, Result, Watch, paired, relative
from secure_afl.simulations.attacks.population import CLIENTS, Setting, Statistic, draw
from secure_afl.simulations.attacks.tap import Tap
from secure_afl.simulations.data.dataset import Floats
from secure_afl.sums.encrypted import EncryptedAggregator

NAME = "ckks-key"
STEPS = 2
_LATTICE = LATTICES["ckks-compact"]
_NAMES = [f"client {index}" for index in range(CLIENTS)]
_SESSIONS = 12
_ROWS = 5
Key = list[list[int]]
"""The secret key at the roots of unity, modulo each prime."""


def measure(setting: Setting, watch: Watch) -> Result:
    """Open two sums, recover the key from them, and decrypt a client's upload with it."""
    rng, statistic = setting.draws(7), Statistic.of(setting.data)
    findings = []
    for design, ours, opened, note in (
        ("raw decryptions (TenSEAL)", False, raw, "two sums as TenSEAL decrypts them"),
        ("secure-afl, ckks", True, released, "two sums as released: flooded before decryption, then rounded"),
    ):
        watch(f"{NAME}: {design}")
        errors, guesses, right = [], [], 0
        for _ in range(_SESSIONS):
            waves = [
                [_cut(vector) for vector in statistic.vectors(draw(setting.data, [_ROWS] * CLIENTS, rng))]
                for _ in range(2)
            ]
            uploads, values, encoding = opened(waves, statistic.plan.bound)
            sums = [_total(wave) for wave in uploads]
            key = recovered(_LATTICE, sums, [np.ldexp(one, encoding.fraction_bits) for one in values])
            read = np.ldexp(opened_with(_LATTICE, uploads[0][0], key), -encoding.fraction_bits)
            errors.append(relative(read, waves[0][0]))
            guesses.append(relative(values[0] / CLIENTS, waves[0][0]))
            right += errors[-1] < 1e-3
        chance = 0.0 if right else paired(errors, guesses)
        measured, mean = "relative error of a client's upload, decrypted", float(np.mean(errors))
        note = f"the key opened {right} of {_SESSIONS} uploads; {note}"
        findings.append(
            Finding(NAME, design, ours, measured, mean, float(np.mean(guesses)), _SESSIONS, chance, note)
        )
    return Result(findings)


def _cut(vector: Floats) -> Floats:
    """The entries that fit into one ciphertext: the Gram matrix's first rows."""
    part = np.zeros(_LATTICE.slots)
    part[: len(vector)] = vector[: _LATTICE.slots]
    return part


def _total(uploads: Sequence[Residues]) -> Residues:
    total = _LATTICE.zeros(_LATTICE.slots)
    for upload in uploads:
        _LATTICE.add(total, upload)
    return total


Opened = tuple[list[list[Residues]], list[Floats], FixedPoint]
"""The uploads of two sums, the server's results, and the encoding."""


def raw(waves: Sequence[Sequence[Floats]], bound: float) -> Opened:
    """The same parameters, but the server gets the library's raw decryption."""
    _, (encoding,) = ckks.choose([ckks.Demand(_LATTICE.slots, bound, bound)], CLIENTS)
    holder = seal.SecretKey(_LATTICE)
    uploads = [[ckks.encrypt(_LATTICE, holder.public_key, one, encoding) for one in wave] for wave in waves]
    slots = [holder.decrypt(_total(wave), _LATTICE.slots)[0] for wave in uploads]
    return uploads, [np.ldexp(one, -encoding.fraction_bits) for one in slots], encoding


def released(waves: Sequence[Sequence[Floats]], bound: float) -> Opened:
    """Our design: uploads from the frames, and the sums as the key holder released them."""
    tap, first = Tap(), SumPlan("wave 1", _LATTICE.slots, bound, error=bound)
    aggregator = EncryptedAggregator("ckks", release="sum", network=tap)
    aggregator.open(_NAMES, [first, replace(first, statistic="wave 2")])
    uploads, values = [], []
    for number, wave in enumerate(waves):
        given = {name: (vector, "rows") for name, vector in zip(_NAMES, wave, strict=True)}
        values.append(aggregator.sum(number, given).total)
        uploads.append([tap.ciphertexts(index, _LATTICE.slots, _LATTICE) for index in range(CLIENTS)])
    assert aggregator.cohort.server.agreement.lattice == _LATTICE.name
    return uploads, values, aggregator.cohort.server.agreement.rounds[0].encoding(CLIENTS)


def recovered(lattice: Lattice, sums: Sequence[Residues], given_out: Sequence[Floats]) -> Key:
    """The key, if the released values, in units of the encoding, are exact."""
    found = []
    opened = [at_roots(lattice, values) for values in given_out]
    for at, p in enumerate(lattice.primes):
        (a0, a1), (b0, b1) = (total[0, :, at].tolist() for total in sums)
        am, bm = opened[0][at], opened[1][at]
        key = [0] * lattice.degree
        for i in range(lattice.degree // 2):
            j = lattice.degree - 1 - i
            # a1[i]·s[i] + a1[j]·s[j] = am[i] − a0[i] − a0[j], and so for b.
            one, other = am[i] - a0[i] - a0[j], bm[i] - b0[i] - b0[j]
            inverse = pow(a1[i] * b1[j] - a1[j] * b1[i], -1, p)
            key[i] = (one * b1[j] - other * a1[j]) * inverse % p
            key[j] = (other * a1[i] - one * b1[i]) * inverse % p
        found.append(key)
    return found


def opened_with(lattice: Lattice, ciphertext: Residues, key: Key) -> Floats:
    """A decryption with a recovered key: c₀ + c₁·s, which then decodes without any key."""
    opened = np.zeros_like(ciphertext)
    for at, p in enumerate(lattice.primes):
        c0, c1 = ciphertext[0, :, at].tolist()
        opened[0, 0, at] = [(a + b * s) % p for a, b, s in zip(c0, c1, key[at], strict=True)]
    return seal.decode(lattice, opened, lattice.slots)[0]


def at_roots(lattice: Lattice, values: Floats) -> list[list[int]]:
    """Twice the polynomial that decodes to the values, at the roots of unity modulo each prime."""
    plain = sealapi.Plaintext()
    encoder = sealapi.CKKSEncoder(seal._context(lattice))
    encoder.encode(values.tolist(), 2.0 ** (lattice.scale_bits + 1), plain)
    count = len(lattice.primes) * lattice.degree
    return [
        [plain.data(at) for at in range(start, start + lattice.degree)]
        for start in range(0, count, lattice.degree)
    ]
