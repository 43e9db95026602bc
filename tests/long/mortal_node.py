"""The ClientApp of `killed_nodes.py`: its node dies at a message of a session.

`dies` in the party's folder says at which of them (the first is 1, nothing for none) and whether before it is answered
or after its answer was worked out and kept; `asked` gets a line for each.
"""

import os
import signal
from pathlib import Path
from typing import NoReturn

import msgspec
from flwr.app import Context

from secure_afl.node.flower_app import endpoint_of
from secure_afl.protocol.transport.endpoint import Endpoint
from secure_afl.protocol.transport.flower.client import answering
from secure_afl.protocol.transport.post import Channel, Letter


def opened(context: Context) -> Endpoint:
    """The party's endpoint, until its time has come."""
    folder, endpoint = Path(str(context.node_config["party"])), endpoint_of(context)
    answer = endpoint.answer

    def mortal(letter: Letter, address: int) -> bytes:
        if letter.channel not in (Channel.MASKED, Channel.ENCRYPTED):
            return answer(letter, address)
        with (folder / "asked").open("a") as asked:
            asked.write(f"{letter.channel.value} {msgspec.msgpack.decode(letter.data)[0]}\n")
        last, moment = (folder / "dies").read_text().split()
        dies = len((folder / "asked").read_text().splitlines()) == int(last)
        if dies and moment == "before":
            die()
        answered = answer(letter, address)
        if dies:
            die()
        return answered

    endpoint.answer = mortal  # type: ignore[method-assign]
    return endpoint


def die() -> NoReturn:
    """End the node with all its processes, as a loss of power would."""
    os.killpg(os.getpgrp(), signal.SIGKILL)
    raise AssertionError("still alive")


app = answering(opened)
