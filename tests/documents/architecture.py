"""The diagrams of docs/architecture.md, drawn from the code's imports and transition tables.

    python tests/documents/architecture.py     # writes them between the page's markers

`test_architecture.py` fails when the page and the code differ.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

from secure_afl.protocol.homomorphic import states as encrypted
from secure_afl.protocol.masking import states as masked
from secure_afl.protocol.session.profile import MODES
from secure_afl.protocol.session.wire import Message

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "architecture.md"
FOLDERS = {
    "crypto": "secure_afl.crypto",
    "protocol": "secure_afl.protocol",
    "secure_afl": "secure_afl",
    "simulations": "secure_afl.simulations",
}


def room_of(path: Path) -> str:
    """The folder of a file below one of the four, two levels at most: `protocol/masking`."""
    folder, *rest = path.relative_to(ROOT).parts
    return f"{folder}/{rest[0]}" if len(rest) > 1 else folder


def _files(folder: str) -> Iterator[Path]:
    links = {ROOT / "secure_afl" / name for name in FOLDERS}
    names = ROOT / "secure_afl" / "__init__.py"  # it only says where public names are
    return (
        path
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path != names and not links & set(path.parents)
    )


def _room_named(module: str, rooms: set[str]) -> str | None:
    """The room of an imported module, None for foreign ones."""
    parts = module.split(".")
    if parts[0] != "secure_afl":
        return None
    below = parts[1:]
    folder = below.pop(0) if below and below[0] in FOLDERS else "secure_afl"
    room = f"{folder}/{below[0]}" if below else folder
    return room if room in rooms else folder


def edges() -> set[tuple[str, str]]:
    """(room that imports, room that is imported), each once, none to itself."""
    files = [path for folder in FOLDERS for path in _files(folder)]
    rooms = {room_of(path) for path in files}
    found = set()
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            for module in modules:
                target = _room_named(module, rooms)
                if target and target != room_of(path):
                    found.add((room_of(path), target))
    return found


def necessary(found: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """The edges that no longer path says already: what a reader has to see."""
    below: dict[str, set[str]] = {}
    for source, target in found:
        below.setdefault(source, set()).add(target)

    def reaches(start: str, goal: str, seen: frozenset[str]) -> bool:
        return any(
            step == goal or (step not in seen and reaches(step, goal, seen | {step}))
            for step in below.get(start, ())
        )

    return {
        (source, target)
        for source, target in found
        if not any(
            step != target
            and reaches(step, target, frozenset({source, step}))
            and not reaches(step, source, frozenset({step}))  # round a cycle nothing is said already
            for step in below[source]
        )
    }


def rooms_diagram(folder: str) -> str:
    """A Mermaid flow chart of one folder's rooms: an arrow points from who imports to what is imported."""
    inside = {
        (source, target)
        for source, target in edges()
        if {source.split("/")[0], target.split("/")[0]} == {folder}
    }
    lines = ["```mermaid", "flowchart TD"]
    for source, target in sorted(necessary(inside)):
        lines.append(f"    {_node(source)} --> {_node(target)}")
    return "\n".join([*lines, "```"])


def folders_diagram() -> str:
    """The same for the four folders."""
    outside = {(source.split("/")[0], target.split("/")[0]) for source, target in edges()}
    lines = ["```mermaid", "flowchart LR"]
    for source, target in sorted(necessary({edge for edge in outside if edge[0] != edge[1]})):
        lines.append(f"    {_node(source)} --> {_node(target)}")
    return "\n".join([*lines, "```"])


def _node(room: str) -> str:
    return f"{room.replace('/', '_')}[{room}]"


def states_diagram(steps: list[tuple[Enum, str, Enum]], first: Enum) -> str:
    """A Mermaid state diagram: an arrow carries the message that is legal there."""
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {first.name}"]
    lines += [f"    {here.name} --> {there.name}: {what}" for here, what, there in steps]
    return "\n".join([*lines, "```"])


def _received(table: Mapping[Any, Mapping[type[Message], Any]]) -> list[tuple[Enum, str, Enum]]:
    return [(here, kind.__name__, there) for here, legal in table.items() for kind, there in legal.items()]


def _collected(table: Mapping[Any, tuple[type[Message], Any]]) -> list[tuple[Enum, str, Enum]]:
    return [(here, kind.__name__, there) for here, (kind, there) in table.items()]


@cache
def blocks() -> dict[str, str]:
    """Every generated block of the page, by its marker's name."""
    uploads = (masked.ClientState.REQUESTED, "(its own step) Upload", masked.ClientState.UPLOADED)
    refuses = (masked.ClientState.REVEALED, "(its own step) a sum is wrong", masked.ClientState.REJECTED)
    answers = (masked.ServerState.OPENED, "(its own step) Answer", masked.ServerState.ANSWERING)
    encrypts = (
        encrypted.ClientState.REQUESTED,
        "(its own step) EncryptedUpload",
        encrypted.ClientState.UPLOADED,
    )
    return {
        "folders": folders_diagram(),
        **{f"rooms {folder}": rooms_diagram(folder) for folder in ("protocol", "secure_afl", "simulations")},
        "masking client": states_diagram(
            [*_received(masked.CLIENT[MODES[0]]), uploads, refuses], masked.ClientState.START
        ),
        "masking server": states_diagram(
            [*_collected(masked.SERVER[MODES[0]]), answers], masked.ServerState.ADVERTISING
        ),
        "encrypting client": states_diagram(
            [*_received(encrypted.CLIENT), encrypts], encrypted.ClientState.START
        ),
        "key holder": states_diagram(_received(encrypted.HOLDER), encrypted.HolderState.START),
        "encrypting server": states_diagram(_collected(encrypted.SERVER), encrypted.ServerState.COMMITTING),
    }


def filled(page: str) -> str:
    """The page with every block as the code has it. Raises `ValueError` for a marker without a block, or the reverse."""
    made = blocks()
    markers = re.findall(r"<!-- generated: (.+?) -->", page)
    if sorted(markers) != sorted(made):
        raise ValueError(f"expected the markers {sorted(made)}, the page has {sorted(markers)}")
    return re.sub(
        r"<!-- generated: (.+?) -->\n.*?<!-- end -->",
        lambda found: f"<!-- generated: {found[1]} -->\n{made[found[1]]}\n<!-- end -->",
        page,
        flags=re.DOTALL,
    )


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
