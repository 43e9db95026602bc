"""The names of what a hidden layer is trained towards; `encoders` computes it."""

from enum import Enum


class Encoder(Enum):
    """Every encoder but the first needs one sum a layer.

    SEEDED: none; filters are smooth random ones that every party draws from the public seed, so a hidden layer
    needs no sum and nobody has to trust anybody's weights.
    CLASSWISE: the sums of SPATIAL, but a channel is a random mixture of the classes' mean patches, half
    whitened: S^(−½)C in place of S⁻¹C; channels beyond what labels tell apart are random mixtures of the rows.
    SPATIAL: an own code for every label, position and channel, least squares towards it.
    REPLICATED: one code for every label and channel, the same at every position, least squares.
    NONE: random filters.
    SPECTRAL: the leading eigenvectors of the aggregated covariance.
    MIXED: half spatial, half random.
    """

    SEEDED = "seeded"
    CLASSWISE = "classwise"
    SPATIAL = "spatial"
    REPLICATED = "replicated"
    NONE = "none"
    SPECTRAL = "spectral"
    MIXED = "mixed"
