"""The messages of a masked session (docs/protocol.md §5)."""

from typing import Any

from reference import fixedpoint, hpke
from reference.refused import need
from reference.schema import (
    Fields,
    Kind,
    by_place,
    data,
    increasing,
    integer,
    many,
    message,
    name,
    natural,
    one_of,
    read,
    tuple_of,
)

VERSION = "secure-afl/2"


def check_round(fields: Fields) -> None:
    need(fields["length"] >= 1, "a value")
    need(fields["modulus"] == 0 or 2**32 < fields["modulus"] < 2**63, "no modulus or one of 33 to 63 bits")


def check_rounds(rounds: list[Fields], n: int) -> None:
    """Names are unique, and no sum of n clients overflows."""
    need(bool(rounds), "a round")
    need(len({one["statistic"] for one in rounds}) == len(rounds), "each sum once")
    for one in rounds:
        fixedpoint.Code(one["fraction_bits"], one["magnitude"], n, one["width"])


def check_parameters(fields: Fields) -> None:
    n, degree, rounds = len(fields["cohort"]), fields["degree"], fields["rounds"]
    need(n >= 2, "two clients")
    sparse = fields["profile"] == "semi-honest" and 0 < degree < n - 1 and degree % 2 == 0
    need(
        fields["profile"] == "active" or fields["verify"] == "none", "no checks under the semi-honest profile"
    )
    need(degree == n - 1 or sparse, "n - 1 neighbours, or an even number under the semi-honest profile")
    need(1 <= fields["threshold"] <= degree + 1, "a threshold of 1 to degree + 1")
    check_rounds(rounds, n)
    for one in rounds:
        t = one["modulus"]
        need(t == rounds[0]["modulus"], "one modulus in all rounds")
        need(t == 0 or n * one["magnitude"] <= t // 2, "a sum within half the modulus")
        if fields["verify"] == "replay":
            need(t == 0 and n * one["length"] * one["width"] <= 2**29, "uploads that can be replayed")


PLACES = increasing(natural)
ROUND = message(
    "round",
    {
        "statistic": name,
        "length": natural,
        "fraction_bits": integer,
        "magnitude": natural,
        "width": natural,
        "modulus": natural,
        "noise": data(0, 32),
    },
    check_round,
)
PARAMETERS = message(
    "parameters",
    {
        "version": one_of(VERSION),
        "session": data(32),
        "profile": one_of("active", "semi-honest"),
        "verify": one_of("tags", "replay", "none"),
        "suite": one_of("hybrid", "x25519"),
        "roster": data(32),
        "cohort": PLACES,
        "degree": natural,
        "threshold": natural,
        "rounds": many(ROUND),
    },
    check_parameters,
)
ADVERTISE = message("advertise", {"channel_key": data(), "mask_keys": many(data()), "tag_commitment": data()})
BUNDLE = message(
    "bundle",
    {
        "recipient": natural,
        "sealed": data(),
        "pair_secrets": many(data()),
        "commitments": many(many(data())),
        "signature": data(),
    },
)
SHARES = message(
    "shares",
    {
        "own_commitments": many(tuple_of(data(32), data(32))),
        "bundles": increasing(BUNDLE, key=lambda bundle: int(bundle["recipient"])),
    },
)


def _accepted(value: Any) -> bytes:
    said = data()(value)
    fits = 33 <= len(said) <= 1056 and said[-1] != 0
    need(not said or fits, "nothing, or a digest and bits of rounds whose last byte is not 0")
    return bytes(said)


def check_evidence(fields: Fields) -> None:
    """Seeds of the survivors, and of each other participant a secret with each of them."""
    survivors, seeded, dropped = ([who for who, _ in fields[one]] for one in ("uploads", "seeds", "secrets"))
    need(seeded == survivors, "a seed of each survivor")
    need(
        sorted(survivors + dropped) == fields["participants"],
        "survivors and dropouts that are the participants",
    )
    for _, secrets in fields["secrets"]:
        need(len(secrets) == len(survivors), "a secret with each survivor")


VOTE = message("vote", {"upload": data(32), "accepted": _accepted, "log": data(0, 32), "signature": data(64)})
TO_CLIENTS: dict[str, Kind] = {
    "directory": message("directory", {"transcript": data(32), "frames": by_place(data())}),
    "delivery": message("delivery", {"transcript": data(32), "bundles": by_place(BUNDLE)}),
    "sum request": message("sum request", {"transcript": data(32), "round": natural, "participants": PLACES}),
    "survivors": message("survivors", {"transcript": data(32), "round": natural, "survivors": PLACES}),
    "survivor roots": message(
        "survivor roots", {"transcript": data(32), "round": natural, "roots": by_place(data(32))}
    ),
    "consents": message("consents", {"transcript": data(32), "round": natural, "votes": by_place(VOTE)}),
    "answer": message("answer", {"transcript": data(32), "round": natural, "payload": data(), "tag": data()}),
    "evidence": message(
        "evidence",
        {
            "transcript": data(32),
            "round": natural,
            "directory": data(32),
            "participants": PLACES,
            "votes": by_place(VOTE),
            "uploads": by_place(data()),
            "seeds": by_place(data(32)),
            "secrets": by_place(many(data(32))),
        },
        check_evidence,
    ),
}
FROM_CLIENTS: dict[str, Kind] = {
    "advertise": ADVERTISE,
    "shares": SHARES,
    "confirm": message("confirm", {"complaints": PLACES}),
    "upload": message("upload", {"round": natural, "payload": data(), "proof": data()}),
    "consent": message("consent", {"round": natural, "vote": VOTE}),
    "reveal": message("reveal", {"round": natural, "shares": by_place(data(33))}),
    "verdict": message("verdict", {"round": natural, "accepted": data(0, 32), "log": data(0, 32)}),
}


# ---- lengths that follow from the session --------------------------------------------------------


def check_advertise(encoded: bytes, suite: str, rounds: int, verify: str) -> Fields:
    """K bytes a key, a mask key a round, and with tags a commitment."""
    fields = read(encoded, {"advertise": ADVERTISE})
    need(len(fields["mask_keys"]) == rounds, "a mask key for each round")
    for key in (fields["channel_key"], *fields["mask_keys"]):
        need(len(key) == hpke.KEY_BYTES[suite], "a key of the suite's length")
    need(len(fields["tag_commitment"]) == (32 if verify == "tags" else 0), "a commitment with tags only")
    return fields


def check_shares(encoded: bytes, suite: str, rounds: int, dealer: int, verify: str) -> Fields:
    """The lengths of own commitments and of each bundle."""
    fields = read(encoded, {"shares": SHARES})
    need(len(fields["own_commitments"]) == rounds, "own commitments for each round")
    for bundle in fields["bundles"]:
        paired = dealer < bundle["recipient"]
        plain = 66 * rounds + (32 if verify == "tags" else 0)
        need(len(bundle["sealed"]) == plain + hpke.OVERHEAD[suite], "sealed shares of each round")
        need(len(bundle["pair_secrets"]) == (rounds if paired else 0), "pair secrets from low to high only")
        for secret in bundle["pair_secrets"]:
            need(len(secret) == 32 + hpke.OVERHEAD[suite], "a sealed pair secret")
        need(len(bundle["commitments"]) == rounds, "commitments for each round")
        for commitments in bundle["commitments"]:
            need([len(one) for one in commitments] == [32] * (3 if paired else 2), "commitments of 32 bytes")
        need(len(bundle["signature"]) == 64, "a signature")
    return fields
