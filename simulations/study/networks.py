"""The networks of a run, chosen for its data."""

from typing import Any

from secure_afl.errors import DataError
from secure_afl.models.networks.encoders import summed
from secure_afl.models.networks.fedacnnl import FedACnnL
from secure_afl.models.networks.network import AvgPool, Conv, Dense, Network, ReLU
from secure_afl.models.networks.pfedacnnl import PFedACnnL
from secure_afl.simulations.data.dataset import Dataset
from secure_afl.simulations.study.settings import Settings


def network_for(data: Dataset, *, private: bool = False) -> Network:
    """One layer of filters and a head for images, a hidden dense layer for other rows and tiny images. private: fewer of
    them, as noise grows with what the head sees.
    """
    if data.target or data.weights is not None:
        got = "weights in the codebook" if data.weights is not None else "a number to predict"
        raise DataError(f"{data.name}: expected classes and rows without weights for fedacnnl, got {got}")
    side = min(data.shape[1:], default=0)
    if side < 4:  # a filter of 3 and a pool of 2 would leave nothing
        return Network((data.X.shape[1],), (Dense(32 if private else 128), ReLU()), len(data.classes))
    # Chosen on a held-out part of the training rows of MNIST-5k, never on test rows.
    filters = 16 if private else 64
    first, pool = (
        (Conv(filters, 7, padding=1, contrast=True), 4)
        if side > 16
        else (Conv(filters, 5, padding=2, contrast=True), 2)
    )
    return Network(data.shape, (first, ReLU(), AvgPool(pool)), len(data.classes))


def sums(settings: Settings, data: Dataset) -> int:
    """How many sums train the network; with groups, one more counts the clients."""
    return len(summed(settings.encoder, network_for(data))) + (settings.groups > 1)


def estimator(settings: Settings, data: Dataset, **parameters: Any) -> FedACnnL:
    """The network's estimator, not yet trained. parameters: what a ridge model has too."""
    parameters |= {"encoder": settings.encoder.value, "seed": settings.seed, "device": settings.device}
    if settings.personalize:
        return PFedACnnL(network_for(data), groups=settings.groups, **parameters)
    private = settings.privacy is not None
    return FedACnnL(network_for(data, private=private), privacy=settings.privacy, **parameters)
