"""A study over Flower: the ServerApp that learns, the ClientApp that answers for a party's folder.

Needs the extra `flower`. A node finds its party's folder by its own configuration (`--node-config 'party="/…"'`). In a
simulation, where nodes have numbers and nothing else, `SECURE_AFL_PARTIES` names a folder of parties' folders 0, 1, ….
Nothing in the run's configuration says where a client reads or what it accepts: that is written by who submits the run.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from secure_afl.crypto.errors import SecureAflError, optional
from secure_afl.node import held_out
from secure_afl.node.changes import Keeping
from secure_afl.node.progress import Progress, RunEvents, keep_run, run_events
from secure_afl.node.site import AUDIT, FAILURE, HELD_OUT, MODEL, REPORT, TABLE_MODEL, Folder, exposed
from secure_afl.node.study import packed
from secure_afl.protocol.audit.events import Acknowledged, EndAnswered, Role, Twins, end_answered
from secure_afl.protocol.audit.log import AuditLog
from secure_afl.protocol.durable.store import Store, StoreError
from secure_afl.protocol.files import keys, roster, whole
from secure_afl.protocol.session.errors import AuditError, FileError
from secure_afl.protocol.session.wire import WireError
from secure_afl.protocol.transport.driver import Carry, Exchange
from secure_afl.protocol.transport.endpoint import Endpoint
from secure_afl.protocol.transport.events import LeftOpen, bound, described
from secure_afl.protocol.transport.flower.client import answering
from secure_afl.protocol.transport.flower.fleet import FleetError
from secure_afl.protocol.transport.flower.server import FlowerPost
from secure_afl.protocol.transport.logs import listen, tell
from secure_afl.protocol.transport.post import Channel
from secure_afl.sums.remote import (
    Elsewhere,
    RemoteEncryptedAggregator,
    RemoteMaskedAggregator,
    forget,
    is_open,
    remote,
)

with optional():
    from flwr.app import Context
    from flwr.serverapp import Grid, ServerApp

VARIABLE = "SECURE_AFL_PARTIES"


def endpoint_of(context: Context) -> Endpoint:
    """The party of a node, by the node's own configuration. Raises `FileError`."""
    if "party" in context.node_config:
        return Folder(Path(str(context.node_config["party"]))).endpoint()
    if VARIABLE in os.environ:
        return Folder(Path(os.environ[VARIABLE]) / str(context.node_config["partition-id"])).endpoint(
            unapproved=True
        )
    raise FileError(
        f"expected 'party' in the node's configuration, or {VARIABLE}, to name a folder, got neither"
    )


client_app = answering(endpoint_of)
server_app = ServerApp()


@server_app.main()  # type: ignore[untyped-decorator]  # typed where Flower is installed
def main(grid: Grid, context: Context) -> None:
    """Learn the study of the server's folder, as the run's configuration says."""
    settings = context.run_config
    serve(grid, Path(str(settings["folder"])), float(settings["deadline"]), float(settings["poll"]))


def serve(grid: Grid, path: Path, deadline: float, poll: float) -> dict[str, Any]:
    """Learn the study of the server's folder; the model and a report are written there, those of before put aside. If no
    model comes of it, `failure.json` says why, and which parties gave no answer.

    deadline, poll: see `FlowerPost`. Raises `FileError`, and what the model and the aggregator raise.
    """
    folder = Folder(path)
    folder.put_aside()
    listen()
    post, progress = FlowerPost(grid, deadline, poll), Progress(path, deadline)
    try:
        with run_events() as events, _own(folder) as (log, store):
            report = _learn(folder, post, log, store, events, progress)
            _write(path / REPORT, report)
    except Exception as error:
        refusal, at, reason = described(error)
        with suppress(FileError):  # the error itself says more than that its note could not be written
            _write(path / FAILURE, {"reason": reason or f"{refusal} at {at}", "silences": post.silences})
        progress.over("failed")
        keep_run(path, (FAILURE,))
        raise
    except KeyboardInterrupt:
        progress.over("was stopped")
        raise
    progress.over("learned")
    keep_run(path, (MODEL, TABLE_MODEL, HELD_OUT, REPORT))
    return report


def _write(path: Path, about: dict[str, Any]) -> None:
    whole.replace(path, (json.dumps(about, indent=1) + "\n").encode())


