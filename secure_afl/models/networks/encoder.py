"""Names of the encoders, the rules that give a hidden layer its weights; `encoders` implements them."""

from enum import Enum


class Encoder(Enum):
    """Every encoder but the first needs one sum per layer.

    SEEDED: smooth random filters that every party draws from the public seed. Hidden layers need no sum, and no party
    has to trust another party's weights.
    CLASSWISE: the sums of SPATIAL, but a channel is a random mixture of the classes' mean patches, half whitened:
    S^(−½)C instead of S⁻¹C; channels beyond what labels can distinguish are random mixtures of the rows.
    SPATIAL: least squares towards a separate code for every label, position and channel.
    REPLICATED: least squares towards one code for every label and channel, the same at every position.
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
