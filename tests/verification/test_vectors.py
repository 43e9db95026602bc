"""Every vector holds for our code and for the reference; no message, label or operation is without vectors."""

import ast
import importlib
import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from reference import kdf as reference_kdf
from reference.operations import OPERATIONS as REFERENCE
from reference.refused import Refused
from vectors import make, ours, transcripts

from secure_afl.crypto import fixed_point
from secure_afl.crypto.hpke import Suite
from secure_afl.crypto.kdf import Label
from secure_afl.crypto.lattice import parameter_sets
from secure_afl.protocol.session.profile import Profile, Verify
from secure_afl.protocol.session.wire import VERSION, Message

TESTS = Path(__file__).parents[1]
FOLDER = make.FOLDER
FILES = {
    path.name: make.read(json.loads(path.read_text(encoding="utf-8")))
    for path in sorted(FOLDER.glob("*.json"))
    if path.name != "schema.json"
}
CASES: list[dict[str, Any]] = [case for file in FILES.values() for case in file["cases"]]

# Defined for every input of the right type: nothing to refuse.
TOTAL = {
    "u64", "bind", "digest", "answered", "identity key", "sign", "sign frame", "commitment", "own commitments",
    "consent parts", "shares info", "pair info", "share commitment", "key parts", "ciphertexts digest",
    "data set digest", "pack", "signed", "modular", "centred", "least threshold", "sizes", "pack residues",
    "pack key", "root of", "sign vote", "accepted digest", "accepted sums", "sum digest", "tag commitment",
    "tag key", "tag", "mask commitments",
}  # fmt: skip

MODULES = {
    "crypto": "fixed_point hpke identity kdf prg ring shamir",
    "crypto.lattice": "bfv ckks joint_key ntt parameter_sets",
    "protocol.session": "graph parameters roster wire",
    "protocol.masking": "messages replay tags",
    "protocol.homomorphic": "agreement messages",
    "protocol.transport": "post",
}
WITHOUT = {
    "bfv.encrypt": "random",
    "bfv.noise": "a bound in doubles; the choice that follows from it has vectors",
    "ckks.deviation": "in doubles; the grid that follows from it has vectors",
    "ckks.encrypt": "random",
    "ckks.entry_error": "in doubles; the choice that follows from it has vectors",
    "ckks.fit": "inside of the choice",
    "messages.accepted_rounds": "reads what has vectors; votes with wrong bytes have some",
    "messages.largest_message": "a limit of our own, larger than any message",
    "tags.check_allowed": "asks the machine",
    "ckks.flood": "random",
    "ckks.gaussian": "random",
    "ckks.noise": "a bound in doubles; the choice that follows from it has vectors",
    "fixed_point.units_of": "inside of FixedPoint.fit",
    "graph.exposure": "a probability in doubles; the choice that follows from it has vectors",
    "ring.unpacked": "inside of VerifiedSum; signed and unpack have vectors",
    "ring.words_of": "a type of NumPy; masks and packing have vectors",
    "parameter_sets.add_mod": "inside of Lattice.add",
    "parameter_sets.pack_mod": "inside of Lattice.pack",
    "parameter_sets.unpack_mod": "inside of Lattice.unpack",
    "post.found": "of one transport's addresses; its message has vectors",
    "post.here": "of one transport's addresses; its message has vectors",
    "post.who_is_there": "random",
    "parameters.check_demands": "of one party alone",
    "parameters.demands": "of one party alone",
    "parameters.spending": "of one party alone",
    "roster.grouped": "for people to read",
    "replay.survivor_roots": "a message that a replay follows from; survivor roots have vectors",
    "messages.known_as": "a name in a key holder's own ledger",
    "messages.sealed_bytes": "inside of Bundle.check",
    "messages.pair_commitment": "inside of mask_commitments",
    "messages.seed_commitment": "inside of own_commitments",
    "tags.polynomial": "inside of tags",
    "wire.opened_frame": "inside of verify_frame",
    "wire.rooted_frame": "inside of sign_frame",
    "ntt.factors": "how we multiply, not what",
    "ntt.multiply": "how we multiply, not what",
    "shamir.parse_share": "inside of combine",
    "wire.check_version": "inside of messages",
    "wire.exact": "inside of messages",
    "wire.increasing": "inside of messages",
    "FixedPoint.entry_error": "a bound for the learning side",
    "Lattice.count": "inside of ciphertext_bytes",
    "Lattice.zeros": "nothing but zeros",
}


