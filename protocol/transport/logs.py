"""Events as lines on stderr: text, or with `SECURE_AFL_LOG=json` one JSON object each. For programs, which ask for it by
`listen`; everybody else gets the events as records of `logging`, under this module's name.
"""

import logging
import os
from datetime import UTC, datetime
from json import dumps
from typing import Any

import msgspec

from secure_afl.protocol.session.errors import LocalProtocolError, visible
from secure_afl.protocol.transport import metrics
from secure_afl.protocol.transport.events import AnyEvent, NotCounted

VARIABLE = "SECURE_AFL_LOG"
_LOG = logging.getLogger(__name__)


class Lines(logging.Formatter):
    """One line a record: its time in UTC, its level, the event's name and fields."""

    def __init__(self, *, json: bool) -> None:
        super().__init__()
        self._json = json

    def format(self, record: logging.LogRecord) -> str:
        event: AnyEvent = vars(record)["event"]
        time = datetime.fromtimestamp(record.created, UTC)
        if not self._json:
            return f"{time:%Y-%m-%d %H:%M:%S} {visible(record.getMessage())}"
        about = {"time": time, "level": record.levelname.lower(), **fields(event)}
        # In ASCII: some readers end a line at other signs than a line feed.
        return dumps(msgspec.to_builtins(about), separators=(",", ":"))


def listen() -> None:
    """From now on events go to stderr, in the form that the environment asks for now, and are counted if it asks for it.

    Raises `LocalProtocolError` for a setting that is none, or needs a package that is not there.
    """
    form = os.environ.get(VARIABLE, "text")
    if form not in ("json", "text"):
        raise LocalProtocolError(f"expected {VARIABLE} as json or text, got {form!r}")
    metrics.check()
    for handler in [one for one in _LOG.handlers if isinstance(one.formatter, Lines)]:
        _LOG.removeHandler(handler)
    handler = logging.StreamHandler()
    handler.setFormatter(Lines(json=form == "json"))
    _LOG.addHandler(handler)
    _LOG.setLevel(logging.INFO)


def tell(event: AnyEvent) -> None:
    """Log an event, and count it. Whatever keeps it from being counted is logged and no more."""
    _LOG.log(event.level, "%s", text(event), extra={"event": event})
    try:
        metrics.count(event)
    except Exception as error:  # noqa: BLE001  # a message was answered, or a model learned: it stands
        lost = NotCounted(type(error).__name__)
        _LOG.log(lost.level, "%s", text(lost), extra={"event": lost})


def fields(event: AnyEvent) -> dict[str, Any]:
    """Its name and what it says; seconds to the millisecond."""
    found: dict[str, Any] = msgspec.to_builtins(event)
    return {name: round(one, 3) if isinstance(one, float) else one for name, one in found.items()}


def text(event: AnyEvent) -> str:
    """An event for people, in one line whatever its fields hold: the first field as it is, the others by name."""
    name, first, *others = fields(event).items()
    shown = [
        f"{name[1]}: {'nobody' if first[1] == '' else first[1]}",
        *(f"{key}={value}" for key, value in others if value != ""),
    ]
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in " ".join(shown))
