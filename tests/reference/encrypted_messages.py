"""The messages of an encrypted session (docs/encrypted-protocol.md §5)."""

from reference.lattice import SETS
from reference.masked_messages import PLACES, ROUND, VERSION, check_rounds
from reference.refused import need
from reference.schema import Fields, Kind, by_place, data, many, message, natural, one_of


def check_agreement(fields: Fields) -> None:
    n, lattice = len(fields["cohort"]), SETS[fields["lattice"]]
    need(n >= 2, "two clients")
    check_rounds(fields["rounds"], n)
    for one in fields["rounds"]:
        need(one["modulus"] == (lattice.t if fields["masks"] else 0), "t with masks, else 0")
        need(n * one["magnitude"] <= lattice.room, "a sum that the set holds")


AGREEMENT = message(
    "agreement",
    {
        "version": one_of(VERSION),
        "session": data(32),
        "lattice": one_of(*SETS),
        "release": one_of("sum", "weights"),
        "masks": data(0, 32),
        "roster": data(32),
        "holders": data(32),
        "cohort": PLACES,
        "rounds": many(ROUND),
    },
    check_agreement,
)
INVITATION = message("invitation", {"agreement": AGREEMENT, "key": data(), "signatures": many(data())})
OFFER = message(
    "offer",
    {
        "transcript": data(32),
        "round": natural,
        "attempt": natural,
        "contributors": PLACES,
        "ciphertexts": data(32),
    },
)
CHALLENGE = message("challenge", {"seed": data(32), "signature": data(64)})
TO_HOLDERS: dict[str, Kind] = {
    "key commitments": message("key commitments", {"transcript": data(32), "frames": by_place(data())}),
    "key shares": message("key shares", {"transcript": data(32), "shares": by_place(data())}),
    "offer": OFFER,
    "opening": message(
        "opening",
        {"transcript": data(32), "check": data(), "frames": by_place(data()), "ciphertexts": data()},
    ),
}
TO_CLIENTS: dict[str, Kind] = {
    "encrypted request": message(
        "encrypted request",
        {"transcript": data(32), "round": natural, "attempt": natural, "participants": PLACES},
    ),
    "check": message("check", {"transcript": data(32), "offer": OFFER, "challenges": many(CHALLENGE)}),
}
FROM_PARTIES: dict[str, Kind] = {
    "key commitment": message("key commitment", {"digest": data(32)}),
    "key share": message("key share", {"share": data()}),
    "key announcement": message("key announcement", {"signature": data(64)}),
    "challenge": CHALLENGE,
    "opened": message("opened", {"round": natural, "payload": data()}),
    "joined": message("joined", {}),
    "encrypted upload": message(
        "encrypted upload", {"round": natural, "attempt": natural, "payload": data()}
    ),
    "tags": message("tags", {"tags": many(many(natural)), "data_set": data(32)}),
}
FROM_ADDRESSES: dict[str, Kind] = {
    "here": message("here", {"party": natural, "signature": data(64)}),
}
BESIDE: dict[str, Kind] = {
    "learned": message("learned", {"transcript": data(32), "salt": data(32), "model": data()}),
}
