"""The baselines by name."""

from secure_afl.simulations.baselines.apart import centralized, local_only
from secure_afl.simulations.baselines.averaging import fedavg, fedprox, fine_tuned, per_fedavg
from secure_afl.simulations.baselines.harness import Train
from secure_afl.simulations.baselines.proximal import ditto, pfedme
from secure_afl.simulations.baselines.zeroth import fedzo

METHODS: dict[str, Train] = {
    "fedavg": fedavg,
    "fedprox": fedprox,
    "fine-tuned": fine_tuned,
    "per-fedavg": per_fedavg,
    "pfedme": pfedme,
    "ditto": ditto,
    "local": local_only,
    "fedzo": fedzo,
    "centralized": centralized,
}
