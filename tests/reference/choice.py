"""Which set and which codes a session takes (docs/encrypted-protocol.md §3). Noise is in double precision."""

from dataclasses import replace
from math import copysign, floor, inf, isfinite, log, log2, sqrt

from reference.fixedpoint import Code, fit, units
from reference.lattice import SETS, Set
from reference.refused import Refused, need

TAIL = 61 * log(2)  # L


# ---- BFV -----------------------------------------------------------------------------------------


def bfv_noise(lattice: Set, n: int, holders: int = 1) -> float:
    secret = holders * lattice.degree
    switched = sqrt(2 * n * (1 + secret) / 12 * TAIL)
    fresh = 3 * sqrt(2 * n * 3.2**2 * (1 + 2 * secret) * TAIL) / lattice.key_prime
    return switched + fresh + n / 2


def choose_bfv(demands: list[tuple[float, int]], n: int, committee: bool) -> tuple[str, list[Code]]:
    """demands: bound and least fraction bits of each sum."""
    for name in ("bfv-60-joint",) if committee else ("bfv-46", "bfv-60"):
        lattice = SETS[name]
        if bfv_noise(lattice, n) * 8 * lattice.t > lattice.q:
            continue
        try:
            codes = [fit(bound, n, least, lattice.t // 2) for bound, least in demands]
        except Refused:
            continue
        return name, [replace(code, width=8) for code in codes]
    raise Refused("expected sums that a set holds")


def smudging_bits(lattice: Set, holders: int, n: int) -> int:
    """B of a committee."""
    need(holders >= 2 and n >= 1 and lattice.t > 0, "a committee, a summand and an exact set")
    noise = bfv_noise(lattice, n, holders)
    room = max(0, lattice.q // (8 * lattice.t) - int(noise) - 1)
    bits = min((room // holders).bit_length() - 1, 123)
    need(bits >= 0 and 2**60 * noise <= 2**bits, "room to hide the noise")
    return bits


def checked(lattice: Set, values: list[int], budget: int) -> list[int]:
    """Decrypted values in Z_t."""
    need(budget >= 2, "two bits of noise budget")
    return [value % lattice.t for value in values]


# ---- CKKS ----------------------------------------------------------------------------------------


def ckks_noise(lattice: Set, n: int) -> float:
    size = lattice.degree
    part, secret = sqrt(2 * n * size / 24 * TAIL), sqrt(2 * size / 3 * TAIL)
    fresh = 3.2 * sqrt(2 * n * size * TAIL) * (1 + 3 * secret) * 2 / lattice.key_prime
    return 2 * part * (1 + secret) + fresh + n * size / 2


def fit_ckks(lattice: Set, bound: float, n: int) -> Code:
    """The most fraction bits with which no sum leaves (−q/2, q/2)."""
    need(isfinite(bound) and bound > 0, "a positive bound")
    need(256 * ckks_noise(lattice, n) <= lattice.q // 2, "a set that bears the noise")
    held = [f for f in range(-512, 514) if n * units(bound, f) <= lattice.room]
    need(bool(held) and held[-1] <= 512, "-512 to 512 fraction bits")
    return Code(held[-1], units(bound, held[-1]), n, 8)


def deviation(lattice: Set, code: Code, n: int, decryptions: int) -> float:
    """σ, of the flooding of an entry."""
    size = lattice.degree
    norm = 2 * size**1.5 * sqrt(n / 24) + sqrt(size / 2) * n / 2
    unit: float = 2.0 ** (-lattice.scale_bits - code.fraction_bits)
    return float(sqrt(12 * decryptions) * 2.0**20 * norm) * unit


def entry_error(lattice: Set, code: Code, n: int, decryptions: int) -> float:
    """What an entry of a released sum may be off by."""
    unit = 2.0 ** (-lattice.scale_bits - code.fraction_bits)
    sigma = deviation(lattice, code, n, decryptions)
    largest = n * code.magnitude * 2.0**-code.fraction_bits
    return (ckks_noise(lattice, n) + lattice.degree / 2) * unit + (9.2 + 1 / 16) * sigma + 2.0**-45 * largest


def released(lattice: Set, code: Code, slots: list[float], n: int, decryptions: int) -> list[float]:
    """Slots, in units of the encoding, as values on a grid."""
    sigma, scale = deviation(lattice, code, n, decryptions), 2.0**code.fraction_bits
    limit = n * code.magnitude * (1 + 2.0**-30) + ckks_noise(lattice, n) / 2.0**lattice.scale_bits
    need(all(abs(slot) <= limit + 9.2 * sigma * scale for slot in slots), "a sum that clients can reach")
    grid = 2.0 ** floor(log2(sigma / 8))
    return [copysign(round(slot / scale / grid) * grid, slot) for slot in slots]


def choose_ckks(demands: list[tuple[int, float, float]], n: int) -> tuple[str, list[Code]]:
    """demands: length, bound and accepted error of each sum."""
    compact, precise = SETS["ckks-compact"], SETS["ckks-precise"]
    if all(error == inf for _, _, error in demands):
        return precise.name, [fit_ckks(precise, bound, n) for _, bound, _ in demands]
    for lattice in (compact, precise):
        codes = [fit_ckks(lattice, bound, n) for _, bound, _ in demands]
        decryptions = sum(-(-length // (lattice.degree // 2)) for length, _, _ in demands)
        found = [entry_error(lattice, code, n, decryptions) for code in codes]
        if all(one <= demand[2] for one, demand in zip(found, demands, strict=True)):
            return lattice.name, codes
    raise Refused("expected a larger error, or a smaller bound")
