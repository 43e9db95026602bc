"""The long-lived programs of a deployment: `secure-afl node` at a party, `secure-afl serve` at the server."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from secure_afl.cli.terminal import refusals_shown
from secure_afl.errors import DataError


def node(
    folder: Annotated[Path, typer.Argument(help="The party's.", exists=True, file_okay=False)],
) -> None:
    """Answer the server's messages for a party, until SIGTERM, with the code that is installed here and no other. The folder's
    node.toml says where the server's public door is. See docs/deployment.md.
    """
    with refusals_shown():
        _check_flower()
        from secure_afl.node.node import Node  # and with it Flower

        Node(folder.absolute()).run()


def serve(
    folder: Annotated[Path, typer.Argument(help="The server's.", exists=True, file_okay=False)],
) -> None:
    """Run the server's SuperLink until SIGTERM: a public door, where registered nodes come in, and a private one on loopback,
    where studies are started. The folder's server.toml says where. See docs/deployment.md.
    """
    with refusals_shown():
        _check_flower()
        from secure_afl.node import server

        server.serve(folder.absolute())


def _check_flower() -> None:
    if find_spec("flwr") is None:
        raise DataError("expected flwr, got none: pip install 'secure-afl[flower]'")
