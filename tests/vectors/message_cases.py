"""Vectors of messages: good ones, and every way in which we know them to be spoiled."""

from collections.abc import Iterator
from typing import Any

from reference import messagepack

from vectors.cases import Vectors, secret
from vectors.session import Session

Tree = Any
"""A message as lists, integers, bytes and strings; or `Raw` where the encoding itself is bad."""
D, SIGNATURE = secret("digest"), secret("first half") + secret("second half")


class Raw(bytes):
    """Goes into a message as it is."""


def write(value: Tree) -> bytes:
    """Like `messagepack.pack`, and raw bytes as they are."""
    if isinstance(value, Raw):
        return bytes(value)
    if isinstance(value, list):
        return messagepack.head(0x90, 16, messagepack.ARRAY, len(value)) + b"".join(map(write, value))
    return messagepack.pack(value)


def longer(value: Tree) -> Raw:
    """The same value in a form that is longer than it needs to be."""
    if isinstance(value, int):
        return Raw(
            b"\xcf" + value.to_bytes(8, "big")
            if value >= 0
            else b"\xd3" + value.to_bytes(8, "big", signed=True)
        )
    if isinstance(value, bytes):
        return Raw(b"\xc6" + len(value).to_bytes(4, "big") + value)
    if isinstance(value, str):
        return Raw(b"\xdb" + len(value.encode()).to_bytes(4, "big") + value.encode())
    return Raw(b"\xdd" + len(value).to_bytes(4, "big") + b"".join(map(write, value)))


def spoiled(value: Tree, field: str) -> Iterator[tuple[str, Tree]]:
    """What may not stand in place of a field's value."""
    yield "nil", Raw(b"\xc0")
    yield "in a longer form", longer(value)
    if isinstance(value, int):
        yield "a boolean", Raw(b"\xc3")
        yield "a double", Raw(b"\xcb\x3f\xf0" + bytes(6))
        yield "a string", "1"
        if field != "fraction_bits":
            yield "negative", -1
    elif isinstance(value, bytes):
        yield "a string", "x" * len(value)
    elif isinstance(value, str):
        yield "bytes", value.encode()
        yield "not UTF-8", Raw(b"\xa2\xc3\x28")
    else:
        yield "a map", Raw(b"\x80")
        yield "bytes", b""
        if value and not is_message(value[0]):
            for what, entry in spoiled(value[0], field):
                yield f"first entry {what}", [entry, *value[1:]]
        if (
            value
            and isinstance(value[0], list)
            and value[0]
            and isinstance(value[0][0], int)
            and field != "tags"
        ):
            yield "an entry cut", [value[0][:-1], *value[1:]]
            yield "an entry with more", [[*value[0], 0], *value[1:]]


def is_message(value: Tree) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], str)


def mutations(value: list[Tree], fields: list[str]) -> Iterator[tuple[str, Tree]]:
    """A message that was spoiled in its form, whatever it says."""
    yield "no name", value[1:]
    yield "another name", ["nonsense", *value[1:]]
    yield "name as bytes", [value[0].encode(), *value[1:]]
    yield "name in a longer form", [longer(value[0]), *value[1:]]
    yield "array in a longer form", longer(value)
    yield "a map", Raw(b"\x80" if not fields else b"\x81" + write(value[0]) + write(value[1]))
    yield "an unknown field", [*value, 0]
    if fields:
        yield "a missing field", value[:-1]
    for at, field in enumerate(fields, 1):
        if not is_message(value[at]):
            for what, other in spoiled(value[at], field):
                yield f"{field} {what}", [*value[:at], other, *value[at + 1 :]]


def placed(tree: Tree, path: tuple[int, ...], part: Tree) -> Tree:
    """The tree with another part at a path."""
    if not path:
        return part
    return [*tree[: path[0]], placed(tree[path[0]], path[1:], part), *tree[path[0] + 1 :]]


def part_of(tree: Tree, path: tuple[int, ...]) -> Tree:
    return part_of(tree[path[0]], path[1:]) if path else tree


