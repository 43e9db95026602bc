"""Lay out a data set with sites as the folders that its parties would have on their machines."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from secure_afl.node import study
from secure_afl.node.site import Folder
from secure_afl.protocol.files import keys, policy, whole
from secure_afl.protocol.files import roster as roster_file
from secure_afl.protocol.session.backend import Backend
from secure_afl.protocol.session.errors import FileError
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.profile import Trust
from secure_afl.protocol.session.roster import Member, Roster
from secure_afl.simulations.data.dataset import Dataset
from secure_afl.simulations.data.partition import Part
from secure_afl.tables.form import Form

_CODEBOOK = "codebook.toml"


@dataclass(frozen=True)
class LaidOut:
    """The parties' folders by index, clients first, and the server's folder. See `secure_afl.node.site`."""

    clients: tuple[Path, ...]
    holders: tuple[Path, ...]
    server: Path


def lay_out(
    root: Path,
    data: Dataset,
    parts: Sequence[Part],
    *,
    backend: str,
    holders: int = 0,
    encoder: str | None = None,
) -> LaidOut:
    """Folders for a model of the training rows, a client for each part. encoder: of a network; None is a ridge model.

    Raises `FileError` if a folder exists or cannot be written, `DataError` for an unknown encoder.
    """
    names = [part.client for part in parts]
    agreed = _study(data, backend, encoder, _CODEBOOK)
    beside = data.origin.codebook if data.origin else root
    # Raises for contradictory settings before anything is written.
    study.parse(_study(data, backend, encoder, beside.name), beside.parent).plan(len(names))
    made = LaidOut(
        tuple(root / f"client-{number}" for number in range(len(names))),
        tuple(root / f"key-holder-{number}" for number in range(holders)),
        root / "server",
    )
    named = [*names, *(f"key holder {number + 1}" for number in range(holders)), "server"]
    folders = (*made.clients, *made.holders, made.server)
    members = [
        settle(folder, name, server=folder is made.server)
        for folder, name in zip(folders, named, strict=True)
    ]
    clients, key_holders = members[: len(names)], members[len(names) : -1]  # the server is in no roster
    roster = roster_file.Parties(Roster(tuple(clients)), Roster(tuple(key_holders)) if key_holders else None)
    common = {
        "roster.toml": roster_file.text(roster),
        "policy.toml": policy.text(policy_for(backend, encoder)),
        "study.toml": agreed,
        **({_CODEBOOK: whole.read_text(data.origin.codebook)} if data.origin else {}),
    }
    for folder in folders:
        for file, text in common.items():
            whole.write_new(folder / file, text.encode(), whole.PUBLIC)
    header, rows = _table(data)
    written = data.origin.form if data.origin and data.origin.form else Form()
    for folder, part in zip(made.clients, parts, strict=True):
        with (folder / "rows.csv").open("x", newline="", encoding="utf-8") as table:
            writer = csv.writer(table, delimiter=";" if written.decimal == "," else ",")
            writer.writerow(header)
            own = part.train.tolist()
            if data.held_out is not None:  # which each site holds out itself
                own = sorted([*own, *part.test.tolist()])
            writer.writerows(rows[at] for at in own)
        about = f'table = "rows.csv"\nname = {json.dumps(data.name)}\n'
        about += (
            f'separator = ";"\ndecimal = {json.dumps(written.decimal)}\n' if written.decimal != "." else ""
        )
        whole.write_new(folder / "data.toml", about.encode(), whole.PUBLIC)
    for folder in (*made.clients, *made.holders):
        Folder(folder).approve("secure-afl", "all parties are on this machine")
    return made


def settle(folder: Path, name: str, *, server: bool = False) -> Member:
    """Make the folder of a party or the server, with its `identity.key`.

    Raises `FileError` if it exists or cannot be written.
    """
    try:
        folder.mkdir(parents=True, mode=0o700)
    except OSError as error:
        raise FileError(f"{folder}: cannot be made: {error.strerror}") from None
    member, secret, _ = keys.write_key(folder, name, server=server)
    secret.rename(folder / "identity.key")
    return member


def policy_for(backend: str, encoder: str | None) -> Policy:
    """Every party's policy. Layers of all encoders but "seeded" must follow from verified sums, or be trusted where none are."""
    trust = Trust.VERIFIED if Backend(backend).masked else Trust.ANY
    return Policy(
        backends=frozenset({backend}), trusts_reports=Trust.NONE if encoder in (None, "seeded") else trust
    )


def _table(data: Dataset) -> tuple[list[str], list[list[str]]]:
    """A header and the cells of all rows: the original cells if there is a codebook, otherwise numbers."""
    if data.origin is None:
        rows = [
            [*map(repr, row), data.classes[index]]
            for row, index in zip(data.X.tolist(), data.y.tolist(), strict=True)
        ]
        return [*data.features, "label"], rows
    from secure_afl.tables import reading

    cells = reading.read(data.origin.table, data.origin.form)
    columns = [column.take(data.origin.rows - 1).to_pylist() for column in cells.columns.values()]
    return list(cells.columns), [list(row) for row in zip(*columns, strict=True)]


def _study(data: Dataset, backend: str, encoder: str | None, codebook: str) -> str:
    # Lists of words and numbers are written in JSON as in TOML.
    columns = (
        f"codebook = {json.dumps(codebook)}\n"
        if data.origin
        else f"features = {json.dumps(data.features, ensure_ascii=False)}\n"
        'label = "label"\n'
        f"classes = {json.dumps(data.classes, ensure_ascii=False)}\n"
    )
    common = f"backend = {json.dumps(backend)}\n{columns}"
    if encoder is None:
        bound = "" if data.origin else f"row_norm = {data.row_norm!r}\n"
        return f"{common}max_rows = {2**16}\n\n[ridge]\n{bound}"
    # What only makes folders is loaded by every process of a simulation, and needs no torch.
    from secure_afl.models.networks.network import layer_words
    from secure_afl.simulations.study.networks import network_for

    network = network_for(data)
    release = 'release = "sum"\n' if backend != "mask" and encoder != "seeded" else ""
    return (
        f"{common}max_rows = {2**12}\n{release}\n[fedacnnl]\ninput_shape = {list(network.input_shape)}\n"
        f"layers = {json.dumps([layer_words(layer) for layer in network.layers])}\nencoder = {json.dumps(encoder)}\n"
    )
