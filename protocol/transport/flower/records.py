"""Letters and answers as Flower's records. The bytes lie in an array, which Flower moves in chunks, twice as fast as
the same bytes in a configuration, and are copied nowhere here.
"""

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from secure_afl.protocol.session.wire import VERSION, WireError
from secure_afl.protocol.transport.post import Channel, Letter

ACTION = "secure_afl"
MESSAGE_TYPE = f"query.{ACTION}"
_ABOUT, _PAYLOAD = "about", "payload"
_SERIALIZED = "secure_afl.bytes"  # so that nobody's NumPy reads it


def to_records(letter: Letter) -> RecordDict:
    """A letter, on its way to a party."""
    about = ConfigRecord({"version": VERSION, "channel": letter.channel.value, "session": letter.session})
    return RecordDict({_ABOUT: about, _PAYLOAD: _payload(letter.data)})


def to_letter(records: RecordDict) -> Letter:
    """The letter in what a node received. Raises `WireError`."""
    _check_version(records)
    about = records.config_records.get(_ABOUT)
    channel, session = (about or {}).get("channel"), (about or {}).get("session")
    if channel not in [one.value for one in Channel] or not isinstance(session, bytes):
        raise WireError(
            "expected a record with a channel and a session number: the message is not of secure-afl"
        )
    return Letter(Channel(channel), session, _bytes(records))


def answer_records(answer: bytes | None) -> RecordDict:
    """What a party answers; None: it refused. Why it did is nobody's business, but for the version that it speaks."""
    about = {_ABOUT: ConfigRecord({"version": VERSION})}
    return RecordDict(about if answer is None else {**about, _PAYLOAD: _payload(answer)})


def to_answer(records: RecordDict) -> bytes | None:
    """The answer in what the server received; None for a refusal. Raises `WireError`."""
    _check_version(records)
    return _bytes(records) if _PAYLOAD in records else None


def _check_version(records: RecordDict) -> None:
    # Both ends learn of it, whatever else differs between the versions. Nobody vouches for this field.
    about = records.config_records.get(_ABOUT)
    spoken = (about or {}).get("version", "")
    if spoken != VERSION:
        raise WireError(f"expected protocol version {VERSION!r}, got {str(spoken)[:32]!r}")


def _payload(data: bytes) -> ArrayRecord:
    return ArrayRecord({"bytes": Array("uint8", (len(data),), _SERIALIZED, data)})


def _bytes(records: RecordDict) -> bytes:
    payload = records.array_records.get(_PAYLOAD)
    if payload is None or list(payload) != ["bytes"] or payload["bytes"].stype != _SERIALIZED:
        raise WireError("expected a record with one payload of bytes: the message is not of secure-afl")
    data: bytes = payload["bytes"].data
    return data
