"""Vectors of hashes, keys, signatures, frames and sealed messages."""

from typing import Any

from reference import derivations as derived
from reference import frames as signing
from reference import kdf as hashing
from reference import messagepack

from vectors.cases import Vectors, secret
from vectors.session import Session

PARTS: dict[str, list[bytes]] = {
    "no part": [],
    "an empty part": [b""],
    "two parts": [b"ab", b"c"],
    "split elsewhere": [b"a", b"bc"],
    "a long part": [bytes(range(256)) * 2],
}


def hexes(parts: list[bytes]) -> list[str]:
    return [part.hex() for part in parts]


def kdf() -> Vectors:
    v = Vectors("Bound parts, digests and derived keys under every label, and u64.")
    for value in (0, 1, 255, 2**32, 2**64 - 1):
        v.good(f"u64 {value}", "u64", value=value)
    for name, parts in PARTS.items():
        for operation in ("bind", "digest"):
            v.good(f"{operation}: {name}", operation, label="COMMITMENT", parts=hexes(parts))
        given: dict[str, Any] = {"secret": secret("ikm").hex(), "label": "SELF_MASK", "parts": hexes(parts)}
        v.good(f"derive: {name}", "derive", **given, length=32)
    for length in (1, 31, 33, 64, 96):
        v.good(f"derive {length}", "derive", secret="00" * 32, label="MASK_KEY", parts=[], length=length)
    labels = list(hashing.LABELS)
    for at, name in enumerate(labels):
        listed = hexes([b"part", bytes([at])])
        v.good(f"bind under {name}", "bind", about=name, label=name, parts=listed)
        v.good(f"digest under {name}", "digest", about=name, label=name, parts=listed)
        given = {"label": name, "parts": listed, "length": 32}
        v.good(f"derive under {name}", "derive", about=name, secret=secret("ikm").hex(), **given)
        size = (0, 31, 33, 64)[at % 4]
        why = f"a secret of {size} bytes"
        v.bad(
            f"derive under {name} from {size} bytes", why, "derive", about=name, secret="11" * size, **given
        )
        private = secret("signer")
        sign = {"label": name, "parts": listed}
        signature = v.good(f"sign under {name}", "sign", about=name, private=private.hex(), **sign)
        key = signing.public_key(private).hex()
        v.good(f"verify under {name}", "verify", about=name, key=key, signature=signature, **sign)
        other = labels[at - 1]
        why = f"signed under {name}"
        given = {"key": key, "signature": signature, "label": other, "parts": listed}
        v.bad(f"verify under {other} what is not", why, "verify", about=name, **given)
    return v