def _learn(
    folder: Folder,
    post: FlowerPost,
    log: AuditLog | None,
    store: Store | None,
    events: RunEvents,
    progress: Progress,
) -> dict[str, Any]:
    """The whole study; gives the report. Raises what the model and the aggregator raise.

    With a store, what is no verdict on the session (a file that cannot be written, a lost network, an interrupt)
    leaves it open, for the next run.
    """
    terms, study = folder.terms()
    tell(bound(study.digest, terms.parties))
    post.study = study.digest
    resumed = store is not None and is_open(store)
    if resumed:
        tell(LeftOpen(len(terms.parties.clients.members)))
    progress.phase("finding nodes")
    started = time.perf_counter()
    post.find(terms.parties)
    finding = time.perf_counter() - started
    sessions: set[bytes] = set()
    names = [member.name for member in terms.parties.everybody]
    noted: set[int] = set()  # parties that two nodes are

    def carrier(channel: Channel, session: bytes) -> Carry:
        sessions.add(session)  # masks under encryption are of the same session
        return progress.seen(names, post.carrier(channel, session))

    def begun(phase: str) -> None:
        for party in sorted(post.twins - noted):
            noted.add(party)
            if log:
                log.append(Twins(names[party]))
        events.phase(phase, post.silences)
        progress.phase(phase)

    aggregator = remote(
        Elsewhere(terms.parties, carrier, begun, log, store),
        terms.policy,
        terms.encryption,
    )

    def end(learned: bytes) -> None:
        answers = {session: post.end(session, learned) for session in sessions}
        if store:
            forget(store)
        if log is None:
            return
        for session, lines in answers.items():
            for party, line in lines.items():
                key = terms.parties.everybody[party].verify_key
                with suppress(WireError):  # nothing, of a party that has no log or has answered before
                    if end_answered(key, line).event == EndAnswered(session):
                        log.note(Acknowledged(key, line))

    try:
        clients = [member.name for member in terms.parties.clients.members]
        shown: dict[str, Any] = {}
        keeping = Keeping(aggregator, study, folder.path) if study.keeps_sum else None
        layers, fitted = study.learn(keeping or aggregator, clients)
        sums = fitted.rounds_
        number = next(iter(sessions))  # masks under encryption are of the same session
        file = folder.keep_table_model(study, fitted, number)
        if found := exposed(study, fitted):
            shown["disclosure"] = found
        folder.keep(MODEL, layers, study)
        if keeping:
            keeping.keep()
        if study.tests:
            figures, last = held_out.evaluated(study, aggregator, len(clients))
            sums = [*sums, *last]
            shown["held_out"] = {"failed": figures} if isinstance(figures, str) else figures.json()
            if not isinstance(figures, str):
                folder.keep_figures(figures.json())
    except BaseException as error:
        events.silent(post.silences)
        if isinstance(error, FleetError):  # there is no way to tell the parties
            raise
        if store is None or (
            isinstance(error, SecureAflError) and not isinstance(error, StoreError | AuditError | FileError)
        ):
            end(b"")
        raise
    started = time.perf_counter()
    end(packed(layers) + file)
    ending = time.perf_counter() - started
    events.silent(post.silences)
    report = {
        "model": study.model,
        "backend": terms.backend,
        "session": number.hex(),
        "resumed": resumed,
        "survivors": [list(one.survivors) for one in sums],
        **shown,
        "phases": [
            {"phase": "finding nodes", "seconds": finding},
            *_phases(aggregator),
            {"phase": "end", "seconds": ending},
        ],
        "silences": post.silences,
    }
    events.learned(report, len(terms.parties.clients.members))
    return report


def _phases(aggregator: RemoteMaskedAggregator | RemoteEncryptedAggregator) -> list[dict[str, Any]]:
    """What each phase cost, in their order."""
    sessions: dict[str, Exchange] = {"": aggregator.cohort}
    if isinstance(aggregator, RemoteEncryptedAggregator) and aggregator.masks:
        sessions = {"masks: ": aggregator.masks, "": aggregator.cohort}
    return [
        {
            "phase": name + phase,
            "seconds": cost.wall_seconds,
            "server_cpu_seconds": cost.server_seconds,
            "bytes_up": max(cost.up.values(), default=0),
            "bytes_down": max(cost.down.values(), default=0),
        }
        for name, cohort in sessions.items()
        for phase, cost in cohort.costs.items()
        if cost.wall_seconds
    ]


@contextmanager
def _own(folder: Folder) -> Iterator[tuple[AuditLog | None, Store | None]]:
    """The server's audit log and its store, if its folder has an identity to sign and lock them with."""
    key = folder.home / "identity.key"
    if not key.exists():
        yield None, None
        return
    member, identity = keys.read_key(key, keys.service_passphrase, server=True)
    everybody = roster.read(folder.path / "roster.toml").everybody
    if twin := [one.name for one in everybody if one.verify_key == identity.verify_key]:
        raise FileError(
            f"{key}: expected a key that stands in no roster, got that of {twin[0]} in roster.toml: a server that is a "
            "client or key holder of its own sums helps itself against the others"
        )
    with (
        closing(Store(folder.path / "state.db", identity)) as store,
        closing(AuditLog(folder.home / AUDIT, identity, member.name, Role.SERVER)) as log,
    ):
        yield log, store
