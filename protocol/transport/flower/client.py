"""The client's side: pass every message of the server to an `Endpoint` and send its answer back."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from secure_afl.protocol.transport.endpoint import Endpoint
from secure_afl.protocol.transport.events import ShippedCode, answered, refused
from secure_afl.protocol.transport.flower.records import ACTION, answer_records, to_envelope
from secure_afl.protocol.transport.logs import listen, tell
from secure_afl.protocol.transport.post import Channel


def answering(opened: Callable[[Context], Endpoint]) -> ClientApp:
    """A ClientApp that answers for the party that `opened` finds through the node's own configuration.

    `opened` is called for every message, as Flower may give each message to a new process.
    """
    app = ClientApp()

    @app.query(ACTION)  # type: ignore[untyped-decorator]  # typed where Flower is installed
    def answer(message: Message, context: Context) -> Message:
        @contextmanager
        def endpoint(study: bytes) -> Iterator[Endpoint]:
            with closing(opened(context)) as party:
                if (
                    to_envelope(message.content).channel is Channel.WHEREABOUTS
                    and "partition-id" not in context.node_config
                ):
                    tell(ShippedCode(party.name))  # no simulation
                yield party

        return Message(answer_to(message.content, message.metadata.dst_node_id, endpoint), reply_to=message)

    return app


def answer_to(
    content: RecordDict, node: int, opened: Callable[[bytes], AbstractContextManager[Endpoint]]
) -> RecordDict:
    """The answer of the party that `opened` returns, at the node of that number; the party's log records it. `opened` takes
    the digest of the study that the server names, empty without one.

    Every failure gives the server the same empty refusal, since the text of an exception could reveal data.
    """
    started, party, envelope = time.perf_counter(), "", None
    try:
        listen()
        envelope = to_envelope(content)
        with opened(envelope.study) as endpoint:
            party = endpoint.name
            given = endpoint.answer(envelope, node)
    except Exception as error:  # noqa: BLE001
        tell(refused(party, envelope, error, time.perf_counter() - started))
        return answer_records(None)
    tell(answered(party, envelope, given, time.perf_counter() - started))
    return answer_records(given)
