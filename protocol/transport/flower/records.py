"""Letters and answers as Flower's records. The bytes lie in an array, which Flower moves in chunks, twice as fast as
the same bytes in a configuration, and are copied nowhere here.
"""

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from secure_afl.protocol.transport.post import Channel, Letter
from secure_afl.protocol.wire import WireError

ACTION = "secure_afl"
MESSAGE_TYPE = f"query.{ACTION}"
_ABOUT, _PAYLOAD = "about", "payload"
_SERIALIZED = "secure_afl.bytes"  # so that nobody's NumPy reads it


def to_records(letter: Letter) -> RecordDict:
    """A letter, on its way to a party."""
    about = ConfigRecord({"channel": letter.channel.value, "session": letter.session})
    return RecordDict({_ABOUT: about, _PAYLOAD: _payload(letter.data)})


def to_letter(records: RecordDict) -> Letter:
    """The letter in what a node received. Raises `WireError`."""
    about = records.config_records.get(_ABOUT)
    channel, session = (about or {}).get("channel"), (about or {}).get("session")
    if channel not in [one.value for one in Channel] or not isinstance(session, bytes):
        raise WireError("expected a channel and a session number, got something else")
    return Letter(Channel(channel), session, _bytes(records))


def answer_records(answer: bytes | None) -> RecordDict:
    """What a party answers; None: it refused. Why it did is nobody's business."""
    return RecordDict({} if answer is None else {_PAYLOAD: _payload(answer)})


def to_answer(records: RecordDict) -> bytes | None:
    """The answer in what the server received; None for a refusal. Raises `WireError`."""
    return _bytes(records) if _PAYLOAD in records else None


def _payload(data: bytes) -> ArrayRecord:
    return ArrayRecord({"bytes": Array("uint8", (len(data),), _SERIALIZED, data)})


def _bytes(records: RecordDict) -> bytes:
    payload = records.array_records.get(_PAYLOAD)
    if payload is None or list(payload) != ["bytes"] or payload["bytes"].stype != _SERIALIZED:
        raise WireError("expected one payload of bytes, got something else")
    data: bytes = payload["bytes"].data
    return data
