"""A data set with sites, laid out as the folders that its parties would have on their machines."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

from secure_afl.errors import DataError
from secure_afl.protocol import files, key_file, policy_file, roster_file
from secure_afl.protocol.errors import FileError
from secure_afl.protocol.policy import Policy
from secure_afl.protocol.roster import Member, Roster
from secure_afl.simulations.data import Dataset


@dataclass(frozen=True)
class LaidOut:
    """Folders: parties' by their numbers, clients first, and the server's. See `secure_afl.site`."""

    clients: tuple[Path, ...]
    holders: tuple[Path, ...]
    server: Path


def lay_out(root: Path, data: Dataset, *, backend: str, holders: int = 0) -> LaidOut:
    """Folders for a ridge model of the data, a client for each site.

    Raises `FileError` if one is there already or cannot be written, `DataError` for data without sites.
    """
    if data.site is None:
        raise DataError(f"{data.name}: expected rows of several sites, got none named")
    names = sorted(set(data.site.tolist()))
    made = LaidOut(
        tuple(root / f"client-{number}" for number in range(len(names))),
        tuple(root / f"key-holder-{number}" for number in range(holders)),
        root / "server",
    )
    named = [*names, *(f"key holder {number + 1}" for number in range(holders)), "server"]
    folders = (*made.clients, *made.holders, made.server)
    members = [settle(folder, name) for folder, name in zip(folders, named, strict=True)]
    clients, keepers = members[: len(names)], members[len(names) : -1]  # the server is in no roster
    roster = roster_file.Parties(Roster(tuple(clients)), Roster(tuple(keepers)) if keepers else None)
    common = {
        "roster.toml": roster_file.text(roster),
        "policy.toml": policy_file.text(Policy(backends=frozenset({backend}))),
        "study.toml": _study(data, backend),
    }
    for folder in folders:
        for file, text in common.items():
            files.write_new(folder / file, text.encode(), files.PUBLIC)
    for folder, name in zip(made.clients, names, strict=True):
        mine = data.site == name
        with (folder / "rows.csv").open("x", newline="", encoding="utf-8") as table:
            writer = csv.writer(table)
            writer.writerow([*data.features, "label"])
            for row, place in zip(data.X[mine].tolist(), data.y[mine].tolist(), strict=True):
                writer.writerow([*map(repr, row), data.classes[place]])
        about = f'table = "rows.csv"\nname = {json.dumps(data.name)}\n'
        files.write_new(folder / "data.toml", about.encode(), files.PUBLIC)
    return made


def settle(folder: Path, name: str) -> Member:
    """A party's new folder, with its `identity.key`.

    Raises `FileError` if it is there already or cannot be written.
    """
    try:
        folder.mkdir(parents=True, mode=0o700)
    except OSError as error:
        raise FileError(f"{folder}: cannot be made: {error.strerror}") from None
    member, secret, _ = key_file.write_key(folder, name)
    secret.rename(folder / "identity.key")
    return member


def _study(data: Dataset, backend: str) -> str:
    # Lists of words and numbers are written in JSON as in TOML.
    return (
        f"backend = {json.dumps(backend)}\n"
        f"features = {json.dumps(data.features, ensure_ascii=False)}\n"
        'label = "label"\n'
        f"classes = {json.dumps(data.classes, ensure_ascii=False)}\n"
        f"max_rows = {2**16}\n\n[ridge]\nrow_norm = {data.row_norm!r}\n"
    )
