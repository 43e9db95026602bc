"""The client's side: every message of the server goes to an `Endpoint`, and its answer back."""

import time
from collections.abc import Callable
from contextlib import closing

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from secure_afl.protocol.transport.endpoint import Endpoint
from secure_afl.protocol.transport.events import answered, refused
from secure_afl.protocol.transport.flower.records import ACTION, answer_records, to_letter
from secure_afl.protocol.transport.logs import listen, tell


def answering(opened: Callable[[Context], Endpoint]) -> ClientApp:
    """A ClientApp that answers for the party that `opened` finds by a node's own configuration.

    `opened` is called for every message: Flower may give each to a new process. Whatever goes wrong, the server gets
    the same empty refusal: Flower would send it the text of an exception, and that may tell of data.
    """
    app = ClientApp()

    @app.query(ACTION)  # type: ignore[untyped-decorator]  # typed where Flower is installed
    def answer(message: Message, context: Context) -> Message:
        started, party, letter = time.perf_counter(), "", None
        try:
            listen()
            letter = to_letter(message.content)
            with closing(opened(context)) as endpoint:
                party = endpoint.name
                given = endpoint.answer(letter, message.metadata.dst_node_id)
        except Exception as error:  # noqa: BLE001
            tell(refused(party, letter, error, time.perf_counter() - started))
            return Message(answer_records(None), reply_to=message)
        tell(answered(party, letter, given, time.perf_counter() - started))
        return Message(answer_records(given), reply_to=message)

    return app
