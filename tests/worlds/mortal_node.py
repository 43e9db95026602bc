"""A party's node that dies, or waits, at a message of a session.

    python tests/worlds/mortal_node.py FOLDER

`dies` in the party's folder names the message, by its number (the first is 1) or its kind ("sum request"), and what
happens: "before" and "after" kill the node before the message is answered, and after its answer was worked out and
kept; "waits" holds the answer back until there is a file `go`. Without `dies` nothing happens. `asked` gets a line for
each message.
"""

import os
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

import msgspec

from secure_afl.node.node import Node
from secure_afl.protocol.transport.endpoint import Endpoint
from secure_afl.protocol.transport.post import Channel, Envelope

NODE = (sys.executable, str(Path(__file__)))  # for `Loopback(node=…)`


def mortal(folder: Path) -> None:
    """Have every endpoint of this process obey the folder's `dies`."""
    answers = Endpoint.answer

    def answer(self: Endpoint, envelope: Envelope, address: int) -> bytes:
        if envelope.channel not in (Channel.MASKED, Channel.ENCRYPTED):
            return answers(self, envelope, address)
        kind = msgspec.msgpack.decode(envelope.data)[0]
        with (folder / "asked").open("a") as asked:
            asked.write(f"{envelope.channel.value} {kind}\n")
        number = len((folder / "asked").read_text().splitlines())
        message, what = _fate(folder).rsplit(None, 1)
        if message not in (str(number), kind):
            return answers(self, envelope, address)
        if what == "before":
            die()
        while what == "waits" and not (folder / "go").exists():
            time.sleep(0.05)
        answered = answers(self, envelope, address)
        if what == "after":
            die()
        return answered

    Endpoint.answer = answer  # type: ignore[method-assign]


def _fate(folder: Path) -> str:
    told = folder / "dies"
    return told.read_text() if told.exists() else "0 before"


def die() -> NoReturn:
    """End the node at once, as a loss of power would."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still alive")


if __name__ == "__main__":
    mortal(Path(sys.argv[1]))
    Node(Path(sys.argv[1])).run()
