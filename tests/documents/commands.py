"""docs/cli.md: every command of `secure-afl`, written from the program itself.

    python tests/documents/commands.py     # writes the page

`test_commands.py` fails when the page and the program differ.
"""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from secure_afl.simulations.cli.main import app

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cli.md"
_HEAD = """# Commands

Every command and option of `secure-afl`. This page is written from the program
(`python tests/documents/commands.py`); a test fails when they differ. `--help` after any command shows the same.
"""


def commands(command: Any, path: str = "secure-afl") -> Iterator[tuple[str, Any]]:
    """Every command with its full name, groups before what is in them."""
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        if not inner.hidden:
            yield from commands(inner, f"{path} {name}")


def _cell(text: str) -> str:
    return " ".join(inspect.cleandoc(text).split()).replace("|", "\\|").replace("<", "&lt;")


def _default(option: Any) -> str:
    value = option.default
    if option.required:
        return "required"
    if value is None or value is False or callable(value) or value == ():
        return ""
    if isinstance(value, list | tuple):
        return ", ".join(f"`{getattr(one, 'value', one)}`" for one in value)
    return f"`{getattr(value, 'value', value)}`"


def _section(path: str, command: Any) -> list[str]:
    depth = "#" * (1 + len(path.split()))
    lines = [
        f"{depth} `{path}`",
        "",
        *inspect.cleandoc(command.help or "").replace("\b\n", "").splitlines(),
        "",
    ]
    inner = [(name, one) for name, one in getattr(command, "commands", {}).items() if not one.hidden]
    if inner:
        lines += ["| command | what it does |", "|---|---|"]
        lines += [
            f"| `{path} {name}` | {_cell((one.help or '').split(chr(10) + chr(10))[0])} |"
            for name, one in inner
        ]
        return [*lines, ""]
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [
        one
        for one in command.params
        if one.param_type_name == "option" and not one.hidden and "--help" not in one.opts
    ]
    if arguments:
        lines += ["| argument | meaning |", "|---|---|"]
        lines += [f"| `{_argument(one)}` | {_cell(one.help or '')} |" for one in arguments]
        lines.append("")
    if options:
        lines += ["| option | default | meaning |", "|---|---|---|"]
        for one in options:
            names = ", ".join(f"`{name}`" for name in [*one.opts, *one.secondary_opts])
            lines.append(f"| {names} | {_default(one)} | {_cell(one.help or '')} |")
        lines.append("")
    return lines


def _argument(one: Any) -> str:
    name = one.metavar or one.name.upper()
    return f"{name}…" if one.nargs == -1 else name


def page() -> str:
    """The whole page."""
    lines = [_HEAD]
    for path, command in commands(get_command(app)):
        lines += _section(path, command)
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
