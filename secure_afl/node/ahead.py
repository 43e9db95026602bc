"""What a node computes before a server asks for it, so that the time of an answer does not tell how many rows there are.

Reading a table and adding up its Gram matrix take some 24 µs a row. A node does both when it starts, and again soon after
the table's file has changed; a request is then answered out of memory.
"""

import time
from pathlib import Path

from secure_afl.crypto.errors import SecureAflError
from secure_afl.node.changes import KEPT, Prepared
from secure_afl.node.site import Folder, Ready, digest_of
from secure_afl.node.study import Floats, Rows, Study

# Nanoseconds since a file changed: file systems do not tell changes apart that follow at once.
_SETTLED = 2 * 10**9


class Ahead:
    """The vectors of a site's next session."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._of: tuple[object, ...] | None = None  # what they were computed from
        self._vectors: list[Floats] = []
        self._data_set, self._digest = "", ""
        self._prepared: Prepared | None = None  # of a study that keeps its sum
        self._rows: Rows | None = None  # of a study whose later sums need them

    def refresh(self) -> None:
        """Compute what is not known yet, or out of date. What cannot be read is left to the request, which says so."""
        try:
            terms, study = self._folder.terms()
            now = self._state(study)
            if now is None or now == self._of:
                return
            if study.keeps_sum:
                ready = self._folder.prepared(study, terms.parties.clients)
                if self._state(study) == now:
                    self._of, self._vectors, self._rows, self._prepared = now, [], None, ready
                return
            own = self._folder.data(study)
            sums = range(min(study.known_ahead, len(terms.plan)))
            digest, later = digest_of(own), len(terms.plan) > study.known_ahead
            vectors = [study.vector(one, own, "this site") for one in sums]
            if self._state(study) == now:
                self._of, self._vectors, self._data_set, self._digest = now, vectors, own.name, digest
                self._rows = own if later else None
        except (SecureAflError, OSError, ValueError):
            return

    def known(self, study: Study, number: int) -> Ready | None:
        """The vector of a sum, if it is known and the files are those that it was computed from."""
        if self._of is None or self._state(study) != self._of:
            return None
        if self._prepared and study.keeps_sum:
            return Ready(*self._prepared.contribution, "", self._prepared)
        if number >= len(self._vectors):
            return None
        return Ready(self._vectors[number], self._data_set, self._digest)

    def rows(self, study: Study) -> Rows | None:
        """The rows as they were read, if later sums need them and the files are still the same."""
        return self._rows if self._rows and self._state(study) == self._of else None

    def _state(self, study: Study) -> tuple[object, ...] | None:
        """Study and files as they are; None without a table, for one of a database, and soon after a change."""
        path = self._folder.path
        if not (path / "data.toml").exists() or (table := self._folder.table_file()) is None:
            return None
        read = [path / "data.toml", table]
        if study.keeps_sum:  # a change is that of a sum over these clients
            read += [one for one in (path / "roster.toml", path / KEPT) if one.exists()]
        stamps = [_stamp(one) for one in read]
        if any(time.time_ns() - changed < _SETTLED for *_, changed in stamps):
            return None
        return study.digest, *stamps


def _stamp(path: Path) -> tuple[int, int, int, int]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