_FIELD = 2**255 - 19
_EIGHTH = bytes.fromhex(
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"
)  # y of a point of order 8
_ORDERS = {
    1: (1, _FIELD + 1),
    2: (_FIELD - 1,),
    4: (0, _FIELD),
    8: (int.from_bytes(_EIGHTH, "little"), _FIELD - int.from_bytes(_EIGHTH, "little")),
}
DEGENERATE = (
    *(
        (
            f"of order {order}{' not reduced' * (y >= _FIELD)}, sign {sign}: y = {y:x}"[:60],
            "anybody can sign under a point of small order",
            (y | sign << 255).to_bytes(32, "little"),
        )
        for order, values in _ORDERS.items()
        for y in values
        for sign in (0, 1)
    ),
    ("not reduced", "y is not below the prime", (_FIELD + 3).to_bytes(32, "little")),
    ("off the curve", "no point has this y", (2).to_bytes(32, "little")),
)
"""Keys that are none, with names and reasons."""


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def frames() -> Vectors:
    v = Vectors("Identity keys, signatures, and the frames of clients and key holders.")
    private, other = secret("identity"), secret("another identity")
    key = v.good("an identity key", "identity key", private=private.hex())
    v.good("another identity key", "identity key", private=other.hex())
    given: dict[str, Any] = {"label": "CONSENT_SIGNATURE", "parts": hexes([b"one", b"two"])}
    signature = v.good("a signature", "sign", private=private.hex(), **given)
    v.good("it verifies", "verify", key=key, signature=signature, **given)
    raw, order = bytes.fromhex(signature), 2**252 + 27742317777372353535851937790883648493
    large = raw[:32] + (int.from_bytes(raw[32:], "little") + order).to_bytes(32, "little")
    for name, why, changed in (
        ("first half altered", "no such signature", {"signature": flipped(raw, 3).hex()}),
        ("second half altered", "no such signature", {"signature": flipped(raw, 40).hex()}),
        ("S not reduced", "S is not below the order (RFC 8032 §5.1.7)", {"signature": large.hex()}),
        ("cut", "63 bytes", {"signature": raw[:-1].hex()}),
        ("lengthened", "65 bytes", {"signature": raw.hex() + "00"}),
        ("empty", "no bytes", {"signature": ""}),
        ("another key", "another signed", {"key": signing.public_key(other).hex()}),
        ("a short key", "31 bytes", {"key": key[2:]}),
        ("parts in another order", "other parts", {"parts": given["parts"][::-1]}),
        ("parts joined", "other parts", {"parts": [b"onetwo".hex()]}),
        ("another label", "other label", {"label": "KEY_SIGNATURE"}),
        *(
            (f"the key {name}", why, {"key": bad.hex(), "signature": "00" * 64})
            for name, why, bad in DEGENERATE
        ),
    ):
        v.bad(
            f"a signature, {name}", why, "verify", **{"key": key, "signature": signature, **given, **changed}
        )

    transcript, question = secret("transcript"), b"\x92\xa9directory"
    confirm = messagepack.pack(["confirm", [1, 3]])
    sent = {"transcript": transcript.hex(), "question": question.hex(), "place": 2}
    framed = v.good("a frame", "sign frame", private=private.hex(), message=confirm.hex(), **sent)
    for part, times in ((b"", 1), (b"\0", 1), (b"abcd", 2**14), (b"abc", 2**15), (b"abcde", 60_000)):
        v.good(f"the root of {len(part) * times} bytes", "root of", part=part.hex(), times=times)
    joined = messagepack.pack(["joined"]).hex()
    v.good("a frame of place 0", "sign frame", private=private.hex(), message=joined, **{**sent, "place": 0})
    largest = {**sent, "place": 2**64 - 1}
    v.good("a frame of the largest place", "sign frame", private=private.hex(), message=joined, **largest)
    v.good("it is read", "verify frame", frame=framed, key=key, **sent)
    v.good("the question's digest", "answered", question=question.hex())
    v.good("an empty question's digest", "answered", question="")
    raw = bytes.fromhex(framed)
    for name, why, changed in (
        ("message altered", "not what was signed", {"frame": flipped(raw, 9).hex()}),
        ("signature altered", "no such signature", {"frame": flipped(raw, len(raw) - 1).hex()}),
        ("cut", "a byte too few", {"frame": framed[:-2]}),
        ("cut in front", "a byte too few", {"frame": framed[2:]}),
        ("lengthened", "a byte too many", {"frame": framed + "00"}),
        ("only a signature", "no message", {"frame": framed[-128:]}),
        ("empty", "no bytes", {"frame": ""}),
        ("another sender's key", "another signed", {"key": signing.public_key(other).hex()}),
        ("another place", "signed as place 2", {"place": 3}),
        ("another question", "it answers another", {"question": (question + b"!").hex()}),
        ("no question", "it answers one", {"question": ""}),
        ("another session", "another transcript", {"transcript": secret("another").hex()}),
    ):
        v.bad(f"a frame, {name}", why, "verify frame", **{"frame": framed, "key": key, **sent, **changed})
    for name, body, why in (
        ("signed without digests", confirm, "over the message and question, not their digests"),
        ("signed as in version 1", hashing.digest("FRAME_SIGNATURE", confirm), "over no digests of parts"),
    ):
        old = signing.sign(
            private, "FRAME_SIGNATURE", transcript, signing.answers(question), hashing.u64(2), body
        )
        v.bad(f"a frame, {name}", why, "verify frame", frame=(confirm + old).hex(), key=key, **sent)
    return v


