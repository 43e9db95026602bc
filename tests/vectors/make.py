"""Writes protocol/vectors/: `python tests/vectors/make.py` (from an environment with secure_afl). Same bytes every time.

What the files hold: protocol/vectors/README.md.
"""

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    sys.path[0] = str(HERE.parent)

from secure_afl.protocol.session.wire import VERSION
from vectors import code_cases, encrypted_transcript, key_cases, lattice_cases, message_cases, transcripts
from vectors.cases import Vectors
from vectors.ours import OPERATIONS

FOLDER = HERE.parents[1] / "protocol" / "vectors"
FORMAT = 2
"""Of the files, not of the protocol. 1 wrote every integer in decimal digits."""
EXACT = 2**53
"""Integers from here on are not exact as a JSON number everywhere."""

FILES = {
    "kdf": key_cases.kdf,
    "frames": key_cases.frames,
    "hpke": key_cases.sealed,
    "derivations": key_cases.derivations,
    "fixed-point": code_cases.fixed_point,
    "packing": code_cases.packing,
    "masks": code_cases.masks,
    "tags": code_cases.tags,
    "shamir": code_cases.shamir,
    "graph": code_cases.graph,
    "masked-messages": message_cases.masked,
    "encrypted-messages": message_cases.encrypted,
    "lattice": lattice_cases.lattice,
    "choice": lattice_cases.choice,
}


NOTATION = (
    "Bytes are hexadecimal. Doubles are hexadecimal floats. Integers of 2^53 and more, either sign, are strings: 0x and "
    "hexadecimal digits. In outputs, bytes over 256 are given as their SHA-256 and number, and more than 64 words "
    "likewise, as 8 bytes each, little endian."
)


def text(vectors: Vectors) -> str:
    """A file of cases: a line for each operation and each case."""
    used = sorted({one["operation"] for one in vectors.cases})
    operations = {name: " ".join((OPERATIONS[name].__doc__ or "").split()) for name in used}
    head = {"version": VERSION, "format": FORMAT, "description": vectors.description, "notation": NOTATION}
    return lined({**head, "operations": operations, "cases": vectors.cases})


def lined(value: dict[str, Any]) -> str:
    """JSON with a line for each field, and for each entry of a list or object in a field."""
    return "{\n" + ",\n".join(f"{json.dumps(name)}: {field(one)}" for name, one in value.items()) + "\n}\n"


def field(value: Any) -> str:
    if isinstance(value, dict):
        entries = [f"{json.dumps(name)}: {json.dumps(portable(one))}" for name, one in value.items()]
        return "{\n" + ",\n".join(entries) + "\n}"
    if isinstance(value, list):
        return "[\n" + ",\n".join(json.dumps(portable(one)) for one in value) + "\n]"
    return json.dumps(portable(value))


def portable(value: Any) -> Any:
    """With large integers as hexadecimal strings."""
    if isinstance(value, dict):
        return {name: portable(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [portable(one) for one in value]
    return hex(value) if isinstance(value, int) and abs(value) >= EXACT else value


def read(value: Any) -> Any:
    """The opposite of `portable`. A hexadecimal float begins with 0x, too, but has a p."""
    if isinstance(value, dict):
        return {name: read(one) for name, one in value.items()}
    if isinstance(value, list):
        return [read(one) for one in value]
    is_integer = isinstance(value, str) and value.lstrip("-").startswith("0x") and "p" not in value
    return int(value, 16) if is_integer else value


def cases() -> dict[str, str]:
    """Every file of cases by its name."""
    return {f"{name}.json": text(made()) for name, made in FILES.items()}


def sessions() -> dict[str, str]:
    """Every file of a session by its name."""
    made = {f"sessions/{name}.json": one for name, one in transcripts.sessions().items()}
    made[f"encrypted/{encrypted_transcript.NAME}.json"] = encrypted_transcript.session()
    return {name: lined({"version": VERSION, "format": FORMAT, **one}) for name, one in made.items()}


def main() -> None:
    for name, content in (cases() | sessions()).items():
        (FOLDER / name).write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
