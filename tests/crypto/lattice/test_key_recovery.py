"""The secret key from decrypted CKKS sums, and what keeps it in: see `simulations.attacks.key_recovery`."""

import numpy as np
import numpy.typing as npt
import pytest

from secure_afl.crypto.lattice import ckks, seal
from secure_afl.crypto.lattice.ckks import Demand
from secure_afl.crypto.lattice.parameter_sets import LATTICES, Lattice, Residues
from secure_afl.simulations.attacks.reading.key_recovery import at_roots, opened_with, recovered

COMPACT = LATTICES["ckks-compact"]
NVFLARE = Lattice(
    "nvflare", 8192, (1152921504606830593, 1099510890497), 1099511480321, scale_bits=40
)  # NVFlare's default: [60, 40, 40], 2⁴⁰
Reals = npt.NDArray[np.float64]


def aggregate(lattice: Lattice, public_key: bytes, n: int, size: float, seed: int) -> tuple[Residues, Reals]:
    """One ciphertext: the sum of n clients, and what it is exactly."""
    vectors = np.random.default_rng(seed).normal(size=(n, lattice.slots)) * size
    total = lattice.zeros(lattice.slots)
    for vector in vectors:
        lattice.add(total, seal.encrypt(lattice, public_key, vector))
    return total, vectors.sum(0)


def places_right(lattice: Lattice, third: Residues, raw: Reals, key: list[list[int]]) -> int:
    """At how many pairs of roots a key gives the decryption that the key holder's own key gives."""
    count, want = 0, at_roots(lattice, raw)
    for at, p in enumerate(lattice.primes):
        c0, c1 = third[0, :, at].tolist()
        opened = [(a + b * s) % p for a, b, s in zip(c0, c1, key[at], strict=True)]
        count += sum((a + b - w) % p == 0 for a, b, w in zip(opened, opened[::-1], want[at], strict=True))
    return count


@pytest.mark.parametrize(("lattice", "size"), [(COMPACT, 100.0), (NVFLARE, 0.1)], ids=["compact", "nvflare"])
def test_two_raw_decryptions_give_the_whole_secret_key_away(
    lattice: Lattice, size: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weak design: what `SecretKey.decrypt` returns is given to the server, as TenSEAL's users do."""
    monkeypatch.setitem(LATTICES, lattice.name, lattice)
    holder = seal.SecretKey(lattice)
    sums = [aggregate(lattice, holder.public_key, 5, size, seed)[0] for seed in (1, 2)]
    key = recovered(lattice, sums, [holder.decrypt(one, lattice.slots)[0] for one in sums])
    # A third sum, that nobody ever decrypted for the server: it reads it, and one client's upload too.
    third, exact = aggregate(lattice, holder.public_key, 5, size, 3)
    upload, private = aggregate(lattice, holder.public_key, 1, size, 4)
    assert np.abs(opened_with(lattice, third, key) - exact).max() < 1e-3 * size
    assert np.abs(opened_with(lattice, upload, key) - private).max() < 1e-3 * size
    raw, _ = holder.decrypt(third, lattice.slots)
    assert places_right(lattice, third, raw, key) == len(lattice.primes) * lattice.degree


@pytest.mark.parametrize(("name", "size"), [("ckks-compact", 100.0), ("ckks-precise", 2.0**-8)])
def test_two_released_sums_give_nothing_of_the_key_away(name: str, size: float) -> None:
    """Ours: of two sums whose raw decryptions give the key away, what is released does not hit one place (a guess
    hits one in 2⁴⁶). `size` is in units of the encoding: small, so that float64 itself hides nothing.
    """
    lattice, n, bound = LATTICES[name], 5, 1000.0
    found, (code,) = ckks.choose([Demand(lattice.slots, bound, bound if name == "ckks-compact" else 1e-6)], n)
    assert found is lattice
    holder = seal.SecretKey(lattice)
    sums = [aggregate(lattice, holder.public_key, n, size, seed)[0] for seed in (1, 2)]
    raw = [holder.decrypt(one, lattice.slots)[0] for one in sums]
    flooded = [ckks.flood(one, lattice, code, n, 2) for one in sums]
    slots = [holder.decrypt(one, lattice.slots)[0] for one in flooded]
    released = [ckks.released(one, lattice, code, n, 2) for one in slots]
    third, exact = aggregate(lattice, holder.public_key, n, size, 3)
    want, _ = holder.decrypt(third, lattice.slots)
    every = len(lattice.primes) * lattice.degree
    assert places_right(lattice, third, want, recovered(lattice, sums, raw)) == every
    key = recovered(lattice, sums, [np.ldexp(values, code.fraction_bits) for values in released])
    assert places_right(lattice, third, want, key) == 0
    guessed = opened_with(lattice, third, key)
    assert abs(float(np.corrcoef(guessed, exact)[0, 1])) < 0.15  # nearly seven deviations of chance