def cases_of(name: str) -> list[Any]:
    return FILES[name]["cases"]  # type: ignore[no-any-return]


def holds(case: dict[str, Any], operations: dict[str, Callable[..., Any]], refusals: Any) -> None:
    """Accepted with just this output, or refused with one of these errors; any other error is a failure."""
    run = operations[case["operation"]]
    if "refused" in case:
        with pytest.raises(refusals):
            run(**case["input"])
    else:
        assert json.loads(json.dumps(run(**case["input"]))) == case["output"]


@pytest.mark.parametrize("name", FILES)
def test_vectors_hold_for_our_code(name: str) -> None:
    for case in cases_of(name):
        try:
            holds(case, ours.OPERATIONS, ours.REFUSALS)
        except BaseException as error:
            error.add_note(f"{name}: {case['name']}")
            raise


@pytest.mark.parametrize("name", FILES)
def test_vectors_hold_for_the_reference(name: str) -> None:
    for case in cases_of(name):
        try:
            holds(case, REFERENCE, Refused)
        except BaseException as error:
            error.add_note(f"{name}: {case['name']}")
            raise


def same_as_in_the_folder(made: dict[str, str], *patterns: str) -> None:
    found = {str(path.relative_to(FOLDER)) for pattern in patterns for path in FOLDER.glob(pattern)}
    assert made.keys() == found - {"schema.json"}
    for name, text in made.items():
        assert (FOLDER / name).read_bytes() == text.encode(), f"{name}: run python tests/vectors/make.py"


def test_one_command_makes_these_very_files() -> None:
    same_as_in_the_folder(make.cases(), "*.json")


@pytest.mark.slow
def test_sessions_are_what_our_parties_say() -> None:
    same_as_in_the_folder(make.sessions(), "sessions/*.json", "encrypted/*.json")


def test_sessions_have_both_profiles_dropouts_and_verified_sums() -> None:
    sessions = {path.stem: json.loads(path.read_text()) for path in FOLDER.glob("sessions/*.json")}
    assert sessions.keys() == transcripts.SCRIPTS.keys()
    scripts = transcripts.SCRIPTS.values()
    assert {one.profile for one in scripts} == set(Profile)
    assert {one.suite for one in scripts} == set(Suite)
    # Of replays there are vectors alone: the other implementation takes no part in one.
    assert {one.verify for one in scripts} == {Verify.TAGS, Verify.NONE}
    for session in sessions.values():
        assert any(one["participants"] != one["survivors"] for one in session["sums"])
        for one in session["sums"]:
            vectors = [
                session["clients"][str(who)]["rounds"][one["round"]]["encoded"] for who in one["survivors"]
            ]
            assert one["sum"] == [sum(column) for column in zip(*vectors, strict=True)]


def test_consents_are_signed_under_this_label() -> None:
    """A literal: code and reference would change together."""
    session = json.loads((FOLDER / "sessions" / "active-hybrid.json").read_text())
    for client in session["clients"].values():
        signed = bytes.fromhex(client["rounds"][0].get("consent_signed", ""))
        assert not signed or signed.startswith(b"secure-afl/1 signed consent" + bytes(7) + b"\x20")


def test_numbers_are_exact_as_doubles() -> None:
    """JSON in other languages reads numbers as doubles."""

    def check(value: Any) -> None:
        assert not isinstance(value, float)
        assert not isinstance(value, int) or abs(value) < 2**53
        for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            check(one)

    for path in FOLDER.rglob("*.json"):
        check(json.loads(path.read_text(encoding="utf-8")))


def test_files_say_what_they_are() -> None:
    for name, file in FILES.items():
        assert file["version"] == VERSION
        assert file["description"]
        assert file["operations"].keys() == {case["operation"] for case in file["cases"]}
        names = [case["name"] for case in file["cases"]]
        assert len(set(names)) == len(names), name
        for case in file["cases"]:
            assert ("output" in case) != ("refused" in case)
            assert case["name"]
            assert case.get("refused", "a good one")


