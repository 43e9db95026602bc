"""Convert envelopes and answers to and from Flower's records.

Long byte strings go into an array without a copy: Flower moves arrays in chunks, twice as fast as the same bytes in a
configuration. Short ones go into the configuration, since an array adds three objects, each with a request at both ends.
"""

from collections.abc import Mapping

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from secure_afl.protocol.session.wire import VERSION, WireError
from secure_afl.protocol.transport.post import Channel, Envelope

ACTION = "secure_afl"
MESSAGE_TYPE = f"query.{ACTION}"
_ABOUT, _PAYLOAD = "about", "payload"
_SERIALIZED = "secure_afl.bytes"  # not a NumPy type, so that NumPy never parses it
SHORT = 2**17  # bytes
UNREADABLE = 1001  # the code of an error that stands for an answer of other bytes than a message has


def to_records(envelope: Envelope) -> RecordDict:
    """Convert an envelope for a party."""
    about = {"version": VERSION, "channel": envelope.channel.value, "session": envelope.session}
    return _records({**about, "study": envelope.study} if envelope.study else about, envelope.data)


def to_envelope(records: RecordDict) -> Envelope:
    """The envelope in a node's received records. Raises `WireError`."""
    _check_version(records)
    about = records.config_records.get(_ABOUT)
    channel, session = (about or {}).get("channel"), (about or {}).get("session")
    if channel not in [one.value for one in Channel] or not isinstance(session, bytes):
        raise WireError(
            "expected a record with a channel and a session number: the message is not of secure-afl"
        )
    study = (about or {}).get("study", b"")
    return Envelope(Channel(channel), session, _bytes(records), study if isinstance(study, bytes) else b"")


def answer_records(answer: bytes | None) -> RecordDict:
    """Convert a party's answer; None: it refused. A refusal gives no reason except the protocol version."""
    return _records({"version": VERSION}, answer)


def again_records() -> RecordDict:
    """The answer of a party that lost the question, as it was stopped before it answered."""
    return _records({"version": VERSION, "again": True}, None)


def is_again(records: RecordDict) -> bool:
    """Whether the party asks for the question again; the request is not authenticated."""
    about = records.config_records.get(_ABOUT)
    return bool(about and about.get("again") is True)


def to_answer(records: RecordDict) -> bytes | None:
    """The answer in the server's received records; None for a refusal. Raises `WireError`."""
    _check_version(records)
    about = records.config_records[_ABOUT]
    return _bytes(records) if _PAYLOAD in about or _PAYLOAD in records else None


def _check_version(records: RecordDict) -> None:
    # So both ends notice different versions, whatever else differs. This field is not authenticated.
    about = records.config_records.get(_ABOUT)
    spoken = (about or {}).get("version", "")
    if spoken != VERSION:
        raise WireError(f"expected protocol version {VERSION!r}, got {str(spoken)[:32]!r}")


def _records(about: Mapping[str, str | bytes | bool], data: bytes | None) -> RecordDict:
    if data is None:
        return RecordDict({_ABOUT: ConfigRecord({**about})})
    if len(data) <= SHORT:
        return RecordDict({_ABOUT: ConfigRecord({**about, _PAYLOAD: data})})
    payload = ArrayRecord({"bytes": Array("uint8", (len(data),), _SERIALIZED, data)})
    return RecordDict({_ABOUT: ConfigRecord({**about}), _PAYLOAD: payload})


def _bytes(records: RecordDict) -> bytes:
    short = records.config_records[_ABOUT].get(_PAYLOAD)
    if isinstance(short, bytes):
        return short
    payload = records.array_records.get(_PAYLOAD)
    if payload is None or list(payload) != ["bytes"] or payload["bytes"].stype != _SERIALIZED:
        raise WireError("expected a record with one payload of bytes: the message is not of secure-afl")
    data: bytes = payload["bytes"].data
    return data
