import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds.cohorts import world

from secure_afl.crypto.identity import Identity
from secure_afl.protocol.masking import messages
from secure_afl.protocol.masking.messages import (
    FROM_CLIENT,
    FROM_SERVER,
    Confirm,
    Consent,
    SumRequest,
    Survivors,
)
from secure_afl.protocol.session.parameters import PARAMETERS, Parameters
from secure_afl.protocol.session.wire import Message, WireError, decode, encode, sign_frame, verify_frame

numbers = st.integers(0, 2**40)
sets = st.lists(numbers, unique=True, max_size=6).map(lambda values: tuple(sorted(values)))
shares = st.dictionaries(numbers, st.binary(min_size=33, max_size=33), max_size=4)
digests = st.binary(min_size=32, max_size=32)
signatures = st.binary(min_size=64, max_size=64)
votes = st.builds(
    messages.Vote,
    digests,
    st.just(b"") | st.binary(min_size=40, max_size=40).filter(lambda said: said[-1] > 0),
    st.just(b"") | digests,
    signatures,
)
from_clients = st.one_of(
    st.builds(
        messages.Advertise,
        st.binary(max_size=40),
        st.lists(st.binary(max_size=9), max_size=3).map(tuple),
        st.binary(max_size=32),
    ),
    st.builds(Confirm, sets),
    st.builds(Consent, numbers, votes),
    st.builds(messages.Upload, numbers, st.binary(max_size=300).map(memoryview), st.binary(max_size=20)),
    st.builds(messages.Verdict, numbers, st.just(b"") | digests, st.just(b"") | digests),
    st.builds(messages.Reveal, numbers, shares.map(lambda held: tuple(sorted(held.items())))),
)
from_servers = st.one_of(
    st.builds(SumRequest, digests, numbers, sets),
    st.builds(Survivors, digests, numbers, sets),
    st.builds(messages.Delivery, digests, st.just(())),
    st.builds(
        messages.Answer, digests, numbers, st.binary(max_size=300).map(memoryview), st.binary(max_size=20)
    ),
)


@given(from_clients | from_servers)
def test_a_message_is_its_encoding(message: Message) -> None:
    if isinstance(message, messages.FromClient):
        assert decode(encode(message), FROM_CLIENT) == message
    else:
        assert decode(encode(message), FROM_SERVER) == message


@given(from_clients, st.data())
def test_every_other_string_of_bytes_is_another_message_or_none(
    message: Message, data: st.DataObject
) -> None:
    """Canonical: what decodes encodes back to the very same bytes."""
    encoded = bytearray(encode(message))
    kind = data.draw(st.sampled_from(["flip", "cut", "add"]))
    if kind == "flip":
        encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))
    elif kind == "cut":
        del encoded[data.draw(st.integers(0, len(encoded) - 1)) :]
    else:
        encoded += data.draw(st.binary(min_size=1, max_size=4))
    try:
        other = decode(bytes(encoded), FROM_CLIENT)
    except WireError:
        return
    assert other != message
    assert encode(other) == encoded


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        (["confirm", [1, 2], 3], "field that is not known"),
        (["confirm"], "field that is missing"),
        (["confirm", [2, 1]], "order"),
        (["confirm", [1, 1]], "repeat"),
        (["confirm", [-1]], "negative"),
        (["confirm", ["1"]], "type"),
        (["confirm", [1.0]], "float for an integer"),
        (["confirm", [True]], "truth for an integer"),
        (["confirm", {"0": 1}], "map for a list"),
        (["nonsense", []], "tag"),
        ({"type": "confirm", "complaints": []}, "map"),
        ([], "nothing"),
        (["consent", 0, ["vote", b"x" * 32, b"", b"", b"x" * 63]], "length"),
        (["consent", 0, ["vote", b"x" * 32, b"x", b"", b"x" * 64]], "length"),
        (["consent", 0, ["verdict", b"x" * 32, b"", b"", b"x" * 64]], "another name"),
        (["consent", "0", ["vote", b"x" * 32, b"", b"", b"x" * 64]], "type"),
    ],
)
def test_what_is_not_exactly_a_message_is_refused(fields: object, what: str) -> None:
    with pytest.raises(WireError):
        decode(msgspec.msgpack.encode(fields), FROM_CLIENT)


