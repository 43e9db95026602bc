"""Vectors of residues, tags, transforms, joint keys, and of the choice of sets."""

from math import inf, nextafter
from typing import Any

from reference.lattice import SETS, pack

from vectors.cases import Vectors, secret

SMALL = 8  # a degree for vectors that are written out


def rows(name: str, primes: tuple[int, ...], count: int) -> list[list[int]]:
    """Residues with both ends of the range among them."""
    found = []
    for prime in primes:
        numbers = [int.from_bytes(secret(f"{name} {prime} {i}"), "big") % prime for i in range(count - 2)]
        found.append([prime - 1, *numbers, 0])
    return found


def lattice() -> Vectors:
    v = Vectors(
        "Residues on the wire, tags, transformed polynomials and joint keys. Small degrees are for vectors only."
    )
    for name, one in SETS.items():
        at: dict[str, Any] = {"set": name, "degree": SMALL}
        slots = SMALL if one.t else SMALL // 2
        for length in (1, one.degree // 2, one.degree // 2 + 1, one.degree, one.degree + 1):
            v.good(f"{name}: sizes for {length}", "sizes", set=name, length=length)
        given = rows(name, one.primes, 4 * SMALL)
        v.good(f"{name}: two ciphertexts", "pack residues", **at, count=2, residues=given)
        packed = pack(given, one.primes).hex()
        v.good(f"{name}: read back", "unpack residues", **at, length=2 * slots, packed=packed)
        v.good(
            f"{name}: read a vector that fills one and a half",
            "unpack residues",
            **at,
            length=slots + 1,
            packed=packed,
        )
        v.good(
            f"{name}: whole ciphertext",
            "pack residues",
            set=name,
            degree=one.degree,
            count=1,
            residues=secret(name).hex(),
        )
        one_more = [[*row] for row in given]
        one_more[-1][5] = one.primes[-1]
        for what, why, length, data in (
            ("cut", "a byte too few", 2 * slots, packed[:-2]),
            ("lengthened", "a byte too many", 2 * slots, packed + "00"),
            ("for a shorter vector", "two ciphertexts, one expected", slots, packed),
            ("for a longer vector", "two ciphertexts, three expected", 2 * slots + 1, packed),
            ("empty", "no bytes", slots, ""),
            ("a residue of the prime", "not below the prime", 2 * slots, pack(one_more, one.primes).hex()),
            ("all bits set", "not below the prime", 2 * slots, "ff" * (len(packed) // 2)),
        ):
            v.bad(f"{name}: {what}", why, "unpack residues", **at, length=length, packed=data)
        key = rows(f"{name} key", one.key_primes, 2 * SMALL)
        v.good(f"{name}: a key", "pack key", **at, residues=key)
        packed_key = pack(key, one.key_primes).hex()
        v.good(f"{name}: a key read back", "unpack key", **at, packed=packed_key)
        v.good(f"{name}: whole key", "pack key", set=name, degree=one.degree, residues=secret(name).hex())
        v.bad(f"{name}: a key cut", "a byte too few", "unpack key", **at, packed=packed_key[:-2])
        v.bad(
            f"{name}: a secret key with it", "another polynomial", "unpack key", **at, packed=packed_key * 2
        )
        over_key = [*key[:-1], [one.key_prime, *key[-1][1:]]]
        why = "not below the key prime"
        v.bad(
            f"{name}: a key out of range",
            why,
            "unpack key",
            **at,
            packed=pack(over_key, one.key_primes).hex(),
        )

        first, second = (pack(rows(f"{name} {i}", one.primes, 2 * SMALL), one.primes).hex() for i in range(2))
        v.good(f"{name}: a sum", "add residues", **at, one=first, other=second)
        v.bad(
            f"{name}: a sum with a cut one",
            "a byte too few",
            "add residues",
            **at,
            one=first,
            other=second[2:],
        )

        seed = secret(f"challenge {name}").hex()
        small = {**at, "count": 2, "residues": given}
        mine = v.good(f"{name}: tags", "tags", **small, seed=seed)
        others = v.good(f"{name}: tags under another seed", "tags", **small, seed=secret("other").hex())
        whole = {"set": name, "degree": one.degree, "count": 1, "residues": secret(name).hex()}
        v.good(f"{name}: tags of a whole ciphertext", "tags", **whole, seed=seed)
        v.bad(f"{name}: tags under a short seed", "31 bytes", "tags", **small, seed=seed[2:])
        v.good(f"{name}: tags of a sum", "add tags", set=name, one=mine, other=others)
        largest = [prime - 1 for prime in one.primes for _ in range(2)]
        v.good(f"{name}: the largest tags", "add tags", set=name, one=largest, other=largest)
        v.bad(
            f"{name}: a tag too few", "two for each prime", "add tags", set=name, one=mine[1:], other=others
        )
        v.bad(
            f"{name}: a tag too many",
            "two for each prime",
            "add tags",
            set=name,
            one=mine,
            other=[*others, 0],
        )
        over = [*largest[:-1], one.primes[-1]]
        v.bad(f"{name}: a tag of the prime", "not below it", "add tags", set=name, one=over, other=mine)
        negative = [-1, *mine[1:]]
        v.bad(f"{name}: a negative tag", "below 0", "add tags", set=name, one=mine, other=negative)

        for prime in one.key_primes:
            v.good(f"{name}: root modulo {prime}", "root", prime=prime, degree=one.degree)
            dense = {str(i): int.from_bytes(secret(f"term {i}"), "big") % prime for i in range(16)}
            given_ = {"prime": prime, "degree": 16}
            v.good(f"{name}: transform modulo {prime}", "transform", **given_, terms=dense)
            v.good(f"{name}: back modulo {prime}", "transform back", **given_, terms=dense)
    prime = SETS["bfv-46"].primes[0]
    terms = {"0": 5, "1": prime - 1, "4095": 7}
    v.good("a transform of degree 4096", "transform", prime=prime, degree=4096, terms=terms)
    v.good(
        "a transform back of degree 4096", "transform back", prime=prime, degree=4096, terms={"0": 1, "3": 9}
    )
    v.good("a transform of degree 2", "transform", prime=17, degree=2, terms={"0": 3, "1": 16})
    for name, why, modulus, degree in (
        ("no power of two", "degree 12", prime, 12),
        ("degree 1", "at least 2", prime, 1),
        ("a prime without a root", "not 1 modulo 2N", 40961, 8192),
        ("no prime", "15 · 17 = 255 is none", 255 * 256 + 1, 64),
        ("too large a modulus", "not below 2^60", 2**61 + 1, 8),
    ):
        terms = {"0": 1}
        v.bad(f"root: {name}", why, "root", prime=modulus, degree=degree)
        v.bad(f"transform: {name}", why, "transform", prime=modulus, degree=degree, terms=terms)
        v.bad(f"transform back: {name}", why, "transform back", prime=modulus, degree=degree, terms=terms)

    name, transcript = "bfv-60-joint", secret("transcript").hex()
    one = SETS[name]
    at = {"set": name, "degree": SMALL}
    for set_ in (name, "bfv-60"):
        v.good(
            f"{set_}: joint polynomial, short",
            "joint polynomial",
            set=set_,
            degree=SMALL,
            transcript=transcript,
        )
    v.good("joint polynomial", "joint polynomial", set=name, degree=8192, transcript=transcript)
    why = "transcripts have 32 bytes"
    v.bad("joint polynomial of a cut transcript", why, "joint polynomial", **at, transcript=transcript[2:])
    shares = [pack(rows(f"share {i}", one.key_primes, SMALL), one.key_primes).hex() for i in range(3)]
    v.good("a joint key of three", "joint public key", **at, transcript=transcript, shares=shares)
    v.good("a joint key of two", "joint public key", **at, transcript=transcript, shares=shares[:2])
    for what, why, listed in (
        ("one", "a committee has two or more", shares[:1]),
        ("nobody", "a committee has two or more", []),
        ("one twice", "shares differ", [shares[0], shares[0]]),
        ("a cut share", "a byte too few", [shares[0], shares[1][2:]]),
        ("a share out of range", "not below the prime", [shares[0], "ff" * (len(shares[0]) // 2)]),
    ):
        v.bad(f"a joint key of {what}", why, "joint public key", **at, transcript=transcript, shares=listed)
    total = pack(rows("total", one.primes, 4 * SMALL), one.primes).hex()
    partials = [pack(rows(f"partial {i}", one.primes, 2 * SMALL), one.primes).hex() for i in range(2)]
    given_ = {**at, "length": SMALL + 1}
    v.good("put together", "put together", **given_, total=total, partials=partials)
    for what, why, parts in (
        ("a cut part", "a byte too few", [partials[0], partials[1][2:]]),
        ("a part out of range", "not below the prime", [partials[0], "ff" * (len(partials[0]) // 2)]),
        ("a whole ciphertext", "two polynomials", [total]),
    ):
        v.bad(f"put together with {what}", why, "put together", **given_, total=total, partials=parts)
    v.bad(
        "put together over a cut sum",
        "a byte too few",
        "put together",
        **given_,
        total=total[2:],
        partials=partials,
    )
    return v


def choice() -> Vectors:
    v = Vectors("The set and the codes that an encrypted session takes, and the smudging of a committee.")

    def bfv(demands: list[tuple[float, int]], n: int, committee: bool = False) -> dict[str, object]:
        wanted = [[float(bound).hex(), bits] for bound, bits in demands]
        return {"demands": wanted, "summands": n, "committee": committee}

    for demands, n in (
        ([(100.0, 20)], 4), ([(1.0, 32)], 10), ([(1.0, 20), (1e4, 20)], 10), ([(1e6, 32)], 10),
        ([(1.0, 42)], 10), ([(2.0**20, 24), (1.0, 0)], 100), ([(100.0, 20)], 1000), ([(1e-300, 20)], 3),
    ):  # fmt: skip
        v.good(f"bfv for {demands} of {n}", "choose bfv", **bfv(demands, n))
        v.good(f"a committee for {demands} of {n}", "choose bfv", **bfv(demands, n, True))
    v.bad("bfv without room", "over 60 bits", "choose bfv", **bfv([(1e6, 40)], 10))
    v.bad("a committee without room", "over 60 bits", "choose bfv", **bfv([(1e6, 40)], 10, True))
    v.bad("bfv with noise", "too many summands", "choose bfv", **bfv([(1e-6, 0)], 10**6))
    v.bad("bfv without a bound", "not positive", "choose bfv", **bfv([(0.0, 20)], 4))

    def ckks(demands: list[tuple[int, float, float]], n: int) -> dict[str, object]:
        wanted = [[length, float(bound).hex(), float(error).hex()] for length, bound, error in demands]
        return {"demands": wanted, "summands": n}

    room = SETS["ckks-precise"].room
    for name, accepted, n in (
        ("as precise as can be", [(5, 100.0, inf)], 4),
        ("accepting little", [(5, 100.0, 1e-4)], 4),
        ("accepting much", [(5, 100.0, 100.0)], 4),
        ("accepting different errors", [(5, 1.0, 100.0), (9000, 1.0, 1e-5)], 10),
        ("accepting one at best", [(5, 1.0, inf), (5, 1.0, 1000.0)], 10),
        ("long", [(10**6, 1.0, inf)], 100),
        ("a bound that just fits", [(5, room / 2, inf)], 2),
        ("a bound that just does not", [(5, nextafter(room / 2, inf), inf)], 2),
        ("a bound whose logarithm rounds down", [(1, float.fromhex("0x1.fc03fc0000000p+22"), 1e9)], 257),
    ):
        v.good(f"ckks {name}", "choose ckks", **ckks(accepted, n))
    v.bad("ckks too exact", "no set guarantees it", "choose ckks", **ckks([(5, 100.0, 1e-12)], 4))
    v.bad("ckks too large", "no set holds it", "choose ckks", **ckks([(5, 1e300, inf)], 4))
    v.bad("ckks of a tiny bound", "more than 512 bits", "choose ckks", **ckks([(5, 1e-300, inf)], 3))
    v.bad("ckks without a bound", "not positive", "choose ckks", **ckks([(5, 0.0, inf)], 4))
    v.bad("ckks of an infinite bound", "not finite", "choose ckks", **ckks([(5, inf, inf)], 4))

    code = [25, 2**25 * 100, 4, 8]
    slots = [0.0, 1.0, -2.5, 2.0**20 + 0.3, -(2.0**33)]
    for set_ in ("ckks-compact", "ckks-precise"):
        given = {"set": set_, "code": code, "summands": 4, "decryptions": 3}
        v.good(f"{set_}: released", "release ckks", **given, slots=[slot.hex() for slot in slots])
    code = [20, 2**20, 4, 8]
    given = {"set": "ckks-precise", "code": code, "summands": 3, "decryptions": 1}
    for name, slot in (("large", 2.0**22), ("small", -(2.0**22)), ("infinite", inf)):
        why = "clients make at most 3·2^20 units, and little noise"
        v.bad(f"released: {name}", why, "release ckks", **given, slots=[(0.0).hex(), slot.hex()])
    v.bad("released: no number", "not finite", "release ckks", **given, slots=["nan"])
    values = [0, 1, -1, 2**45 - 1, -(2**45)]
    v.good("a decrypted sum under BFV", "check bfv", set="bfv-46", values=values, budget=2)
    v.bad(
        "a sum with too little budget",
        "two bits at least",
        "check bfv",
        set="bfv-46",
        values=values,
        budget=1,
    )

    for holders, n in ((2, 2), (2, 1000), (3, 10), (3, 1000), (9, 100)):
        given = {"set": "bfv-60-joint", "holders": holders, "summands": n}
        v.good(f"smudging of {holders} for {n}", "smudging bits", **given)
    for name, why, set_, holders, n in (
        ("one holder", "a committee has two or more", "bfv-60-joint", 1, 10),
        ("no summand", "at least one", "bfv-60-joint", 2, 0),
        ("a small set", "no room to hide the noise", "bfv-60", 2, 10),
        ("ckks", "a joint key opens exact sums", "ckks-precise", 2, 10),
    ):
        v.bad(f"smudging: {name}", why, "smudging bits", set=set_, holders=holders, summands=n)
    return v
