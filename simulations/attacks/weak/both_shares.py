"""A server that shows clients two lists of survivors, to get shares of both secrets of one client.

Flower's SecAgg+ client answers a request that names one client as a survivor and as a dropout.
"""

from collections.abc import Sequence

from secure_afl.crypto.hpke import Suite
from secure_afl.protocol.masking.client import MaskingClient
from secure_afl.protocol.masking.messages import Survivors
from secure_afl.protocol.masking.server import MaskingServer
from secure_afl.protocol.masking.states import ClientState
from secure_afl.protocol.session.errors import RemoteProtocolError
from secure_afl.protocol.session.parameters import Profile, SumWanted
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.wire import encode
from secure_afl.protocol.transport.masked import Cohort
from secure_afl.simulations.attacks.population import Statistic
from secure_afl.simulations.attacks.tap import Tap
from secure_afl.simulations.attacks.weak.unmasking import pair_keys, revealed, unmasked
from secure_afl.simulations.data.dataset import Floats
from secure_afl.sums.aggregation import Members, SessionSettings, proposed

_VICTIM = 0


class AnswersTwice(MaskingClient):
    """Our client without the rule that a round has one list of survivors."""

    def receive(self, data: bytes) -> bytes | SumWanted:
        state = self.state
        keys = self._memory.current if state is ClientState.UPLOADED else None
        answer = super().receive(data)
        if keys is not None:
            self.state, self._memory.current = state, keys
        return answer


def read(
    vectors: Sequence[Floats], statistic: Statistic, client: type[MaskingClient] = AnswersTwice
) -> dict[int, Floats]:
    """The first client's vector as the server reads it: its upload without the masks whose seeds were revealed."""
    names, members, tap = [f"client {index}" for index in range(len(vectors))], Members(), Tap()
    policy = Policy(profiles=frozenset({Profile.SEMI_HONEST}), suites=frozenset({Suite.X25519}))
    roster, plan = members.roster(names), [statistic.plan]
    parameters = proposed(roster, plan, SessionSettings(policy, Profile.SEMI_HONEST, Suite.X25519))
    clients = {
        index: client(members[name][0], roster, plan, policy, members[name][1])
        for index, name in enumerate(names)
    }
    cohort = Cohort(MaskingServer(parameters, roster), clients, tap)
    cohort.set_up()
    cohort.collect(0, lambda index, wanted: (vectors[index], "rows"))
    everybody, others = parameters.cohort, parameters.cohort[1:]

    def ask(survivors: tuple[int, ...]) -> dict[int, bytes]:
        request, answers = encode(Survivors(parameters.transcript(), 0, survivors)), {}
        for index in others:
            try:
                answer = clients[index].receive(request)
            except RemoteProtocolError:
                continue
            assert isinstance(answer, bytes)
            answers[index] = answer
        return answers

    survived, dropped = ask(everybody), ask(others)
    self_seed = revealed(survived, _VICTIM, parameters.threshold)
    keys: dict[int, bytes] = {}
    if dropped:
        keys = pair_keys(tap, parameters, _VICTIM, revealed(dropped, _VICTIM, parameters.threshold))
    return {_VICTIM: unmasked(tap, parameters, _VICTIM, keys, [self_seed])}
