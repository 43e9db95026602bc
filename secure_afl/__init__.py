"""Secure aggregation for analytic federated learning.

The public names are loaded on first use, so that an aggregation server which only imports
`secure_afl.protocol` does not pay for the learning side.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secure_afl.analytic.solve import Certificate as Certificate
    from secure_afl.analytic.statistics import PublicBounds as PublicBounds
    from secure_afl.analytic.statistics import SufficientStatistics as SufficientStatistics
    from secure_afl.models.discriminant import FederatedLDA as FederatedLDA
    from secure_afl.models.glm import FederatedLogisticRegression as FederatedLogisticRegression
    from secure_afl.models.glm import FederatedPoissonRegression as FederatedPoissonRegression
    from secure_afl.models.networks.fedacnnl import FedACnnL as FedACnnL
    from secure_afl.models.networks.network import Network as Network
    from secure_afl.models.networks.pfedacnnl import PFedACnnL as PFedACnnL
    from secure_afl.models.pca import FederatedPCA as FederatedPCA
    from secure_afl.models.ridge import FederatedRidge as FederatedRidge
    from secure_afl.models.ridge import FederatedRidgeClassifier as FederatedRidgeClassifier
    from secure_afl.protocol.session.parameters import SumPlan as SumPlan
    from secure_afl.protocol.session.policy import Policy as Policy
    from secure_afl.sums.aggregation import Aggregate as Aggregate
    from secure_afl.sums.aggregation import Aggregator as Aggregator
    from secure_afl.sums.aggregation import MaskedAggregator as MaskedAggregator
    from secure_afl.sums.aggregation import PlainAggregator as PlainAggregator
    from secure_afl.sums.encrypted import EncryptedAggregator as EncryptedAggregator

_HOMES = {
    "Aggregate": "sums.aggregation",
    "Aggregator": "sums.aggregation",
    "Certificate": "analytic.solve",
    "EncryptedAggregator": "sums.encrypted",
    "FedACnnL": "models.networks.fedacnnl",
    "FederatedLDA": "models.discriminant",
    "FederatedLogisticRegression": "models.glm",
    "FederatedPCA": "models.pca",
    "FederatedPoissonRegression": "models.glm",
    "FederatedRidge": "models.ridge",
    "FederatedRidgeClassifier": "models.ridge",
    "MaskedAggregator": "sums.aggregation",
    "Network": "models.networks.network",
    "PFedACnnL": "models.networks.pfedacnnl",
    "PlainAggregator": "sums.aggregation",
    "Policy": "protocol.session.policy",
    "PublicBounds": "analytic.statistics",
    "SufficientStatistics": "analytic.statistics",
    "SumPlan": "protocol.session.parameters",
}
# Modules that were public before they moved into rooms.
_MODULES = {"site": "node.site", "study": "node.study"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"secure_afl.{_MODULES[name]}")
    if name not in _HOMES:
        raise AttributeError(f"module 'secure_afl' has no attribute {name!r}")
    return getattr(import_module(f"secure_afl.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES, *_MODULES]
