"""Asks every node for its files, for a shell and for its party's state, and keeps what they send."""

import json
import time
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


@app.main()  # type: ignore[untyped-decorator]
def main(grid: Grid, context: Context) -> None:
    told = context.run_config
    ends = time.monotonic() + float(told["seconds"])
    while len(list(grid.get_node_ids())) < int(told["nodes"]) and time.monotonic() < ends:
        time.sleep(0.2)
    kinds: dict[str, str] = {}
    for kind in ("query.files", "query.shell", "query.secure_afl", "train", "evaluate"):
        content = RecordDict({"about": ConfigRecord({"path": "state.db"})})
        messages = [Message(content, node, kind) for node in grid.get_node_ids()]
        kinds |= dict.fromkeys(grid.push_messages(messages), kind)
    loot: list[dict[str, object]] = []
    waiting = set(kinds)
    while waiting and time.monotonic() < ends:
        for reply in grid.pull_messages(waiting):
            number = reply.metadata.reply_to_message_id
            waiting.discard(number)
            found: dict[str, object] = {"kind": kinds[number]}
            if reply.has_error():
                found["error"] = f"{reply.error.code} {reply.error.reason}"
            else:
                found |= {name: dict(record) for name, record in reply.content.config_records.items()}
            loot.append(found)
        time.sleep(0.2)
    Path(str(told["loot"])).write_text(json.dumps(loot, indent=1))
