"""A system behind requests: what another language would write, here around a Python system."""

import base64
import json
import sys
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

from verification.sound import Sound


class Answering:
    """Answers requests of `secure_afl.testing.systems.RemoteTarget`."""

    def __init__(self, make: Callable[..., Any]) -> None:
        self.make = make

    def carry(self, phase: str, sender: str, receiver: str, data: bytes) -> list[bytes]:
        self.dead |= {one for one in (sender, receiver) if self.lost.get(one) == phase}
        gone = bool({sender, receiver} & self.dead)
        said = {"phase": phase, "from": sender, "to": receiver, "data": base64.b64encode(data).decode()}
        self.messages.append({**said, "lost": gone})
        return [] if gone else [data]

    def __call__(self, request: dict[str, Any]) -> dict[str, Any]:
        self.messages: list[dict[str, Any]] = []
        self.lost: dict[str, str] = request.get("lost", {})
        self.dead = {who for who, phase in self.lost.items() if not phase}
        try:
            answer = self.answer(request)
        except ValueError as error:
            answer = {"refused": str(error)}
        except Exception:  # noqa: BLE001 - a crash, which the answer shows
            answer = {"crashed": traceback.format_exc()}
        return {**answer, "messages": self.messages}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        match request["do"]:
            case "claims":
                return {"claims": self.make(self.carry).claims}
            case "fresh":
                self.system = self.make(self.carry)
            case "open":
                self.system.open(*(request[key] for key in ("clients", "lengths", "data_set", "related")))
            case "renew":
                self.system.renew(request["data_set"])
            case "sum":
                vectors = {who: np.array(one) for who, one in request["vectors"].items()}
                total, survivors = self.system.sum(request["number"], vectors)
                return {"total": total.tolist(), "survivors": survivors}
        return {}


if __name__ == "__main__":
    answering = Answering(Sound)
    for line in sys.stdin:
        print(json.dumps(answering(json.loads(line))), flush=True)
