"""Where a passphrase comes from: a person at a terminal, or a file that a service was given."""

import os
import sys

import typer

from secure_afl.protocol.files.keys import PASSPHRASE_FILE, service_passphrase
from secure_afl.protocol.session.errors import FileError

VARIABLE = PASSPHRASE_FILE


def ask(*, new: bool = False) -> bytes:
    """The first line of the file that the variable names, see `service_passphrase`; else what is typed, unseen.

    new: typed twice. Raises `FileError` if there is neither such a file nor a terminal.
    """
    if os.environ.get(VARIABLE):
        return service_passphrase()
    if not _at_terminal():
        raise FileError(
            f"expected a terminal to type the passphrase at, or {VARIABLE} to name a file with it, got neither"
        )
    return os.fsencode(typer.prompt("Passphrase", hide_input=True, confirmation_prompt=new, err=True))


def _at_terminal() -> bool:
    return sys.stdin.isatty()