def test_a_longer_encoding_of_the_same_message_is_refused() -> None:
    canonical = encode(Confirm((5,)))
    assert decode(canonical, FROM_CLIENT) == Confirm((5,))
    assert canonical.endswith(b"\x91\x05")
    for longer in (canonical[:-1] + b"\xcc\x05", canonical[:-2] + b"\xdc\x00\x01\x05"):
        assert msgspec.msgpack.decode(longer) == ["confirm", [5]]  # to MessagePack it is the same
        with pytest.raises(WireError, match="canonical"):
            decode(longer, FROM_CLIENT)


@given(from_clients, digests, digests, numbers, st.data())
def test_a_frame_is_its_senders_its_sessions_and_answers_one_message(
    message: Message, transcript: bytes, answers: bytes, sender: int, data: st.DataObject
) -> None:
    identity = Identity.generate()
    frame = sign_frame(identity, transcript, answers, sender, message)
    assert bytes(verify_frame(frame, identity.verify_key, transcript, answers, sender)) == encode(message)
    altered = bytearray(frame)
    altered[data.draw(st.integers(0, len(frame) - 1))] ^= data.draw(st.integers(1, 255))
    other = bytes([transcript[0] ^ 1]) + transcript[1:]
    for bad in (
        (bytes(altered), identity.verify_key, transcript, answers, sender),
        (frame[:-1], identity.verify_key, transcript, answers, sender),
        (frame + b"\0", identity.verify_key, transcript, answers, sender),
        (frame, Identity.generate().verify_key, transcript, answers, sender),
        (frame, identity.verify_key, other, answers, sender),
        (frame, identity.verify_key, transcript, answers[::-1] + b"!", sender),
        (frame, identity.verify_key, transcript, answers, sender + 1),
        (frame[:64], identity.verify_key, transcript, answers, sender),
        (b"", identity.verify_key, transcript, answers, sender),
    ):
        with pytest.raises(WireError, match="expected"):
            verify_frame(*bad)


def change(parameters: Parameters, **fields: object) -> Parameters:
    return msgspec.structs.replace(parameters, **fields)


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"version": "secure-afl/0"}, "protocol version"),
        ({"session": bytes(31)}, "session number of 32 bytes"),
        ({"roster": bytes(33)}, "roster digest of 32 bytes"),
        ({"cohort": (0, 2, 1, 3)}, "increasing order"),
        ({"cohort": (0, 1, 1, 2)}, "without repeats"),
        ({"cohort": (0,)}, "at least 2 clients"),
        ({"degree": 1}, "even number"),
        ({"degree": 2}, "3 neighbours under the active profile"),
        ({"degree": 4}, "neighbours"),
        ({"degree": 0}, "neighbours"),
        ({"threshold": 0}, "threshold of 1 to 4"),
        ({"threshold": 5}, "threshold of 1 to 4"),
        ({"rounds": ()}, "at least one round"),
    ],
)
def test_parameters_are_valid_or_do_not_exist(fields: dict[str, object], what: str) -> None:
    parameters = world(4).propose()
    assert decode(encode(parameters), PARAMETERS) == parameters
    with pytest.raises(WireError, match=what):
        change(parameters, **fields)
    draft = msgspec.json.decode(msgspec.json.encode(parameters))  # an array: tag, then the fields
    assert len(draft) == 11


@pytest.mark.parametrize("field", ["length", "magnitude", "fraction_bits", "width", "statistic"])
def test_a_round_that_could_overflow_cannot_be_proposed(field: str) -> None:
    parameters = world(4).propose()
    bad = {"length": 0, "magnitude": 2**45, "fraction_bits": 600, "width": 3, "statistic": ""}[field]
    with pytest.raises(WireError):
        change(parameters, rounds=(msgspec.structs.replace(parameters.rounds[0], **{field: bad}),))
