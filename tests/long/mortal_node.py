"""The node of `killed_nodes.py`: it dies at a message of a session.

    python tests/long/mortal_node.py FOLDER

`dies` in the party's folder says at which of them (the first is 1, nothing for none) and whether before it is answered
or after its answer was worked out and kept; `asked` gets a line for each.
"""

import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

import msgspec

from secure_afl.node.node import Node
from secure_afl.protocol.transport.endpoint import Endpoint
from secure_afl.protocol.transport.post import Channel, Letter

FOLDER = Path(sys.argv[1])
_answer = Endpoint.answer


def mortal(endpoint: Endpoint, letter: Letter, address: int) -> bytes:
    """The endpoint's answer, until its time has come."""
    if letter.channel not in (Channel.MASKED, Channel.ENCRYPTED):
        return _answer(endpoint, letter, address)
    with (FOLDER / "asked").open("a") as asked:
        asked.write(f"{letter.channel.value} {msgspec.msgpack.decode(letter.data)[0]}\n")
    last, moment = (FOLDER / "dies").read_text().split()
    dies = len((FOLDER / "asked").read_text().splitlines()) == int(last)
    if dies and moment == "before":
        die()
    answered = _answer(endpoint, letter, address)
    if dies:
        die()
    return answered


def die() -> NoReturn:
    """End the node at once, as a loss of power would."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still alive")


if __name__ == "__main__":
    Endpoint.answer = mortal  # type: ignore[assignment]
    Node(FOLDER).run()
