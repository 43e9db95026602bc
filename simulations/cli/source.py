"""Which rows a command reads, and who holds them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from secure_afl.cli.options import Written

if TYPE_CHECKING:  # NumPy and the readers of tables are loaded with the first row
    from secure_afl.simulations.data.dataset import Dataset
    from secure_afl.simulations.data.partition import Part


@dataclass(frozen=True)
class Source(Written):
    """data, site_column, label_column, codebook: see `dataset.load`; clients, partition: see `partition`, None is a default for
    the data; backbone: an ONNX file whose features replace the columns, backbone_digest, backbone_limit, backbone_folder: see
    `Backbone`.
    """

    data: str = "heart"
    site_column: str = "site"
    label_column: str = "label"
    codebook: Path | None = None
    clients: int | None = None
    partition: str | None = None
    backbone: Path | None = None
    backbone_digest: str = ""
    backbone_limit: float = 6.0
    backbone_folder: Path | None = None

    def load(self, seed: int) -> "Dataset":
        """The rows; the seed draws synthetic ones. Raises `DataError`."""
        from secure_afl.simulations.data.dataset import load, through

        data = load(
            self.data,
            seed=seed,
            site_column=self.site_column,
            label_column=self.label_column,
            form=self.form,
            codebook=self.codebook,
        )
        if self.backbone is None:
            return data
        from secure_afl.models.networks.backbone import Backbone  # torch, onnxruntime

        backbone = Backbone.of_onnx(self.backbone, limit=self.backbone_limit, digest=self.backbone_digest)
        return through(data, backbone, self.backbone_folder)

    def divide(self, rows: "Dataset", seed: int) -> "list[Part]":
        """Who holds which of them. Raises `DataError`."""
        from secure_afl.simulations.data.partition import default_spec, partition

        return partition(rows, self.partition or default_spec(rows), self.clients, seed)
