"""Writes v2/*.json: `python tests/vectors/make.py` (from an environment with secure_afl). Same bytes every time.

A file has a version, a description, the operations that it uses, and cases. A case has a name, an operation, the
operation's input, and either its output or "refused" with the reason. "about" names the message in question.
"""

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    sys.path[0] = str(HERE.parent)

from vectors import code_cases, key_cases, lattice_cases, message_cases
from vectors.cases import Vectors
from vectors.ours import OPERATIONS

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
    "Integers are exact, of 64 bits and more. Bytes and doubles are hexadecimal. In outputs, bytes over 256 are "
    "given as their SHA-256 and number, and more than 64 words likewise, as 8 bytes each, little endian."
)


def text(vectors: Vectors) -> str:
    """A file: a line for each operation and each case."""
    used = sorted({one["operation"] for one in vectors.cases})
    operations = {name: OPERATIONS[name].__doc__ for name in used}
    lines = [
        "{",
        f'"version": {line("secure-afl/2")},',
        f'"description": {line(vectors.description)},',
        f'"notation": {line(NOTATION)},',
        '"operations": {',
        ",\n".join(f"{line(name)}: {line(what)}" for name, what in operations.items()),
        "},",
        '"cases": [',
        ",\n".join(map(line, vectors.cases)),
        "]",
        "}",
    ]
    return "\n".join(lines) + "\n"


def line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True)


def made() -> dict[str, str]:
    """Every file by its name."""
    return {f"{name}.json": text(cases()) for name, cases in FILES.items()}


def main() -> None:
    folder = HERE / "v2"
    folder.mkdir(exist_ok=True)
    for name, content in made().items():
        (folder / name).write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
