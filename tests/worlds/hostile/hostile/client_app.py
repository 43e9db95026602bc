"""Code for the nodes: it reads a party's key and rows, and runs a command of the submitter's."""

import subprocess
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.query("files")  # type: ignore[untyped-decorator]
def files(message: Message, context: Context) -> Message:
    folder = Path(str(context.node_config["party"]))
    found = {name: (folder / name).read_text() for name in ("identity.key", "rows.csv")}
    return Message(RecordDict({"loot": ConfigRecord(found)}), reply_to=message)


@app.query("shell")  # type: ignore[untyped-decorator]
def shell(message: Message, context: Context) -> Message:
    said = subprocess.run(["id"], capture_output=True, text=True, check=True).stdout
    return Message(RecordDict({"loot": ConfigRecord({"id": said})}), reply_to=message)


@app.query("secure_afl")  # type: ignore[untyped-decorator]
def ours(message: Message, context: Context) -> Message:
    """In the place of the installed code, by the name of its messages."""
    return Message(RecordDict({"loot": ConfigRecord({"answered by": "shipped code"})}), reply_to=message)
