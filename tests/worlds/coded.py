"""A table with a codebook, in one process and in the folders that its sites would have."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from secure_afl.node.site import Folder
from secure_afl.node.study import Rows, Study, packed
from secure_afl.protocol.files import policy, roster
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.profile import Trust
from secure_afl.protocol.session.roster import Roster
from secure_afl.protocol.transport.post import Channel, Envelope
from secure_afl.simulations.network.laid_out import settle
from secure_afl.sums.remote import Elsewhere, remote
from secure_afl.tables import codebook as codebooks
from secure_afl.tables.encoding import encode
from secure_afl.tables.reading import read
from worlds.folders import Post

FLAGS = """
site = "site"
products = [["a", "b", "c"]]
[columns]
age = { kind = "number", range = [0, 100] }
a = { kind = "yes/no", yes = ["1"], no = ["0"] }
b = { kind = "yes/no", yes = ["1"], no = ["0"] }
c = { kind = "yes/no", yes = ["1"], no = ["0"] }
[outcome]
kind = "classes"
column = "sick"
classes = ["no", "yes"]
"""
INSIDE = FLAGS.replace("[columns]", "[codebook.columns]").replace("[outcome]", "[codebook.outcome]")
"""The same codebook as a part of a study's file."""


def flag_table(folder: Path, sites: int = 3) -> Path:
    """84 rows of sites for `FLAGS`, where each two of three flags go together in many rows, all three in one."""
    cells = [(1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0)]
    lines = [f"s{at % sites},{20 + at % 60},{a},{b},{c}" for at, (a, b, c) in enumerate(cells * 12)]
    lines[40] = "s1,60,1,1,1"
    table = folder / "flags.csv"
    body = [f"{line},{('no', 'yes')[at % 2]}" for at, line in enumerate(lines)]
    table.write_text("\n".join(["site,age,a,b,c,sick", *body]) + "\n")
    return table


@dataclass
class Coded:
    """All rows of a table in folders, one for each site of its codebook."""

    root: Path
    table: Path
    codebook: str
    ridge: float = 1e-3
    also: str = ""  # lines of the study
    model: str = ""  # its table in place of [ridge], of a model whose sums follow from others

    def __post_init__(self) -> None:
        self.book = codebooks.parse(self.codebook)
        self.cells = read(self.table)
        sites = np.array(self.cells.column(self.book.site).to_pylist())
        used = encode(self.book, self.cells).site
        assert used is not None
        self.names = sorted(set(used.tolist()))
        self.server = self.root / "server"
        self.folders = [self.root / str(at) for at in range(len(self.names))]
        members = [settle(folder, name) for folder, name in zip(self.folders, self.names, strict=True)]
        self.server.mkdir()
        files = {
            "roster.toml": roster.text(roster.Parties(Roster(tuple(members)), None)),
            "policy.toml": policy.text(Policy(trusts_reports=Trust.VERIFIED if self.model else Trust.NONE)),
            "codebook.toml": self.codebook,
            "study.toml": f'backend = "mask"\ncodebook = "codebook.toml"\nmax_rows = 65536\n{self.also}'
            + (self.model or f"[ridge]\nridge = {self.ridge}\n"),
        }
        for folder in (*self.folders, self.server):
            for name, text in files.items():
                (folder / name).write_text(text)
        rows = [*zip(*(column.to_pylist() for column in self.cells.columns.values()), strict=True)]
        for folder, name in zip(self.folders, self.names, strict=True):
            with (folder / "rows.csv").open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(self.cells.columns)
                writer.writerows(rows[at] for at in np.flatnonzero(sites == name).tolist())
            (folder / "data.toml").write_text('table = "rows.csv"\nname = "rows"\nseparator = ","\n')
        for folder in self.folders:
            Folder(folder).approve("an operator", "a test")

    def deployed(self) -> Any:
        """The estimator that the server has learned in a session over the folders; each party has its model then."""
        terms, study = Folder(self.server).terms()
        post = Post(self)
        aggregator = remote(Elsewhere(terms.parties, post.carrier), terms.policy, None)
        layers, fitted = study.learn(aggregator, self.names)
        (session,) = post.sessions
        file = Folder(self.server).keep_table_model(study, fitted, session)
        for party in range(len(self.folders)):
            post.ask(party, Envelope(Channel.END, session, packed(layers) + file))
        return fitted

    def here(self) -> Any:
        """The same in one process."""
        study = Folder(self.server).terms()[1]
        X, y, site, weights = self.contributed(study)
        given = {} if weights is None else {"sample_weight": weights}
        return study.estimator().fit(X, y, site, **given)

    def contributed(self, study: Study) -> tuple[Any, Any, Any, Any]:
        """Rows, outcomes, sites and weights as disclosure control leaves them, each site's by itself."""
        design = encode(self.book, self.cells)
        assert design.outcome is not None
        assert design.site is not None
        y: Any = np.array(study.classes)[design.outcome] if study.classes else design.outcome
        X, kept = design.X.copy(), []
        for name in self.names:
            rows = np.flatnonzero(design.site == name)
            found = study.controlled(Rows(design.X[rows], y[rows]))
            X[rows] = found.X
            kept.append(rows[found.kept])
        rows = np.concatenate(kept)
        weights = None if design.weights is None else design.weights[rows]
        return X[rows], y[rows], design.site[rows], weights