def sealed() -> Vectors:
    v = Vectors(
        "Key pairs from seeds, and sealed messages that they open. Sealing is random; these were made once."
    )
    for suite in ("x25519", "hybrid"):
        s = Session(suite)
        for name in ("CHANNEL_KEY", "MASK_KEY"):
            v.good(f"{suite} {name}", "key pair", suite=suite, seed=s.secret("pair").hex(), label=name)
            v.bad(
                f"{suite} {name} of 31 bytes",
                "seeds have 32",
                "key pair",
                suite=suite,
                seed="00" * 31,
                label=name,
            )
        seed, info = s.secret("mask seed 1"), derived.pair_info(s.transcript, 0, 0, 1)
        key = s.keys(1, "mask").public
        message = s.sealed(key, s.secret("plain"), info)
        given = {"suite": suite, "seed": seed.hex(), "label": "MASK_KEY"}
        about = {"info": info.hex()}
        v.good(f"{suite} opens", "open sealed", **given, sealed=message.hex(), **about)
        nothing = s.sealed(key, b"", b"")
        v.good(f"{suite} opens nothing", "open sealed", **given, sealed=nothing.hex(), info="")
        for name, why, changed in (
            ("another info", "sealed for another", {"info": info.hex() + "00"}),
            ("a cut info", "sealed for another", {"info": info.hex()[:-2]}),
            ("another seed", "sealed to another", {"seed": "01" * 32}),
            ("another use", "sealed to another", {"label": "CHANNEL_KEY"}),
            ("encapsulation altered", "another shared secret", {"sealed": flipped(message, 0).hex()}),
            (
                "X25519 altered",
                "another shared secret",
                {"sealed": flipped(message, len(message) - 80).hex()},
            ),
            ("ciphertext altered", "no such tag", {"sealed": flipped(message, len(message) - 30).hex()}),
            ("tag altered", "no such tag", {"sealed": flipped(message, len(message) - 1).hex()}),
            ("cut", "a byte too few", {"sealed": message[:-1].hex()}),
            ("lengthened", "a byte too many", {"sealed": message.hex() + "00"}),
            ("only an encapsulation", "no tag", {"sealed": message[:-48].hex()}),
            ("empty", "no bytes", {"sealed": ""}),
            (
                "of low order",
                "a shared secret of zeros",
                {"sealed": (bytes(len(message) - 48) + message[-48:]).hex()},
            ),
        ):
            merged = {**given, "sealed": message.hex(), **about, **changed}
            v.bad(f"{suite}, {name}", why, "open sealed", **merged)
        v.good(f"{suite} can be sealed to", "seal to", suite=suite, key=key.hex())
        v.bad(f"{suite} short key", "a byte too few", "seal to", suite=suite, key=key[:-1].hex())
        v.bad(f"{suite} long key", "a byte too many", "seal to", suite=suite, key=key.hex() + "00")
        low = key[:-32] + bytes(32)
        v.bad(f"{suite} key of low order", "X25519 gives zeros", "seal to", suite=suite, key=low.hex())
    high = b"\xff\xff\xff" + key[3:]
    v.bad(
        "hybrid key out of range",
        "ML-KEM coefficients are below 3329",
        "seal to",
        suite="hybrid",
        key=high.hex(),
    )
    return v