class Messages(Vectors):
    """Vectors of one protocol's messages."""

    def message(
        self,
        kind: str,
        tree: list[Tree],
        wrong: dict[str, dict[int, Tree]],
        inner: tuple[tuple[int, ...], ...] = (),
    ) -> None:
        """One good message and its bad relatives. wrong: other values for fields, by place. inner: paths of messages."""
        tag, encoded = tree[0], write(tree)
        meaning = self.good(tag, "message", about=tag, kind=kind, encoded=encoded.hex())
        self.refuse(f"{tag}: trailing byte", kind, tag, encoded + b"\0")
        self.refuse(f"{tag}: twice", kind, tag, encoded * 2)
        self.refuse(f"{tag}: cut", kind, tag, encoded[:-1])
        for path in ((), *inner):
            part = part_of(tree, path)
            where = tag if not path else f"{part[0]} in {tag}"
            for what, other in mutations(part, self.fields(meaning, part[0])):
                self.refuse(f"{where}: {what}", kind, part[0], write(placed(tree, path, other)))
        for what, values in wrong.items():
            self.refuse(f"{tag}: {what}", kind, tag, write(self.changed(tree, values)))

    def also(self, name: str, kind: str, tree: list[Tree]) -> None:
        """Another good message."""
        self.good(f"{tree[0]}: {name}", "message", about=tree[0], kind=kind, encoded=write(tree).hex())

    def refuse(self, name: str, kind: str, about: str, encoded: bytes) -> None:
        why = name.partition(": ")[2]
        self.bad(name, why, "message", about=about, kind=kind, encoded=encoded.hex())

    @staticmethod
    def changed(tree: list[Tree], values: dict[int, Tree]) -> list[Tree]:
        return [values.get(at, value) for at, value in enumerate(tree)]

    def fields(self, meaning: Any, tag: str) -> list[str]:
        """The names of a message's fields, found where it stands in another."""
        found = self._fields(meaning, tag)
        assert found is not None, tag
        return found

    def _fields(self, meaning: Any, tag: str) -> list[str] | None:
        if isinstance(meaning, dict):
            if meaning.get("message") == tag:
                return [name for name in meaning if name != "message"]
            meaning = list(meaning.values())
        if isinstance(meaning, list):
            return next((found for each in meaning if (found := self._fields(each, tag)) is not None), None)
        return None

    def other_bytes(self, kind: str, foreign: list[Tree]) -> None:
        """What is no message of this kind at all. foreign: a good message of another kind."""
        for what, encoded in (
            ("nothing", b""),
            ("an empty array", b"\x90"),
            ("nil", b"\xc0"),
            ("an integer", b"\x05"),
            ("only a head", b"\xdc"),
            ("an array that announces much", b"\xdd\xff\xff\xff\xff"),
            ("a string that announces much", b"\x91\xdb\xff\xff\xff\xff"),
            ("a reserved byte", b"\xc1"),
            ("an extension", b"\x91\xd4\x01\x00"),
            ("arrays in arrays", b"\x91" * 3000),
            (f"a message of another kind ({foreign[0]})", write(foreign)),
        ):
            self.refuse(f"{kind}: {what}", kind, foreign[0] if write(foreign) == encoded else "", encoded)


ROUND = ["round", "sum 0", 5, 22, 419430400, 4, 0, b""]
PARAMETERS = ["parameters", "secure-afl/2", D, "active", "tags", "x25519", D, [0, 1, 2, 3], 3, 3, [ROUND]]
VOTE = ["vote", D, b"", D, SIGNATURE]
BUNDLE = ["bundle", 1, b"sealed", [b"secret"], [[D, D, D]], SIGNATURE]
T46, T60 = 70368743374849, 1152921504606830593


def round_(**fields: Tree) -> list[Tree]:
    """A round with other fields."""
    names = ["statistic", "length", "fraction_bits", "magnitude", "width", "modulus", "noise"]
    return ["round", *(fields.get(name, value) for name, value in zip(names, ROUND[1:], strict=True))]


