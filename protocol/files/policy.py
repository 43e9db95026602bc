"""A client's policy file, which its operator owns: TOML with one key for each field of `Policy`.

An omitted key has the default of `Policy`. Nothing that a server sends is ever written to this file.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from secure_afl.crypto.hpke import Suite
from secure_afl.protocol.files import whole
from secure_afl.protocol.files.keys import shown
from secure_afl.protocol.session.backend import Backend
from secure_afl.protocol.session.errors import FileError, PolicyError
from secure_afl.protocol.session.parameters import Profile
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.profile import Trust, Verify

_HEADING = """\
# The minimum that this client accepts, whatever a server proposes. The client's operator owns this file;
# `secure-afl policy explain` explains it in words. An omitted key has the value that `secure-afl policy new` writes.
"""


def _whole(raw: object) -> int:
    if type(raw) is not int:  # not a bool
        raise TypeError
    return raw


def _fraction(raw: object) -> float:
    return raw if isinstance(raw, float) else float(_whole(raw))


def _flag(raw: object) -> bool:
    if not isinstance(raw, bool):
        raise TypeError
    return raw


def _trust(raw: object) -> Trust:
    if not isinstance(raw, str):
        raise TypeError
    return Trust(raw)


def _set_of(kind: Callable[[Any], Any]) -> Callable[[object], frozenset[Any]]:
    def value(raw: object) -> frozenset[Any]:
        if not isinstance(raw, list):
            raise TypeError
        return frozenset(kind(one) for one in raw)

    return value


@dataclass(frozen=True)
class _Field:
    """expected: the allowed values, for errors. value: reads one; raises ValueError or TypeError for any other value.
    comment: the text above the key."""

    expected: str
    value: Callable[[object], Any]
    comment: str


def _some_of(names: tuple[str, ...]) -> str:
    return "a list of one or more of " + ", ".join(json.dumps(name) for name in names)


_FIELDS = {
    "minimum_honest": _Field(
        "a whole number of at least 2",
        _whole,
        "How many clients in a sum must be honest, so that each hides behind the others. At least 2.\n"
        "The clients assumed to collude (below) come on top of them.",
    ),
    "corrupted": _Field(
        "a number from 0 to below 1",
        _fraction,
        "The fraction of the whole roster that is assumed to collude with the server. 0.1 is one in ten, rounded up.",
    ),
    "dropout": _Field(
        "a number from 0 to below 1",
        _fraction,
        "The fraction of the clients that may drop out during a session.",
    ),
    "backends": _Field(
        _some_of(tuple(Backend)),
        _set_of(str),
        'How statistics may leave this client. "mask": under pairwise masks. "bfv+mask": masked and then encrypted.\n'
        '"bfv", "ckks": only encrypted; one client that helps the server is enough to read an upload.\n'
        '"plain": in the clear, shown to the server.',
    ),
    "profiles": _Field(
        _some_of(tuple(one.value for one in Profile)),
        _set_of(Profile),
        'Against which servers sessions must protect. "active": a server that lies. Adding "semi-honest" lets the server\n'
        "choose a session that protects only against a server that follows the protocol.",
    ),
    "suites": _Field(
        _some_of(tuple(one.value for one in Suite)),
        _set_of(Suite),
        'Allowed key encapsulations. "hybrid": ML-KEM-768 with X25519, also against a future quantum computer.\n'
        '"x25519": not against a quantum computer.',
    ),
    "verify": _Field(
        _some_of(tuple(one.value for one in Verify)),
        _set_of(Verify),
        'How clients check the opened sums, which all clients of a sum then see. "tags": each gets the sum with a tag, so that\n'
        'a server without the help of a client cannot hand out another. "replay": each gets all masked uploads and adds them\n'
        "up itself; this holds against clients that help the server, too, and a client downloads as much as all upload.\n"
        '"none": no client sees a sum, and the server is believed.',
    ),
    "trusts_reports": _Field(
        '"none", "verified" (what follows from sums that this client verified) or "any" (whatever the server says; it was '
        "true)",
        _trust,
        "What to believe of the server's reports about earlier sums. Learned hidden layers, groups of clients, and regressions\n"
        'depend on them, and a lie could single out one client\'s data. "none": nothing, so no such study. "verified": what\n'
        "follows from sums that this client verified itself; a server that lies needs another client's help to deceive it.\n"
        '"any": whatever the server says.',
    ),
    "guards_categories": _Field(
        "true or false",
        _flag,
        "Whether tables with categories (columns of 0 and 1, of which a single row may stand out in a sum) take part only\n"
        "with noise, or in encrypted sums of which the key holders release the weights alone.",
    ),
    "budget_epsilon": _Field(
        "a number of at least 0",
        _fraction,
        "How much all sessions with noise (differential privacy) together may tell of a record of a data set: the largest\n"
        "epsilon. 0: a data set serves one session. Sessions without noise have a data set to themselves in any case.",
    ),
    "budget_delta": _Field("a number between 0 and 1", _fraction, "The delta of that budget."),
}


def text(policy: Policy) -> str:
    """The file's content, each key below its explanation; `parse` reads it back."""
    parts = [_HEADING]
    for key, field in _FIELDS.items():
        comment = "".join(f"# {line}\n" for line in field.comment.splitlines())
        parts.append(f"{comment}{key} = {_toml(getattr(policy, key))}\n")
    return "\n".join(parts)


def parse(content: str) -> Policy:
    """Parse a policy file. Raises `FileError`, which names the key, what was expected and what came."""
    document = whole.load_toml(content)
    values = {}
    for key, raw in document.items():
        if key not in _FIELDS:
            raise FileError(f"expected keys from {', '.join(_FIELDS)}, got {shown(key)}")
        try:
            values[key] = _FIELDS[key].value(raw)
            Policy(**{key: values[key]})
        except (ValueError, TypeError, OverflowError, PolicyError):
            raise FileError(f"{key}: expected {_FIELDS[key].expected}, got {shown(raw)}") from None
    policy = Policy(**values)
    if policy.corrupted + policy.dropout >= 1:
        raise FileError(
            f"corrupted and dropout: expected less than 1 together, got {policy.corrupted} and {policy.dropout}: "
            "with so many colluding clients and dropouts no sum would ever be allowed"
        )
    return policy


def read(path: Path) -> Policy:
    """Read the policy from a file. Raises `FileError`."""
    return whole.read_parsed(path, parse)


def _toml(value: object) -> str:
    # JSON and TOML write numbers, booleans and lists of plain words alike.
    if isinstance(value, frozenset):
        return json.dumps(sorted(one.value if isinstance(one, Enum) else one for one in value))
    return json.dumps(value)
