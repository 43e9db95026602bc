"""Where a passphrase comes from: a person at a terminal, or a file that a service was given."""

import os
import sys
from pathlib import Path

import typer

from secure_afl.protocol import files
from secure_afl.protocol.errors import FileError

VARIABLE = "SECURE_AFL_PASSPHRASE_FILE"


def ask(*, new: bool = False) -> bytes:
    """The first line of the file that the variable names, which only its owner may read; else what is typed, unseen.

    new: typed twice. Raises `FileError` if there is neither such a file nor a terminal. The variable names a file and
    does not hold the passphrase, as every child process and many a crash report get the variables.
    """
    if name := os.environ.get(VARIABLE):
        return files.read(Path(name), secret=True).split(b"\n", 1)[0].removesuffix(b"\r")
    if not _at_terminal():
        raise FileError(
            f"expected a terminal to type the passphrase at, or {VARIABLE} to name a file with it, got neither"
        )
    return os.fsencode(typer.prompt("Passphrase", hide_input=True, confirmation_prompt=new, err=True))


def _at_terminal() -> bool:
    return sys.stdin.isatty()