def bad_rounds(at: int) -> dict[str, dict[int, Tree]]:
    """For messages with rounds at a place; their cohort has 2 to 4 places."""
    wrong = {
        "no round": [],
        "a sum twice": [ROUND, ROUND],
        "an empty name": [round_(statistic="")],
        "a name of 65 letters": [round_(statistic="x" * 65)],
        "a name with a line break": [round_(statistic="a\nb")],
        "no values": [round_(length=0)],
        "513 fraction bits": [round_(fraction_bits=513)],
        "-513 fraction bits": [round_(fraction_bits=-513)],
        "no magnitude": [round_(magnitude=0)],
        "a sum that can overflow": [round_(magnitude=2**31 - 1)],
        "3 bytes a value": [round_(width=3)],
        "9 bytes a value": [round_(width=9)],
        "a modulus of 32 bits": [round_(modulus=2**32 - 5)],
        "the modulus 2^32": [round_(modulus=2**32)],
        "the modulus 2^63": [round_(modulus=2**63)],
        "a digest of noise of 31 bytes": [round_(noise=D[:-1])],
        "a digest of noise of 33 bytes": [round_(noise=D + b"\0")],
        "a second round that overflows": [ROUND, round_(statistic="b", magnitude=2**40)],
    }
    return {what: {at: rounds} for what, rounds in wrong.items()}