def derivations() -> Vectors:
    v = Vectors("What both protocols derive, hash and sign.")
    s = Session("x25519")
    members = [[name, key.hex()] for name, key in s.members]
    v.good("a roster", "roster digest", members=members)
    v.good("the roster in another order", "roster digest", members=members[::-1])
    v.good("a roster of long names", "roster digest", members=[["é" * 64, members[0][1]]])
    for name, why, listed in (
        ("nobody", "empty", []),
        ("a name twice", "names are unique", [members[0], ["site-0", members[1][1]]]),
        ("a key twice", "keys are unique", [members[0], ["site-1", members[0][1]]]),
        ("no name", "empty name", [["", members[0][1]]]),
        ("a name of 65", "64 code points", [["x" * 65, members[0][1]]]),
        ("a line break", "not printable", [["site\n0", members[0][1]]]),
        ("a short key", "31 bytes", [["site-0", members[0][1][2:]]]),
        *((f"the key {name}", why, [["site-0", bad.hex()]]) for name, why, bad in DEGENERATE),
    ):
        v.bad(f"a roster with {name}", why, "roster digest", members=listed)
    agreed = ["agreement", "secure-afl/2", secret("session"), "bfv-46", "sum", b"", secret("roster")]
    agreement = messagepack.pack(
        [*agreed, secret("holders"), [0, 1], [["round", "sum", 3, 20, 1000, 8, 0, b""]]]
    )
    v.good("a transcript", "transcript", message=s.parameters.hex())
    v.good("a transcript of an agreement", "transcript", message=agreement.hex())
    v.bad("a transcript of more", "trailing bytes", "transcript", message=s.parameters.hex() + "00")
    directory = messagepack.pack(s.directory)
    digest = v.good("a directory", "directory digest", message=directory.hex())
    fewer = messagepack.pack([*s.directory[:2], s.directory[2][1:]])
    v.good("a smaller directory", "directory digest", message=fewer.hex())
    swapped = messagepack.pack([*s.directory[:2], s.directory[2][::-1]])
    v.bad("a directory out of order", "not increasing", "directory digest", message=swapped.hex())

    session = s.transcript.hex()
    seed = s.secret("mask seed 0").hex()
    for round_, high in ((0, 1), (0, 3), (7, 1), (2**40, 2**64 - 1)):
        name = f"in round {round_} with {high}"
        place = {"transcript": session, "round": round_}
        pair = v.good(f"pair secret {name}", "pair secret", mask_seed=seed, high=high, **place)
        v.good(f"pair mask {name}", "pair mask key", secret=pair, one=0, other=high, **place)
        v.good(f"self mask {name}", "self mask key", seed=seed, place=high, **place)
    place = {"transcript": session, "round": 0}
    v.good("pair mask from the other side", "pair mask key", secret=pair, one=2**64 - 1, other=0, **place)
    v.bad("pair secret of 31 bytes", "secrets have 32", "pair secret", mask_seed="00" * 31, high=1, **place)
    v.bad(
        "pair mask of 33 bytes", "secrets have 32", "pair mask key", secret="00" * 33, one=0, other=1, **place
    )
    v.bad("self mask of 0 bytes", "secrets have 32", "self mask key", seed="", place=1, **place)
    for kind in range(3):
        value = (s.dealt(0, "mask")[2], s.dealt(0, "self")[2], bytes.fromhex(pair))[kind].hex()
        v.good(
            f"commitment of kind {kind}", "commitment", dealer=0, holder=1, kind=kind, secret=value, **place
        )
    v.good("commitment, sides swapped", "commitment", dealer=1, holder=0, kind=2, secret=value, **place)
    share = s.dealt(0, "self")[1].hex()
    v.good(
        "own commitments",
        "own commitments",
        place=0,
        seed=s.secret("self seed 0").hex(),
        share=share,
        **place,
    )
    sets = {"participants": [0, 1, 2, 3], "survivors": [0, 2, 3]}
    v.good("consent", "consent parts", directory=digest, roots=[], **place, **sets)
    rooted = hexes([secret("root"), secret("root 2"), secret("root 3")])
    v.good("consent of a replay", "consent parts", directory=digest, roots=rooted, **place, **sets)
    v.good(
        "consent of others",
        "consent parts",
        directory=digest,
        **place,
        participants=[0, 1, 2],
        survivors=[3, 4],
        roots=[],
    )
    view = derived.consent_parts(s.transcript, bytes.fromhex(digest), 0, **sets, roots=[])
    said = {"upload": secret("root").hex(), "accepted": "", "log": secret("line").hex()}
    private, signer_key = s.secret("identity 2").hex(), members[2][1]
    seen: dict[str, Any] = {"view": hexes(view)}
    vote = v.good("a vote", "sign vote", private=private, **seen, **said)
    earlier = {**said, "accepted": (secret("sum") + b"\1").hex(), "log": ""}
    other = v.good("a vote after a sum", "sign vote", private=private, **seen, **earlier)
    v.good("a vote verifies", "verify vote", vote=vote, key=signer_key, **seen)
    v.good("a vote after a sum verifies", "verify vote", vote=other, key=signer_key, **seen)
    tree = messagepack.unpack(bytes.fromhex(vote))
    spoiled: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("of another client", "another key", {"key": members[1][1]}),
        ("of another view", "other sets", {"view": hexes([*view[:-1], b""])}),
        (
            "with another root",
            "not signed",
            {"vote": messagepack.pack([tree[0], bytes(32), *tree[2:]]).hex()},
        ),
        (
            "with a sum before",
            "not signed",
            {"vote": messagepack.pack([*tree[:2], bytes(32) + b"\1", *tree[3:]]).hex()},
        ),
        ("without a log", "not signed", {"vote": messagepack.pack([*tree[:3], b"", tree[4]]).hex()}),
        ("that is cut", "a byte too few", {"vote": vote[:-2]}),
    )
    for name, why, fields in spoiled:
        given = {"vote": vote, "key": signer_key, **seen, **fields}
        v.bad(f"a vote {name}", why, "verify vote", **given)
    _replays(v)
    answer = messagepack.pack(["answer", s.transcript, 0, bytes(20), bytes(17)]).hex()
    opened = v.good("an opened sum", "sum digest", answer=answer, survivors=[0, 2, 3])
    v.good("an opened sum of others", "sum digest", answer=answer, survivors=[0, 1, 2, 3])
    v.good("an accepted sum", "accepted digest", opened=opened, place=2)
    v.good("the same accepted by another", "accepted digest", opened=opened, place=3)
    others = [opened, secret("another sum").hex()]
    for name, rounds in (("two sums", [0, 1]), ("two sums, one after a gap", [1, 9])):
        v.good(name, "accepted sums", rounds=rounds, opened=others, place=2)
    v.good("two sums of another client", "accepted sums", rounds=[0, 1], opened=others, place=3)
    secrets_ = hexes([s.secret(f"tag secret {place}") for place in range(4)])
    v.good("tag commitment", "tag commitment", transcript=session, place=3, secret=secrets_[3])
    told = {"transcript": session, "directory": digest, "round": 0}
    v.good("tag key", "tag key", secrets=secrets_, participants=[0, 1, 2, 3], **told)
    v.good("tag key of fewer", "tag key", secrets=secrets_[1:], participants=[1, 2, 3], **told)
    v.good(
        "tag key of another round",
        "tag key",
        secrets=secrets_,
        participants=[0, 1, 2, 3],
        **{**told, "round": 1},
    )
    for name, low, high in (("low", 0, 3), ("high", 3, 0)):
        v.good(
            f"mask of a tag, seen by {name}", "pair mask of a tag", secret=pair, one=low, other=high, **place
        )
    v.good("own mask of a tag", "self mask of a tag", seed=seed, place=2, transcript=session, round=0)
    v.bad(
        "mask of a tag from 31 bytes",
        "secrets have 32",
        "pair mask of a tag",
        secret="00" * 31,
        one=0,
        other=1,
        **place,
    )
    v.bad(
        "own mask of a tag from 33 bytes",
        "secrets have 32",
        "self mask of a tag",
        seed="00" * 33,
        place=1,
        transcript=session,
        round=0,
    )
    v.good("info of shares", "shares info", transcript=session, dealer=0, holder=1)
    v.good("info of shares back", "shares info", transcript=session, dealer=1, holder=0)
    v.good("info of a pair secret", "pair info", dealer=0, holder=1, **place)

    draft = messagepack.pack([*s.bundle(0, 1)[:-1], bytes(64)]).hex()
    signer = {"transcript": session, "dealer": 0}
    bundle = v.good(
        "a signed bundle", "sign bundle", private=s.secret("identity 0").hex(), bundle=draft, **signer
    )
    key = members[0][1]
    v.good("a bundle verifies", "verify bundle", bundle=bundle, key=key, **signer)
    one, two = s.bundle(0, 1), s.bundle(0, 2)
    for name, why, changed in (
        ("another dealer", "dealt by place 0", {"dealer": 1}),
        ("another key", "another signed", {"key": members[1][1]}),
        ("another session", "another transcript", {"transcript": secret("another").hex()}),
        ("unsigned", "a signature of zeros", {"bundle": draft}),
        ("another recipient", "dealt to place 1", {"bundle": messagepack.pack([one[0], 2, *one[2:]]).hex()}),
        ("other shares", "not signed", {"bundle": messagepack.pack([*one[:2], two[2], *one[3:]]).hex()}),
        (
            "other pair secrets",
            "not signed",
            {"bundle": messagepack.pack([*one[:3], two[3], *one[4:]]).hex()},
        ),
        ("other commitments", "not signed", {"bundle": messagepack.pack([*one[:4], two[4], one[5]]).hex()}),
        ("a long bundle", "trailing byte", {"bundle": bundle + "00"}),
    ):
        given = {"bundle": bundle, "key": key, **signer, **changed}
        v.bad(f"a bundle, {name}", why, "verify bundle", about="bundle", **given)
    bad = {"private": s.secret("identity 0").hex(), "bundle": draft[:-2], **signer}
    v.bad("a bundle that is cut is not signed", "a byte too few", "sign bundle", **bad)

    v.good("key share commitment", "share commitment", transcript=session, party=4, share="00010203")
    v.good(
        "key share commitment of another", "share commitment", transcript=session, party=5, share="00010203"
    )
    v.good("fingerprint", "key parts", transcript=session, key="00010203")
    offer = ["offer", s.transcript, 1, 2, [0, 1, 3], secret("sum")]
    v.good("challenge", "challenge parts", offer=messagepack.pack(offer).hex(), seed=secret("seed").hex())
    other = messagepack.pack([*offer[:2], 1, 3, [], secret("sum")]).hex()
    v.good("challenge without contributors", "challenge parts", offer=other, seed=secret("seed").hex())
    twice = messagepack.pack([*offer[:4], [0, 0], secret("sum")]).hex()
    v.bad(
        "challenge over a contributor twice", "not increasing", "challenge parts", offer=twice, seed="00" * 32
    )
    v.good("offered ciphertexts", "ciphertexts digest", transcript=session, ciphertexts="000102")
    v.good("offered nothing", "ciphertexts digest", transcript=session, ciphertexts="")
    v.good("data set", "data set digest", client="site-0", data_set="patients 2024")
    v.good("data set, split elsewhere", "data set digest", client="site-0p", data_set="atients 2024")
    v.good("data set, not ASCII", "data set digest", client="Zürich", data_set="été")
    return v


