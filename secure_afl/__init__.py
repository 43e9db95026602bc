"""Secure aggregation for analytic federated learning.

The public names are loaded on first use, so that an aggregation server which only imports
`secure_afl.protocol` does not pay for the learning side.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secure_afl.aggregation import Aggregate as Aggregate
    from secure_afl.aggregation import Aggregator as Aggregator
    from secure_afl.aggregation import MaskedAggregator as MaskedAggregator
    from secure_afl.aggregation import PlainAggregator as PlainAggregator
    from secure_afl.encrypted import EncryptedAggregator as EncryptedAggregator
    from secure_afl.fedacnnl import FedACnnL as FedACnnL
    from secure_afl.network import Network as Network
    from secure_afl.pfedacnnl import PFedACnnL as PFedACnnL
    from secure_afl.protocol.parameters import SumPlan as SumPlan
    from secure_afl.protocol.policy import Policy as Policy
    from secure_afl.ridge import FederatedRidge as FederatedRidge
    from secure_afl.solve import Certificate as Certificate
    from secure_afl.statistics import PublicBounds as PublicBounds
    from secure_afl.statistics import SufficientStatistics as SufficientStatistics

_HOMES = {
    "Aggregate": "aggregation",
    "Aggregator": "aggregation",
    "Certificate": "solve",
    "EncryptedAggregator": "encrypted",
    "FedACnnL": "fedacnnl",
    "FederatedRidge": "ridge",
    "MaskedAggregator": "aggregation",
    "Network": "network",
    "PFedACnnL": "pfedacnnl",
    "PlainAggregator": "aggregation",
    "Policy": "protocol.policy",
    "PublicBounds": "statistics",
    "SufficientStatistics": "statistics",
    "SumPlan": "protocol.parameters",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'secure_afl' has no attribute {name!r}")
    return getattr(import_module(f"secure_afl.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