def masked() -> Vectors:
    v = Messages(
        "Every message of the masked protocol: canonical bytes with their meaning, and what must be refused."
    )
    kind = "parameters"
    wrong: dict[str, dict[int, Tree]] = {
        "version 0": {1: "secure-afl/0"},
        "a session of 31 bytes": {2: D[:-1]},
        "a session of 33 bytes": {2: D + b"\0"},
        "an unknown profile": {3: "passive"},
        "an unknown check": {4: "hash"},
        "tags under the semi-honest profile": {3: "semi-honest"},
        "an unknown suite": {5: "p256"},
        "a roster digest of 31 bytes": {6: D[:-1]},
        "an unsorted cohort": {7: [0, 2, 1, 3]},
        "a cohort with a place twice": {7: [0, 1, 1, 3]},
        "a cohort of one": {7: [0], 8: 0, 9: 1},
        "no cohort": {7: [], 8: 0, 9: 1},
        "a sparse graph, active": {8: 2},
        "an odd degree": {3: "semi-honest", 4: "none", 8: 1},
        "no degree": {3: "semi-honest", 4: "none", 8: 0},
        "a degree of n": {8: 4},
        "no threshold": {9: 0},
        "a threshold over degree + 1": {9: 5},
        "two moduli": {10: [round_(width=8, modulus=T46), round_(statistic="b", width=8, modulus=T60)]},
        "a modulus in one round only": {10: [ROUND, round_(statistic="b", width=8, modulus=T60)]},
        "a sum over half the modulus": {10: [round_(width=8, magnitude=T46 // 8 + 1, modulus=T46)]},
        "a replay of too many bytes": {4: "replay", 10: [round_(length=2**25 + 1)]},
        "a replay below a modulus": {4: "replay", 10: [round_(width=8, magnitude=T46 // 8, modulus=T46)]},
        **bad_rounds(10),
    }
    v.message(kind, PARAMETERS, wrong, inner=((10, 0),))
    v.also("nothing is checked", kind, v.changed(PARAMETERS, {4: "none"}))
    v.also("a replay", kind, v.changed(PARAMETERS, {4: "replay", 10: [round_(length=2**25)]}))
    sparse = {
        3: "semi-honest",
        4: "none",
        5: "hybrid",
        7: [0, 5, 127, 128, 255, 256, 65535, 65536, 2**32, 2**64 - 1],
        8: 4,
        9: 5,
        10: [round_(magnitude=9)],
    }
    v.also("sparse, places of all lengths", kind, v.changed(PARAMETERS, sparse))
    many = {7: [*range(40)], 8: 39, 9: 27, 10: [round_(statistic=f"sum {i}", magnitude=1) for i in range(20)]}
    v.also("40 clients, 20 rounds", kind, v.changed(PARAMETERS, many))
    names = ["é" * 64, "x", "x" * 31, "x" * 32, "a b", "积分"]
    bits = [-1, -32, -33, -128, -129, -512]
    odd = [round_(statistic=name, fraction_bits=f, magnitude=1) for name, f in zip(names, bits, strict=True)]
    v.also("names and negative fraction bits", kind, v.changed(PARAMETERS, {10: odd}))
    half = [round_(width=8, magnitude=T46 // 8, modulus=T46), round_(statistic="b", width=8, modulus=T46)]
    v.also("noise", kind, v.changed(PARAMETERS, {10: [round_(noise=D)]}))
    v.also("masks below a modulus", kind, v.changed(PARAMETERS, {10: half}))
    largest = [
        round_(magnitude=(2**31 - 1) // 4),
        round_(statistic="b", length=2**64 - 1, width=8, magnitude=2**61 - 1),
    ]
    v.also("the largest magnitudes", kind, v.changed(PARAMETERS, {10: largest, 9: 1}))
    v.other_bytes(kind, ["confirm", []])

    kind = "masked, from a client"
    v.message(kind, ["advertise", secret("channel"), [secret("mask 0"), secret("mask 1")], D], {})
    v.also("without tags", kind, ["advertise", secret("channel"), [], b""])
    second = ["bundle", 2, b"", [], [], b""]
    shares = ["shares", [[D, D]], [BUNDLE, second]]
    wrong = {
        "unsorted recipients": {2: [second, BUNDLE]},
        "a recipient twice": {2: [BUNDLE, BUNDLE]},
        "an own commitment of 31 bytes": {1: [[D, D[:-1]]]},
        "an own commitment of 33 bytes": {1: [[D + b"\0", D]]},
        "one own commitment": {1: [[D]]},
        "three own commitments": {1: [[D, D, D]]},
    }
    v.message(kind, shares, wrong, inner=((2, 0),))
    v.also("empty", kind, ["shares", [], []])
    v.message(kind, ["confirm", [1, 200]], {"unsorted": {1: [200, 1]}, "a dealer twice": {1: [1, 1]}})
    v.also("no complaint", kind, ["confirm", []])
    v.message(kind, ["upload", 0, b"payload", bytes(17)], {})
    v.also("empty", kind, ["upload", 2**64 - 1, b"", b""])
    for size in (255, 256):
        v.also(f"{size} bytes", kind, ["upload", size, bytes(size), bytes(17)])
    accepted = D + b"\0\x82"
    wrong = {
        what: {2: v.changed(VOTE, {at: value})}
        for what, at, value in (
            ("a root of 31 bytes", 1, D[:-1]),
            ("no root", 1, b""),
            ("a digest of accepted sums without rounds", 2, D),
            ("rounds whose last byte is 0", 2, accepted + b"\0"),
            ("rounds of 1025 bytes", 2, D + b"\1" * 1025),
            ("a log's digest of 33 bytes", 3, D + b"\0"),
            ("a signature of 63 bytes", 4, SIGNATURE[:-1]),
            ("a signature of 65 bytes", 4, SIGNATURE + b"\0"),
        )
    }
    v.message(kind, ["consent", 1, VOTE], wrong, inner=((2,),))
    v.also("a sum before", kind, ["consent", 4, v.changed(VOTE, {2: accepted, 3: b""})])
    wrong = {"a digest of 31 bytes": {2: D[:-1]}, "a log's digest of 33 bytes": {3: D + b"\0"}}
    v.message(kind, ["verdict", 0, D, D], wrong)
    v.also("refused, no log", kind, ["verdict", 300, b"", b""])
    share = b"\x00" + D
    wrong = {
        "unsorted dealers": {2: [[3, share], [0, share]]},
        "a dealer twice": {2: [[3, share], [3, share]]},
        "a share of 32 bytes": {2: [[0, D]]},
        "a share of 34 bytes": {2: [[0, share + b"\0"]]},
    }
    v.message(kind, ["reveal", 0, [[0, share], [3, share]]], wrong)
    v.also("no share", kind, ["reveal", 300, []])
    v.other_bytes(kind, ["survivors", D, 0, [0, 1]])

    kind = "masked, from the server"
    session = {"a transcript of 31 bytes": {1: D[:-1]}, "a transcript of 33 bytes": {1: D + b"\0"}}
    unsorted: dict[str, dict[int, Tree]] = {
        "unsorted frames": {2: [[2, b"b"], [0, b"a"]]},
        "a place twice": {2: [[2, b"b"], [2, b"b"]]},
    }
    v.message(kind, ["directory", D, [[0, b"frame a"], [2, b"frame b"]]], session | unsorted)
    v.also("empty", kind, ["directory", D, []])
    unsorted = {
        "unsorted dealers": {2: [[2, BUNDLE], [0, BUNDLE]]},
        "a dealer twice": {2: [[2, BUNDLE], [2, BUNDLE]]},
    }
    v.message(kind, ["delivery", D, [[0, BUNDLE], [3, BUNDLE]]], session | unsorted)
    v.also("empty", kind, ["delivery", D, []])
    sets: dict[str, dict[int, Tree]] = {"unsorted places": {3: [0, 3, 2]}, "a place twice": {3: [0, 0]}}
    v.message(kind, ["sum request", D, 0, [0, 2, 3]], session | sets)
    v.message(kind, ["survivors", D, 0, [0, 2, 3]], session | sets)
    v.also("nobody, late", kind, ["survivors", D, 2**64 - 1, []])
    wrong = {
        "unsorted places": {3: [[2, VOTE], [0, VOTE]]},
        "a place twice": {3: [[2, VOTE], [2, VOTE]]},
        "a signature of 63 bytes": {3: [[0, [*VOTE[:-1], SIGNATURE[:-1]]]]},
    }
    v.message(kind, ["consents", D, 1, [[0, VOTE], [2, VOTE]]], session | wrong)
    roots = [[0, D], [2, D], [3, D]]
    wrong = {
        "unsorted survivors": {3: [[2, D], [0, D]]},
        "a survivor twice": {3: [[2, D], [2, D]]},
        "a root of 31 bytes": {3: [[2, D[:-1]]]},
    }
    v.message(kind, ["survivor roots", D, 0, roots], session | wrong)
    v.also("of nobody", kind, ["survivor roots", D, 2**64 - 1, []])
    votes = [[0, VOTE], [2, VOTE]]
    evidence = [
        "evidence",
        D,
        0,
        D,
        [0, 1, 2],
        votes,
        [[0, b"a"], [2, b"b"]],
        [[0, D], [2, D]],
        [[1, [D, D]]],
    ]
    wrong = {
        "a directory of 31 bytes": {3: D[:-1]},
        "unsorted participants": {4: [0, 2, 1]},
        "a participant too many": {4: [0, 1, 2, 3]},
        "unsorted consents": {5: votes[::-1]},
        "unsorted uploads": {6: [[2, b"b"], [0, b"a"]]},
        "an upload too few": {6: [[0, b"a"]]},
        "a seed of 31 bytes": {7: [[0, D[:-1]], [2, D]]},
        "a seed too few": {7: [[0, D]]},
        "a survivor that dropped out": {8: [[1, [D, D]], [2, [D, D]]]},
        "a secret too few": {8: [[1, [D]]]},
        "a secret of 33 bytes": {8: [[1, [D, D + b"\0"]]]},
    }
    v.message(kind, evidence, session | wrong)
    v.also("of one", kind, ["evidence", D, 2**64 - 1, D, [300], [], [[300, b""]], [[300, D]], []])
    v.message(kind, ["answer", D, 0, b"payload", bytes(17)], session)
    v.also("empty", kind, ["answer", D, 2**64 - 1, b"", b""])
    v.other_bytes(kind, ["confirm", []])
    lengths(v)
    return v


def lengths(v: Messages) -> None:
    """Lengths that follow from the session."""
    for suite in ("x25519", "hybrid"):
        s = Session(suite)
        advertise = s.advertise(1)
        given: dict[str, Tree] = {"suite": suite, "rounds": 1, "verify": "tags"}
        sent = {"about": "advertise", "encoded": write(advertise).hex()}
        v.good(f"{suite} advertise", "advertise of", **sent, **given)
        other = {"x25519": "hybrid", "hybrid": "x25519"}[suite]
        v.bad(
            f"{suite} advertise, {other} expected",
            "other lengths",
            "advertise of",
            **sent,
            **given | {"suite": other},
        )
        v.bad(
            f"{suite} advertise, 2 rounds expected",
            "one mask key",
            "advertise of",
            **sent,
            **given | {"rounds": 2},
        )
        for what, tree in (
            ("a mask key too many", [*advertise[:2], advertise[2] * 2, D]),
            ("no mask key", [*advertise[:2], [], D]),
            ("a short channel key", [advertise[0], advertise[1][:-1], *advertise[2:]]),
            ("a long mask key", [*advertise[:2], [advertise[2][0] + b"\0"], D]),
            ("no commitment", [*advertise[:3], b""]),
            ("a short commitment", [*advertise[:3], D[:-1]]),
        ):
            encoded = write(tree).hex()
            v.bad(
                f"{suite} advertise, {what}",
                what,
                "advertise of",
                about="advertise",
                encoded=encoded,
                **given,
            )

    s = Session("hybrid")
    encoded = write(["shares", s.shares(3)[1], s.shares(3)[2][:1]]).hex()
    v.good(
        "hybrid shares of the highest",
        "shares of",
        about="shares",
        encoded=encoded,
        suite="hybrid",
        rounds=1,
        dealer=3,
        verify="tags",
    )
    s = Session("x25519")
    tag, own, bundles = s.shares(1)
    given = {"suite": "x25519", "rounds": 1, "dealer": 1, "verify": "tags"}
    encoded = write([tag, own, bundles]).hex()
    v.good("shares of a dealer", "shares of", about="shares", encoded=encoded, **given)
    v.bad(
        "shares, hybrid expected",
        "other lengths",
        "shares of",
        about="shares",
        encoded=encoded,
        **given | {"suite": "hybrid"},
    )
    v.bad(
        "shares, 2 rounds expected",
        "one round's",
        "shares of",
        about="shares",
        encoded=encoded,
        **given | {"rounds": 2},
    )
    v.bad(
        "shares, no tags expected",
        "a secret too many",
        "shares of",
        about="shares",
        encoded=encoded,
        **given | {"verify": "none"},
    )
    why = "pair secrets go from low to high"
    v.bad(
        "shares, another dealer", why, "shares of", about="shares", encoded=encoded, **given | {"dealer": 3}
    )
    v.bad(
        "shares, no own commitments",
        "one a round",
        "shares of",
        about="shares",
        encoded=write([tag, [], bundles]).hex(),
        **given,
    )
    _, recipient, sealed, [pair], [commitments], signature = bundles[-1]
    for what, bundle in (
        ("sealed shares cut", [recipient, sealed[:-1], [pair], [commitments], signature]),
        ("sealed shares lengthened", [recipient, sealed + b"\0", [pair], [commitments], signature]),
        ("no pair secret", [recipient, sealed, [], [commitments], signature]),
        ("two pair secrets", [recipient, sealed, [pair, pair], [commitments], signature]),
        ("a pair secret cut", [recipient, sealed, [pair[:-1]], [commitments], signature]),
        ("no commitments", [recipient, sealed, [pair], [], signature]),
        ("commitments of two rounds", [recipient, sealed, [pair], [commitments] * 2, signature]),
        ("two commitments", [recipient, sealed, [pair], [commitments[:2]], signature]),
        ("four commitments", [recipient, sealed, [pair], [[*commitments, D]], signature]),
        ("a commitment cut", [recipient, sealed, [pair], [[*commitments[:2], D[:-1]]], signature]),
        ("a signature cut", [recipient, sealed, [pair], [commitments], signature[:-1]]),
    ):
        encoded = write([tag, own, [["bundle", *bundle]]]).hex()
        v.bad(f"shares, {what}", what, "shares of", about="bundle", encoded=encoded, **given)


AGREEMENT = ["agreement", "secure-afl/2", D, "bfv-46", "sum", b"", D, D, [0, 1], [round_(width=8)]]
OFFER = ["offer", D, 1, 2, [0, 2, 3], D]
CHALLENGE = ["challenge", D, SIGNATURE]


def encrypted() -> Vectors:
    v = Messages(
        "Every message of the encrypted protocol: canonical bytes with their meaning, and what must be refused."
    )
    kind = "agreement"
    wrong: dict[str, dict[int, Tree]] = {
        "version 0": {1: "secure-afl/0"},
        "a session of 31 bytes": {2: D[:-1]},
        "an unknown set": {3: "bfv-45"},
        "an unknown release": {4: "rows"},
        "masks of 31 bytes": {5: D[:-1]},
        "a roster digest of 33 bytes": {6: D + b"\0"},
        "a digest of key holders of 31 bytes": {7: D[:-1]},
        "an unsorted cohort": {8: [1, 0]},
        "a cohort with a place twice": {8: [1, 1]},
        "a cohort of one": {8: [0]},
        "no cohort": {8: []},
        "a modulus without masks": {9: [round_(width=8, modulus=T46)]},
        "masks without a modulus": {5: D},
        "masks with another modulus": {5: D, 9: [round_(width=8, modulus=T60)]},
        "a sum over half of t": {9: [round_(width=8, magnitude=T46 // 4 + 1)]},
        "a sum over half of a larger t": {3: "bfv-60", 9: [round_(width=8, magnitude=T60 // 4 + 1)]},
        "a sum over CKKS's room": {3: "ckks-compact", 9: [round_(width=8, magnitude=2**30)]},
        **bad_rounds(9),
    }
    v.message(kind, AGREEMENT, wrong, inner=((9, 0),))
    v.also("with masks", kind, v.changed(AGREEMENT, {5: D, 9: [round_(width=8, modulus=T46)]}))
    v.also("the largest sum", kind, v.changed(AGREEMENT, {9: [round_(width=8, magnitude=T46 // 4)]}))
    v.also("releasing weights", kind, v.changed(AGREEMENT, {4: "weights", 3: "bfv-60"}))
    v.also("a committee", kind, v.changed(AGREEMENT, {3: "bfv-60-joint", 8: [*range(20)]}))
    room = ((2**60 - 2**14 + 1) // 2 * 255 // 256 >> 28) // 2  # the prime of the set is below 2^60
    compact = {3: "ckks-compact", 9: [round_(width=8, fraction_bits=-3, magnitude=room)]}
    v.also("CKKS, compact", kind, v.changed(AGREEMENT, compact))
    v.also(
        "CKKS, precise",
        kind,
        v.changed(AGREEMENT, {3: "ckks-precise", 9: [round_(width=8, fraction_bits=25)]}),
    )
    v.other_bytes(kind, PARAMETERS)

    kind = "invitation"
    invitation = ["invitation", AGREEMENT, b"key", [SIGNATURE, b"another"]]
    v.message(kind, invitation, {"a bad agreement": {1: v.changed(AGREEMENT, {8: [0]})}}, inner=((1,),))
    v.also("without signatures", kind, [*invitation[:2], b"", []])
    v.other_bytes(kind, AGREEMENT)

    kind = "encrypted, from a party"
    v.message(kind, ["key commitment", D], {"31 bytes": {1: D[:-1]}, "33 bytes": {1: D + b"\0"}})
    v.message(kind, ["key share", b"share"], {})
    v.also("empty", kind, ["key share", b""])
    short: dict[str, dict[int, Tree]] = {"63 bytes": {1: SIGNATURE[:-1]}, "65 bytes": {1: SIGNATURE + b"\0"}}
    v.message(kind, ["key announcement", SIGNATURE], short)
    wrong = {
        "a seed of 31 bytes": {1: D[:-1]},
        "a seed of 33 bytes": {1: D + b"\0"},
        "a signature of 63 bytes": {2: SIGNATURE[:-1]},
        "a signature of 65 bytes": {2: SIGNATURE + b"\0"},
    }
    v.message(kind, CHALLENGE, wrong)
    v.message(kind, ["opened", 0, b"payload"], {})
    v.message(kind, ["joined"], {})
    v.message(kind, ["encrypted upload", 0, 1, b"residues"], {})
    v.also("late", kind, ["encrypted upload", 300, 2**64 - 1, b""])
    v.message(kind, ["tags", [[1, 2**60], [3, 4]], D], {"31 bytes": {2: D[:-1]}, "33 bytes": {2: D + b"\0"}})
    v.also("none", kind, ["tags", [], D])
    v.also("an empty list", kind, ["tags", [[]], D])
    v.other_bytes(kind, ["encrypted request", D, 0, 1, [0, 1]])

    kind = "encrypted, to a key holder"
    session = {"a transcript of 31 bytes": {1: D[:-1]}, "a transcript of 33 bytes": {1: D + b"\0"}}
    for tag in ("key commitments", "key shares"):
        unsorted: dict[str, dict[int, Tree]] = {
            "unsorted": {2: [[5, b"b"], [4, b"a"]]},
            "a party twice": {2: [[4, b"a"], [4, b"a"]]},
        }
        v.message(kind, [tag, D, [[4, b"one"], [5, b"two"]]], session | unsorted)
    wrong = {
        "unsorted contributors": {4: [2, 0, 3]},
        "a contributor twice": {4: [0, 2, 2]},
        "a digest of 31 bytes": {5: D[:-1]},
    }
    v.message(kind, OFFER, session | wrong)
    v.also("nobody", kind, [*OFFER[:4], [], D])
    wrong = {
        "unsorted contributors": {3: [[3, b"b"], [0, b"a"]]},
        "a contributor twice": {3: [[0, b"a"], [0, b"b"]]},
    }
    v.message(kind, ["opening", D, b"check", [[0, b"frame a"], [3, b"frame b"]], b"sum"], session | wrong)
    v.other_bytes(kind, ["check", D, OFFER, []])

    kind = "encrypted, to a client"
    wrong = {"unsorted participants": {4: [2, 0]}, "a participant twice": {4: [0, 0]}}
    v.message(kind, ["encrypted request", D, 0, 1, [0, 2, 3]], session | wrong)
    wrong = {
        "a bad offer": {2: [*OFFER[:4], [0, 0], D]},
        "a bad challenge": {3: [["challenge", D[:-1], SIGNATURE]]},
    }
    v.message(kind, ["check", D, OFFER, [CHALLENGE, CHALLENGE]], session | wrong, inner=((2,), (3, 0)))
    v.also("no challenge", kind, ["check", D, OFFER, []])
    v.other_bytes(kind, OFFER)

    kind = "from an address"
    v.message(
        kind, ["here", 3, SIGNATURE], {"63 bytes": {2: SIGNATURE[:-1]}, "65 bytes": {2: SIGNATURE + b"\0"}}
    )
    v.other_bytes(kind, CHALLENGE)

    kind = "beside a session"
    wrong = {"a salt of 31 bytes": {2: D[:-1]}, "a salt of 33 bytes": {2: D + b"\0"}}
    v.message(kind, ["learned", D, D, b"layers"], session | wrong)
    v.also("nothing", kind, ["learned", D, D, b""])
    v.other_bytes(kind, ["here", 3, SIGNATURE])
    return v
