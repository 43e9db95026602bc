"""A table with a codebook, in one process and in the folders that its sites would have."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from secure_afl.node.site import Folder
from secure_afl.simulations.data.dataset import Dataset
from secure_afl.simulations.data.partition import Part
from secure_afl.simulations.network.laid_out import lay_out
from secure_afl.sums.remote import Elsewhere, remote
from worlds.folders import Post


@dataclass
class Coded:
    """All rows of a data set in folders, one for each site."""

    root: Path
    data: Dataset

    def __post_init__(self) -> None:
        assert self.data.site is not None
        self.names = sorted(set(self.data.site.tolist()))
        nothing = np.array([], np.int64)
        self.parts = [Part(name, np.flatnonzero(self.data.site == name), nothing) for name in self.names]
        made = lay_out(self.root, self.data, self.parts, backend="mask")
        self.folders, self.server = list(made.clients), made.server

    def weights(self) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        """What the server learns in a session over the folders."""
        terms, study = Folder(self.server).terms()
        aggregator = remote(Elsewhere(terms.parties, Post(self).carry), terms.policy, None)
        (weights,), _ = study.learn(aggregator, self.names)
        return weights
