"""Write events to stderr as lines: text, or with `SECURE_AFL_LOG=json` one JSON object each.

Programs turn this on with `listen`. Otherwise the events are only records of `logging`, under this module's name.
"""

import logging
import os
from datetime import UTC, datetime
from json import dumps
from typing import Any

import msgspec

from secure_afl.protocol.session.errors import LocalProtocolError, visible
from secure_afl.protocol.transport import metrics
from secure_afl.protocol.transport.events import Event, NotCounted

VARIABLE = "SECURE_AFL_LOG"
_LOG = logging.getLogger(__name__)


class Lines(logging.Formatter):
    """One line per record: its time in UTC, its level, the event's name and fields."""

    def __init__(self, *, json: bool) -> None:
        super().__init__()
        self._json = json

    def format(self, record: logging.LogRecord) -> str:
        event: Event = vars(record)["event"]
        time = datetime.fromtimestamp(record.created, UTC)
        if not self._json:
            return f"{time:%Y-%m-%d %H:%M:%S} {visible(record.getMessage())}"
        about = {"time": time, "level": record.levelname.lower(), **fields(event)}
        # ASCII only: some readers end a line at characters other than a line feed.
        return dumps(msgspec.to_builtins(about), separators=(",", ":"))


def listen() -> None:
    """Send events to stderr from now on, in the form that the environment sets, and count them if it sets that.

    Raises `LocalProtocolError` for an invalid setting, or one that needs a missing package.
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


def tell(event: Event) -> None:
    """Log an event and count it. A failure to count is only logged."""
    _LOG.log(event.level, "%s", text(event), extra={"event": event})
    try:
        metrics.count(event)
    except Exception as error:  # noqa: BLE001  # the answered message or the model is not affected
        lost = NotCounted(type(error).__name__)
        _LOG.log(lost.level, "%s", text(lost), extra={"event": lost})


def fields(event: Event) -> dict[str, Any]:
    """The event's name and fields; seconds to the millisecond."""
    found: dict[str, Any] = msgspec.to_builtins(event)
    return {name: round(one, 3) if isinstance(one, float) else one for name, one in found.items()}


def text(event: Event) -> str:
    """An event as one line of text, whatever its fields hold: the first field alone, the others with their names."""
    name, first, *others = fields(event).items()
    shown = [
        f"{name[1]}: {'nobody' if first[1] == '' else first[1]}",
        *(f"{key}={value}" for key, value in others if value != ""),
    ]
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in " ".join(shown))