# ---- nothing is left out -------------------------------------------------------------------------


def modules() -> Iterator[Any]:
    for package, names in MODULES.items():
        for name in names.split():
            yield importlib.import_module(f"secure_afl.{package}.{name}")


def messages(kind: type[Message] = Message) -> Iterator[type[Message]]:
    """Every kind of message that has a tag."""
    for struct in kind.__subclasses__():
        if struct.__module__.startswith("secure_afl."):  # tests may define more
            if struct.__struct_config__.tag:
                yield struct
            yield from messages(struct)


def said(value: Any) -> Iterator[str]:
    """The tags of all messages in an output."""
    if isinstance(value, dict):
        if "message" in value:
            yield value["message"]
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from said(each)


def test_every_message_has_a_good_and_a_bad_vector() -> None:
    list(modules())
    tags = {str(struct.__struct_config__.tag) for struct in messages()}
    assert len(tags) > 25
    assert {tag for case in CASES for tag in said(case.get("output"))} == tags
    about = {case.get("about") for case in CASES if "refused" in case and case["operation"] == "message"}
    assert tags <= about, "no bad vector"


def test_every_field_of_a_message_has_a_bad_vector() -> None:
    bad = " ".join(case["name"] for case in CASES if "refused" in case)
    for struct in messages():
        tag = struct.__struct_config__.tag
        nested = {
            "round": "round in parameters",
            "bundle": "bundle in shares",
            "vote": "vote in consent",
        }
        for field, kind in struct.__annotations__.items():
            if field in struct.__struct_fields__ and kind not in ("Agreement", "Offer"):
                inner = isinstance(kind, type) and issubclass(kind, Message)
                assert inner or f"{nested.get(str(tag), tag)}: {field} nil" in bad, (tag, field)


def test_every_label_has_a_good_and_a_bad_vector() -> None:
    labels = {label.name for label in Label}
    for key in ("output", "refused"):
        assert {case["about"] for case in cases_of("kdf.json") if key in case and "about" in case} == labels
    assert {label.name: label.value for label in Label} == reference_kdf.LABELS


def test_every_operation_has_a_good_and_a_bad_vector() -> None:
    assert ours.OPERATIONS.keys() == REFERENCE.keys()
    good = {case["operation"] for case in CASES if "output" in case}
    bad = {case["operation"] for case in CASES if "refused" in case}
    assert good == ours.OPERATIONS.keys()
    assert bad == ours.OPERATIONS.keys() - TOTAL


def test_every_function_has_an_operation_or_a_reason() -> None:
    """Public functions of the cryptography and of messages, and what codes and parameter sets can do."""
    tree = ast.parse(inspect.getsource(ours))
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    functions = {
        f"{module.__name__.rpartition('.')[2]}.{name}": name
        for module in modules()
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and name[0] != "_"
    }
    for kind in (fixed_point.FixedPoint, parameter_sets.Lattice):
        for name, value in vars(kind).items():
            if (inspect.isfunction(value) or isinstance(value, classmethod)) and name[0] != "_":
                functions[f"{kind.__name__}.{name}"] = name
    assert {full for full, name in functions.items() if name not in used} <= WITHOUT.keys()
    assert WITHOUT.keys() <= functions.keys()


# ---- the reference is another one ----------------------------------------------------------------


def test_the_reference_shares_no_code_with_ours() -> None:
    allowed = {
        "cryptography", "reference",
        "collections", "dataclasses", "fractions", "functools", "hashlib", "hmac", "itertools", "math", "typing",
    }  # fmt: skip
    paths = list((TESTS / "reference").rglob("*.py"))
    assert len(paths) > 10
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            imported = []
            if isinstance(node, ast.Import):
                imported = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, path
                imported = [node.module or ""]
            assert {name.partition(".")[0] for name in imported} <= allowed, path
            assert not (isinstance(node, ast.Name) and node.id in ("__import__", "eval", "exec")), path
