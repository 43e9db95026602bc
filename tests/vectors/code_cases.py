"""Vectors of codes, words, masks, shares and graphs."""

from math import inf, nan, nextafter

from reference import messagepack
from reference import tags as authentic

from vectors.cases import Vectors, secret

P = 2**256 + 297
T60 = 1152921504606830593


def h(value: float) -> str:
    return float(value).hex()


def fixed_point() -> Vectors:
    v = Vectors("Fixed-point codes: which exist, which a plan gives, and what they make of doubles.")
    for name, fields in {
        "a code": [20, 104857600, 4, 4],
        "negative fraction bits": [-512, 1, 1, 4],
        "most fraction bits": [512, 1, 1, 4],
        "the largest sum of 4 bytes": [0, 2**31 - 1, 1, 4],
        "the largest sum of 8 bytes": [0, 2**61, 3, 8],
    }.items():
        v.good(name, "code", fields=fields)
    for name, why, fields in (
        ("513 fraction bits", "out of range", [513, 1, 1, 4]),
        ("-513 fraction bits", "out of range", [-513, 1, 1, 4]),
        ("3 bytes", "width out of range", [0, 1, 1, 3]),
        ("9 bytes", "width out of range", [0, 1, 1, 9]),
        ("no magnitude", "below 1", [0, 0, 1, 4]),
        ("no summand", "below 1", [0, 1, 0, 4]),
        ("a sum of 4 bytes that overflows", "n·magnitude = 2^31", [0, 2**31, 1, 4]),
        ("a sum of 8 bytes that overflows", "n·magnitude = 2^63", [0, 2**62, 2, 8]),
    ):
        v.bad(name, why, "code", fields=fields)

    def fit(bound: float, members: int, bits: int, room: int | None = None) -> dict[str, object]:
        return {"bound": h(bound), "members": members, "fraction_bits": bits, "room": room}

    for bound, members, bits in (
        (100.0, 4, 20), (100.0, 50, 20), (1.0, 2, 32), (1.0, 10**6, 32), (0.1, 7, 24), (3.5, 3, 53),
        (2.0**40, 1000, 0), (1e-300, 5, 20), (5e-324, 1, 512), (1e160, 2, -512),
        (2.0**31 - 1, 1, 0), (2.0**31, 1, 0), (nextafter(2.0**31 - 1, inf), 1, 0), (1 / 3, 3, -10),
    ):  # fmt: skip
        v.good(f"fit {bound!r} {members} {bits}", "fit", **fit(bound, members, bits))
    v.good("fit in half a modulus", "fit", **fit(100.0, 10, 20, T60 // 2))
    v.good("fit just in a small room", "fit", **fit(1.0, 8, 0, 8))
    for name, why, given in (
        ("fit no bound", "not positive", fit(0.0, 4, 20)),
        ("fit a negative bound", "not positive", fit(-1.0, 4, 20)),
        ("fit an infinite bound", "not finite", fit(inf, 4, 20)),
        ("fit a bound that is no number", "not finite", fit(nan, 4, 20)),
        ("fit nobody", "no summand", fit(1.0, 0, 20)),
        ("fit too large a sum", "more than 8 bytes", fit(2.0**40, 1000, 20)),
        ("fit more than the room", "9 units of 1 in a room of 8", fit(1.0, 9, 0, 8)),
        ("fit the largest double", "more than 8 bytes with 0 fraction bits", fit(1.7e308, 2, 0)),
    ):
        v.bad(name, why, "fit", **given)

    whole, halves = [0, 2**40, 4, 8], [1, 2**40, 4, 8]
    ties = [0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.49999999999999994, -0.0, 5e-324]
    v.good("encode ties to even", "encode", code=whole, values=[*map(h, ties)])
    v.good("encode halves", "encode", code=halves, values=[*map(h, [0.25, 0.75, 1.25, -0.25, -0.75])])
    v.good("encode the bound", "encode", code=whole, values=[h(2.0**40), h(-(2.0**40)), h(2.0**40 + 0.5)])
    v.good("encode with negative bits", "encode", code=[-4, 10, 4, 4], values=[h(24.0), h(8.0), h(-160.0)])
    v.good("encode with 512 bits", "encode", code=[512, 2**60, 4, 8], values=[h(2.0**-452), h(2.0**-513)])
    v.good("encode nothing", "encode", code=whole, values=[])
    v.good(
        "encode more than 53 bits", "encode", code=[10, 2**62, 1, 8], values=[h(2.0**52 - 1), h(-(2.0**52))]
    )
    v.good("encode units", "encode units", code=halves, units=[0, 3, -3, 2**39], fraction_bits=0)
    v.good("encode units of its own", "encode units", code=whole, units=[2**40, -(2**40), 1], fraction_bits=0)
    v.good(
        "encode units of over 53 bits",
        "encode units",
        code=[10, 2**62, 1, 8],
        units=[2**58 + 1],
        fraction_bits=7,
    )
    v.bad(
        "encode units over the bound",
        "2^40 + 2",
        "encode units",
        code=halves,
        units=[2**39 + 1],
        fraction_bits=0,
    )
    v.bad(
        "encode finer units",
        "2 fraction bits, the code has 1",
        "encode units",
        code=halves,
        units=[1],
        fraction_bits=2,
    )
    for name, why, value in (
        ("encode over the bound", "2^40 + 1", 2.0**40 + 1),
        ("encode rounded over the bound", "2^40 + 1.5", 2.0**40 + 1.5),
        ("encode the largest double", "over the bound", 1.7e308),
        ("encode 2^63", "over the bound", 2.0**63),
        ("encode infinity", "not finite", inf),
        ("encode minus infinity", "not finite", -inf),
        ("encode no number", "not finite", nan),
    ):
        v.bad(name, why, "encode", code=whole, values=[h(0.0), h(value)])

    v.good(
        "decode", "decode sum", code=[20, 2**20, 4, 4], total=[1, 2**32 - 1, 2**22, 2**32 - 2**22], summands=4
    )
    v.good(
        "decode drops high bytes", "decode sum", code=[0, 9, 4, 4], total=[2**63 + 7, 2**40 - 1], summands=1
    )
    v.good(
        "decode rounds to even", "decode sum", code=[1, 2**60, 4, 8], total=[2**54 + 2, 2**54 + 6], summands=4
    )
    v.good("decode with 512 bits", "decode sum", code=[512, 9, 1, 8], total=[9, 2**64 - 9], summands=1)
    v.bad(
        "decode a large entry",
        "over 3·2^20",
        "decode sum",
        code=[20, 2**20, 4, 4],
        total=[3 * 2**20 + 1],
        summands=3,
    )
    v.bad(
        "decode a small entry",
        "under -2^20",
        "decode sum",
        code=[20, 2**20, 4, 4],
        total=[2**32 - 2**20 - 1],
        summands=1,
    )
    v.bad("decode nobody's sum", "no summand", "decode sum", code=[20, 2**20, 4, 4], total=[0], summands=0)
    v.bad("decode too many", "5 of 4 summands", "decode sum", code=[20, 2**20, 4, 4], total=[0], summands=5)
    return v


def packing() -> Vectors:
    v = Vectors("Words on the wire, for widths of 4 to 8 bytes, and words of Z_t.")
    values = [0, 1, 255, 2**31, 2**32 - 1, 2**40 + 5, 0x0123456789ABCDEF, 2**63, 2**64 - 1]
    for width in range(4, 9):
        payload = v.good(f"pack {width}", "pack", values=values, width=width)
        v.good(f"unpack {width}", "unpack", payload=payload, length=len(values), width=width)
        v.good(f"signed {width}", "signed", values=values, width=width)
        v.bad(
            f"unpack {width} cut",
            "a byte too few",
            "unpack",
            payload=payload[:-2],
            length=len(values),
            width=width,
        )
        v.bad(
            f"unpack {width} long",
            "a byte too many",
            "unpack",
            payload=payload + "00",
            length=len(values),
            width=width,
        )
        v.good(f"pack {width} one", "pack", values=[2**64 - 2], width=width)
    v.good("pack nothing", "pack", values=[], width=4)
    v.good("unpack nothing", "unpack", payload="", length=0, width=4)
    v.bad("unpack other words", "9 values, 8 expected", "unpack", payload="00" * 36, length=8, width=4)
    for t in (2**32 + 15, 70368743374849, T60, 2**63 - 25):
        v.good(f"modular {t}", "modular", values=[0, 1, t - 1, t, 2**63, 2**64 - 1, 2**64 - 5], modulus=t)
        v.good(f"centred {t}", "centred", values=[0, 1, t // 2, t // 2 + 1, t - 1], modulus=t)
    return v


def masks() -> Vectors:
    v = Vectors(
        "Masks: keystreams added and subtracted, modulo 2^64 or 2^32 and below a modulus by rejection."
    )
    one, two, three = (secret(f"mask {i}").hex() for i in range(3))
    for name, t in (("2^64", 0), ("2^32 + 15", 2**32 + 15), ("46 bits", 70368743374849), ("60 bits", T60)):
        v.good(f"the mask of a key mod {name}", "masks", vector=12, plus=[one], minus=[], modulus=t)
        v.good(f"subtracted mod {name}", "masks", vector=[5, 0, 1], plus=[], minus=[one], modulus=t)
        v.good(f"several mod {name}", "masks", vector=[1, 2, 3], plus=[one, three], minus=[two], modulus=t)
        # Longer than a chunk of 8192: rejected values are drawn again before the next chunk begins.
        v.good(f"many mod {name}", "masks", vector=2 * 8192 + 100, plus=[one], minus=[two], modulus=t)
        v.good(f"one chunk mod {name}", "masks", vector=8192, plus=[two], minus=[], modulus=t)
    short = {"modulus": 0, "size": 4}
    v.good("the mask of a key, words of 4 bytes", "masks", vector=12, plus=[one], minus=[], **short)
    v.good("subtracted, words of 4 bytes", "masks", vector=[5, 0, 1], plus=[], minus=[one], **short)
    v.good(
        "several, words of 4 bytes",
        "masks",
        vector=[1, 2**32 - 1, 3],
        plus=[one, three],
        minus=[two],
        **short,
    )
    v.good("many, words of 4 bytes", "masks", vector=4 * 8192 + 100, plus=[one], minus=[two], **short)
    v.bad(
        "a modulus for words of 4 bytes",
        "they hold no modulus",
        "masks",
        vector=[1],
        plus=[one],
        minus=[],
        modulus=2**32 + 15,
        size=4,
    )
    v.good("no keys", "masks", vector=[7, 2**64 - 1], plus=[], minus=[], modulus=0)
    v.good("no values", "masks", vector=0, plus=[one], minus=[], modulus=0)
    v.bad("a key twice", "its mask would repeat", "masks", vector=3, plus=[one, one], minus=[], modulus=0)
    v.bad(
        "a key on both sides", "its mask would cancel", "masks", vector=3, plus=[one], minus=[one], modulus=0
    )
    v.bad("a short key", "31 bytes", "masks", vector=3, plus=[one[2:]], minus=[], modulus=0)
    v.bad("a long key", "33 bytes", "masks", vector=3, plus=[], minus=[one + "00"], modulus=0)
    v.bad("an entry of t", "entries are below t", "masks", vector=[T60], plus=[one], minus=[], modulus=T60)
    v.bad("a modulus of 64 bits", "t is below 2^63", "masks", vector=[1], plus=[one], minus=[], modulus=2**63)
    return v


def tags() -> Vectors:
    """Tags, made with the reference; which sums they fit, and which not."""
    v = Vectors("Tags of vectors, and the sums that they fit.")
    p = authentic.P
    for size, magnitude in ((4, 2**29 - 1), (8, 2**37), (8, 2**61 - 1)):
        for length in (1, 5, 9):
            key, what = (
                secret(f"tags {size} {magnitude} {length}"),
                f"{size} bytes, {length} entries, up to {magnitude}",
            )
            draws = [int.from_bytes(secret(f"entry {i}"), "big") for i in range(3 * length)]
            vectors = [
                [one % (2 * magnitude + 1) - magnitude for one in draws[at : at + length]]
                for at in range(0, 3 * length, length)
            ]
            vectors[1] = [magnitude] * length
            given = {"magnitude": magnitude, "size": size, "participants": 4}
            made = [
                int.from_bytes(
                    bytes.fromhex(
                        v.good(
                            f"tag of {index}, {what}", "tag", key=key.hex(), vector=one, index=index, **given
                        )
                    ),
                    "little",
                )
                for index, one in enumerate(vectors)
            ]
            total, tag = [sum(column) for column in zip(*vectors, strict=True)], sum(made) % p
            fits = {"key": key.hex(), "total": total, "tag": authentic.packed(tag).hex(), **given}
            v.good(f"sum of 3, {what}", "tag fits", survivors=[0, 1, 2], **fits)
            negated = authentic.packed(-tag % p).hex()
            low = [total[0] + (-1 if total[0] > 0 else 1), *total[1:]]
            for name, why, changed in (
                ("of other survivors", "two pads", {"survivors": [0, 1]}),
                ("with another survivor", "another pad", {"survivors": [0, 1, 3]}),
                ("with an entry altered", "another sum", {"total": low}),
                ("negated with its tag", "pads are not", {"total": [-one for one in total], "tag": negated}),
                ("under another key", "another key", {"key": secret("another").hex()}),
                ("with the next tag", "another tag", {"tag": authentic.packed((tag + 1) % p).hex()}),
                ("with the tag plus p", "not below p", {"tag": (tag + p).to_bytes(17, "little").hex()}),
                ("with a tag of 16 bytes", "17 bytes", {"tag": authentic.packed(tag).hex()[:-2]}),
                ("over what clients can reach", "over the bound", {"total": [3 * magnitude + 1, *total[1:]]}),
                (
                    "under what clients can reach",
                    "over the bound",
                    {"total": [-3 * magnitude - 1, *total[1:]]},
                ),
            ):
                v.bad(
                    f"sum of 3, {what}, {name}",
                    why,
                    "tag fits",
                    **{"survivors": [0, 1, 2], **fits, **changed},
                )
    return v


def shamir() -> Vectors:
    v = Vectors("Shamir's sharing over the field of 2^256 + 297 elements.")
    coefficients = [int.from_bytes(secret(f"coefficient {i}"), "big") for i in range(3)]
    value = secret("shared")
    shares = v.good(
        "4 of 5", "split", secret=value.hex(), threshold=4, points=[1, 2, 3, 4, 5], coefficients=coefficients
    )
    v.good("1 of 2", "split", secret=value.hex(), threshold=1, points=[1, 9], coefficients=[])
    v.good("the largest", "split", secret="ff" * 32, threshold=2, points=[1, 2, 2**64], coefficients=[P - 1])
    v.good("zero", "split", secret="00" * 32, threshold=3, points=[7, 3, 1], coefficients=[0, 0])
    for name, why, changed in (
        ("a secret of 31 bytes", "32 bytes", {"secret": value.hex()[2:]}),
        ("a point 0", "that is the secret's", {"points": [0, 1, 2, 3]}),
        ("a point twice", "points are distinct", {"points": [1, 2, 2, 3]}),
        ("too few points", "3 of a threshold of 4", {"points": [1, 2, 3]}),
        ("no threshold", "at least 1", {"threshold": 0}),
    ):
        given = {
            "secret": value.hex(),
            "threshold": 4,
            "points": [1, 2, 3, 4, 5],
            "coefficients": coefficients,
        }
        v.bad(f"split with {name}", why, "split", **given | changed)
    v.good("combine all", "combine", shares=shares, threshold=4)
    v.good("combine some", "combine", shares={at: shares[at] for at in ("5", "2", "4", "1")}, threshold=4)
    v.good("combine one of 1", "combine", shares={"9": "00" + value.hex()}, threshold=1)
    wrong = shares | {"2": shares["3"]}
    v.good("a wrong share gives another secret", "combine", shares=wrong, threshold=4)
    v.bad("combine too few", "3 of 4", "combine", shares={at: shares[at] for at in "123"}, threshold=4)
    v.bad("combine a short share", "32 bytes", "combine", shares=shares | {"1": shares["1"][2:]}, threshold=4)
    v.bad(
        "combine a long share", "34 bytes", "combine", shares=shares | {"1": "00" + shares["1"]}, threshold=4
    )
    v.bad(
        "combine a share of p",
        "not below p",
        "combine",
        shares=shares | {"1": P.to_bytes(33, "big").hex()},
        threshold=4,
    )
    large = {"1": (2**256 + 5).to_bytes(33, "big").hex()}
    v.bad("combine to more than 32 bytes", "2^256 + 5 is no secret", "combine", shares=large, threshold=1)
    return v


def graph() -> Vectors:
    v = Vectors("Neighbour graphs, thresholds, and what a server chooses.")

    def parameters(cohort: list[int], degree: int, profile: str = "semi-honest") -> str:
        session, roster = secret(f"graph {len(cohort)}"), secret("roster")
        code = ["round", "sum", 5, 20, 1000, 5, 0, b""]
        verify = "tags" if profile == "active" else "none"
        head = ["parameters", "secure-afl/2", session, profile, verify, "x25519", roster]
        return messagepack.pack([*head, cohort, degree, degree, [code]]).hex()

    for n, degree in ((2, 1), (4, 2), (5, 4), (9, 4), (20, 6), (100, 20)):
        encoded = parameters([3 * place + 1 for place in range(n)], degree)
        for place in {1, 4, 3 * (n // 2) + 1, 3 * n - 2}:
            v.good(f"neighbours of {place}, {degree} of {n}", "neighbours", encoded=encoded, place=place)
    v.good("neighbours, active", "neighbours", encoded=parameters([0, 1, 2, 5], 3, "active"), place=2)
    v.bad("neighbours, odd degree", "odd", "neighbours", encoded=parameters([*range(9)], 3), place=0)
    v.bad(
        "neighbours, sparse and active",
        "complete",
        "neighbours",
        encoded=parameters([*range(9)], 4, "active"),
        place=0,
    )

    for n, profile, corrupted, dropout, rounds in (
        (4, "active", 1, 0.2, 1), (10, "active", 1, 0.2, 3), (50, "active", 5, 0.2, 1), (100, "active", 10, 0.3, 9),
        (3, "semi-honest", 1, 0.1, 1), (10, "semi-honest", 1, 0.2, 2), (60, "semi-honest", 2, 0.1, 1),
        (100, "semi-honest", 5, 0.1, 1), (150, "semi-honest", 10, 0.05, 1), (4, "active", 0, 0.0, 1),
        (150, "semi-honest", 10, 0.05, 2), (150, "semi-honest", 10, 0.05, 1000), (1000, "semi-honest", 50, 0.2, 20),
    ):  # fmt: skip
        given = {"n": n, "profile": profile, "corrupted": corrupted, "dropout": h(dropout), "rounds": rounds}
        v.good(f"chosen for {n} {profile} {corrupted} {dropout} {rounds}", "choose graph", **given)
    for name, why, n, profile, corrupted, dropout in (
        ("too many dropouts", "fewer than t are left", 10, "active", 1, 0.5),
        ("too many corrupted", "2t - n may collude", 10, "active", 4, 0.2),
        ("a corrupted majority", "t may collude", 5, "semi-honest", 3, 0.2),
    ):
        given = {"n": n, "profile": profile, "corrupted": corrupted, "dropout": h(dropout), "rounds": 1}
        v.bad(name, why, "choose graph", **given)
    for n in (2, 3, 4, 5, 6, 50, 99):
        v.good(f"least threshold of {n}, active", "least threshold", profile="active", n=n, degree=n - 1)
        v.good(f"least threshold of {n}", "least threshold", profile="semi-honest", n=n, degree=n - 1)
    v.good("least threshold, sparse", "least threshold", profile="semi-honest", n=99, degree=20)
    return v
