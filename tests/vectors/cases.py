"""A file of vectors in the making, and the fixed secrets that they are made from."""

import hashlib
from typing import Any

from vectors.ours import OPERATIONS, REFUSALS


def secret(name: str) -> bytes:
    """32 bytes that anybody can make again: not random, for vectors only."""
    return hashlib.sha256(b"secure-afl vectors: " + name.encode()).digest()


class Vectors:
    """The cases of one file. A good one gets its output from our code; a bad one must be refused by it."""

    def __init__(self, description: str) -> None:
        self.description = description
        self.cases: list[dict[str, Any]] = []

    def good(self, name: str, operation: str, *, about: Any = "", **given: Any) -> Any:
        output = OPERATIONS[operation](**given)
        self._add(name, operation, about, given, {"output": output})
        return output

    def bad(self, name: str, why: str, operation: str, *, about: Any = "", **given: Any) -> None:
        try:
            output = OPERATIONS[operation](**given)
        except REFUSALS:
            self._add(name, operation, about, given, {"refused": why})
        else:
            raise AssertionError(f"{name}: expected a refusal, got {output}")

    def _add(self, name: str, operation: str, about: str, given: Any, result: dict[str, Any]) -> None:
        assert name not in [one["name"] for one in self.cases], name
        subject = {"about": about} if about else {}
        self.cases.append({"name": name, "operation": operation, **subject, "input": given, **result})