def _replays(v: Vectors) -> None:
    """Sums that are made again from their evidence."""
    s = Session("x25519", "replay")
    for place in (0, 2):
        shared = [[other, s.pair(place, other).hex()] for other in (0, 1, 2, 3) if other != place]
        seed = s.secret(f"self seed {place}").hex()
        known = {"transcript": s.transcript.hex(), "round": 0, "place": place, "seed": seed}
        v.good(f"mask commitments of {place}", "mask commitments", secrets=shared, **known)
    vectors = {place: [10**place, -7, 0, place, 2**28] for place in (0, 2, 3)}
    evidence = s.evidence(vectors)
    given = {"parameters": s.parameters.hex(), "members": [[name, key.hex()] for name, key in s.members]}
    v.good("a replay with a dropout", "replay", evidence=messagepack.pack(evidence).hex(), **given)
    everybody = s.evidence(dict(sorted({1: [5, 5, 5, 5, 5], **vectors}.items())))
    v.good("a replay of all", "replay", evidence=messagepack.pack(everybody).hex(), **given)
    frame, message = evidence[6][0][1], s.upload(0, [2, -7, 0, 0, 2**28])
    question = messagepack.pack(["sum request", s.transcript, 0, [0, 1, 2, 3]])
    large = s.evidence({**vectors, 0: [419430400 * 4, 0, 0, 0, 0]})
    spoiled: tuple[tuple[str, str, dict[int, Any]], ...] = (
        ("of another round", "not planned", {2: 1}),
        ("of another session", "another transcript", {1: bytes(32)}),
        ("of another directory", "consents cover it", {3: bytes(32)}),
        ("with a consent too few", "the threshold is 3", {5: evidence[5][:2]}),
        ("with a consent of another", "a wrong signature", {5: [[0, evidence[5][1][1]], *evidence[5][1:]]}),
        (
            "with an altered upload",
            "a wrong signature",
            {6: [[0, frame[:20] + b"!" + frame[21:]], *evidence[6][1:]]},
        ),
        (
            "with a second upload",
            "its root is in no consent",
            {6: [[0, s.frame(0, question, message)], *evidence[6][1:]]},
        ),
        ("with another self seed", "not committed to", {7: [[0, bytes(32)], *evidence[7][1:]]}),
        ("with another pair secret", "not committed to", {8: [[1, [bytes(32), *evidence[8][0][1][1:]]]]}),
        ("with a secret too few", "one with each survivor", {8: [[1, evidence[8][0][1][1:]]]}),
        ("without its dropout", "the question names it", {4: [0, 2, 3], 8: []}),
        ("of nobody", "no survivor", {4: [1], 5: [], 6: [], 7: [], 8: [[1, []]]}),
    )
    for name, why, changes in spoiled:
        changed = [changes.get(at, part) for at, part in enumerate(evidence)]
        v.bad(f"a replay {name}", why, "replay", evidence=messagepack.pack(changed).hex(), **given)
    v.bad(
        "a replay over the bound",
        "an entry too large",
        "replay",
        evidence=messagepack.pack(large).hex(),
        **given,
    )
    others = [*given["members"][:3], ["another", given["members"][3][1]]]
    told = {**given, "members": others}
    v.bad(
        "a replay with another roster",
        "not the session's",
        "replay",
        evidence=messagepack.pack(evidence).hex(),
        **told,
    )
