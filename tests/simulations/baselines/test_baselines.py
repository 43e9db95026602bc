from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from secure_afl.errors import DataError
from secure_afl.simulations.baselines import averaging, harness
from secure_afl.simulations.baselines.descent import descend
from secure_afl.simulations.baselines.harness import (
    COMMON,
    OWN,
    ClientRows,
    History,
    Train,
    average,
    batches,
    clients_of,
    survivors,
)
from secure_afl.simulations.baselines.masked import masked_fedavg
from secure_afl.simulations.baselines.methods import METHODS
from secure_afl.simulations.baselines.model import Model, cnn, linear, mlp, shallow_cnn
from secure_afl.simulations.baselines.settings import PROBLEMS, TUNED, Settings
from secure_afl.simulations.baselines.zeroth import two_point
from secure_afl.simulations.data.dataset import load
from secure_afl.simulations.data.partition import partition

APART = ("local", "centralized")
PLAIN = Settings(rounds=2, rate=0.1, own_rate=0.1, own_steps=3, pull=0.5, steps=4, batch=5)
SMALL = linear(6, 3)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


def toy(rows: Sequence[int], seed: int = 0) -> list[ClientRows]:
    """Clients with that many random rows of 6 features and 3 classes, and 4 test rows each."""
    source = torch.Generator().manual_seed(seed)

    def draw(count: int) -> tuple[Tensor, Tensor]:
        return torch.randn(count, 6, generator=source), torch.randint(0, 3, (count,), generator=source)

    return [ClientRows(f"client-{k}", *draw(count), *draw(4)) for k, count in enumerate(rows)]


@dataclass
class Trained:
    history: History
    states: list[list[Tensor]]  # the models by which each point's accuracy was found

    def last(self) -> Tensor:
        return torch.stack(self.states[-1])


def trained(
    method: str, clients: Sequence[ClientRows], settings: Settings, model: Model = SMALL, seed: int = 1
) -> Trained:
    states: list[list[Tensor]] = []

    def spy(model: Model, used: Sequence[Tensor], clients: Sequence[ClientRows]) -> float:
        states.append([w.clone() for w in used])
        return measured(model, used, clients)

    measured = harness.accuracy
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(harness, "accuracy", spy)
        return Trained(METHODS[method](clients, model, settings, seed, lambda point: None), states)


TORCH: dict[str, tuple[Model, nn.Module]] = {
    "linear": (linear(784, 10), nn.Linear(784, 10)),
    "mlp": (mlp(784, 100, 10), nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10))),
}
for side, padding, left in ((28, 0, 4), (8, 2, 2)):
    TORCH[f"cnn-{side}"] = (
        cnn(side, 10),
        nn.Sequential(
            nn.Unflatten(1, (1, side, side)),
            *(nn.Conv2d(1, 6, 5, padding=padding), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(6, 16, 5, padding=padding), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
            *(nn.Linear(16 * left**2, 120), nn.ReLU(), nn.Linear(120, 100), nn.ReLU(), nn.Linear(100, 10)),
        ),
    )
for side, inputs in ((28, 64 * 36), (8, 64)):
    TORCH[f"shallow-cnn-{side}"] = (
        shallow_cnn(side, 10),
        nn.Sequential(
            nn.Unflatten(1, (1, side, side)),
            *(nn.Conv2d(1, 64, 7, padding=1), nn.ReLU(), nn.AvgPool2d(4), nn.Flatten()),
            nn.Linear(inputs, 10),
        ),
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", TORCH)
def test_models_are_those_of_torch(name: str) -> None:
    model, module = TORCH[name]
    w = model.start(3)
    nn.utils.vector_to_parameters(w.clone(), module.parameters())
    X, y = torch.rand(20, 64 if name.endswith("-8") else 784), torch.arange(20) % 10
    loss = nn.CrossEntropyLoss()(module(X), y)
    loss.backward()
    gradient = torch.cat([p.grad.ravel() for p in module.parameters() if p.grad is not None])
    torch.testing.assert_close(model.gradient(w, X, y), gradient)
    assert model.loss(w, X, y) == pytest.approx(loss.item(), rel=1e-5)
    assert not w.requires_grad


@pytest.mark.parametrize("name", TORCH)
def test_first_parameters_have_the_spread_of_torch(name: str) -> None:
    model, module = TORCH[name]
    fans = [p[0].numel() for p in module.parameters() if p.ndim > 1 for _ in range(2)]
    parts = torch.split(model.start(0), [p.numel() for p in module.parameters()])
    for part, fan in zip(parts, fans, strict=True):
        assert part.abs().max() <= fan**-0.5
        assert len(part) < 100 or part.std() == pytest.approx((3 * fan) ** -0.5, rel=0.2)


def test_batches_go_through_all_rows() -> None:
    client = replace(toy([23])[0], X=torch.arange(23.0)[:, None], y=torch.arange(23))
    drawn = list(batches(client, 5, 23, (0,)))
    assert all(len(X) == 5 and torch.equal(X[:, 0].long(), y) for X, y in drawn)
    assert torch.cat([y for _, y in drawn]).bincount().tolist() == [5] * 23  # five epochs, each row in each
    assert [len(y) for _, y in batches(client, 50, 3, (0,))] == [23] * 3


def test_survivors() -> None:
    drawn = [survivors(20, 0.25, 0, number) for number in range(1, 200)]
    assert all(len(one) == len(set(one)) == 15 for one in drawn)
    assert {k for one in drawn for k in one} == set(range(20))
    assert drawn == [survivors(20, 0.25, 0, number) for number in range(1, 200)]
    assert survivors(20, 0, 0, 1) == list(range(20))
    assert len(survivors(3, 1.0, 0, 1)) == 1


@pytest.mark.parametrize("dropout", [0, 0.5])
def test_a_round_averages_survivors_by_rows(dropout: float) -> None:
    clients = toy([6, 30, 11, 100])
    settings = replace(PLAIN, rounds=1, dropout=dropout)
    present = survivors(4, dropout, 1, 1)
    expected = torch.zeros(SMALL.size, dtype=torch.float64)
    for k in present:
        steps = batches(clients[k], 5, 4, (1, 1, k, COMMON))
        expected += len(clients[k].y) * descend(SMALL, SMALL.start(1), steps, 0.1).double()
    expected /= sum(len(clients[k].y) for k in present)
    result = trained("fedavg", clients, settings)
    torch.testing.assert_close(result.last(), expected.float().expand(4, -1), rtol=1e-5, atol=1e-7)


def test_the_average_of_one_model_is_that_model() -> None:
    w = SMALL.start(0)
    assert torch.equal(average([w], [7]), w)


def test_fedavg_with_one_client_is_sgd() -> None:
    clients = toy([40])
    layer = nn.Linear(6, 3)
    nn.utils.vector_to_parameters(SMALL.start(1), layer.parameters())
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for number in (1, 2):
        for X, y in batches(clients[0], 5, 4, (1, number, 0, COMMON)):
            optimizer.zero_grad()
            nn.functional.cross_entropy(layer(X), y).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    result = trained("fedavg", clients, PLAIN).last()[0]
    torch.testing.assert_close(result, nn.utils.parameters_to_vector(layer.parameters()).detach())


def test_fedprox_without_weight_is_fedavg() -> None:
    clients = toy([12, 30])
    free = trained("fedprox", clients, replace(PLAIN, pull=0.0)).last()
    assert torch.equal(free, trained("fedavg", clients, PLAIN).last())
    held = trained("fedprox", clients, PLAIN).last()
    start = SMALL.start(1)
    assert (held - start).norm() < (free - start).norm()


def test_fine_tuning_without_steps_is_fedavg() -> None:
    clients = toy([12, 30])
    common = trained("fedavg", clients, PLAIN).last()
    tuned = trained("fine-tuned", clients, PLAIN).last()
    assert torch.equal(trained("fine-tuned", clients, replace(PLAIN, own_rate=0.0)).last(), common)
    assert not torch.equal(tuned[0], tuned[1])


def test_ditto_without_weight_is_local_only() -> None:
    clients = toy([12, 30, 7])
    alone = trained("local", clients, PLAIN).last()
    assert torch.equal(trained("ditto", clients, replace(PLAIN, pull=0.0)).last(), alone)
    assert not torch.equal(trained("ditto", clients, PLAIN).last(), alone)


@pytest.mark.parametrize("method", ["ditto", "pfedme"])
def test_who_is_absent_keeps_its_own_model(method: str) -> None:
    result = trained(method, toy([12] * 6), replace(PLAIN, rounds=6, dropout=0.5))
    before = [SMALL.start(1)] * 6
    for number, after in enumerate(result.states, 1):
        present = survivors(6, 0.5, 1, number)
        assert [k for k in range(6) if not torch.equal(before[k], after[k])] == present
        before = after


def test_per_fedavg_takes_the_gradient_where_a_step_would_lead_and_adapts() -> None:
    clients = toy([40])
    first, second = batches(clients[0], 5, 2, (1, 1, 0, COMMON))
    [third] = batches(clients[0], 5, 1, (1, 1, 0, OWN))
    w = SMALL.start(1)
    w = w - 0.1 * SMALL.gradient(w - 0.3 * SMALL.gradient(w, *first), *second)
    w = w - 0.3 * SMALL.gradient(w, *third)
    settings = replace(PLAIN, rounds=1, steps=1, own_rate=0.3, own_steps=1)
    torch.testing.assert_close(trained("per-fedavg", clients, settings).last()[0], w)


def test_a_round_of_pfedme_is_the_papers() -> None:
    clients = toy([40])
    settings = replace(PLAIN, rounds=2, steps=1, pull=2.0, rate=0.1, own_rate=0.3, own_steps=2, mix=0.5)
    common = SMALL.start(1)
    for number in (1, 2):
        [(X, y)] = batches(clients[0], 5, 1, (1, number, 0, COMMON))
        theta = common
        for _ in range(2):
            theta = theta - 0.3 * (SMALL.gradient(theta, X, y) + 2.0 * (theta - common))
        local = common - 0.1 * 2.0 * (common - theta)
        common = 0.5 * common + 0.5 * local
    torch.testing.assert_close(trained("pfedme", clients, settings).last()[0], theta)


class Quadratic(Model):
    """f(w) = wᵀ A w / 2 whatever the rows; its gradient is A w."""

    A = torch.diag(torch.arange(1.0, 13.0))

    def loss(self, w: Tensor, X: Tensor, y: Tensor) -> float:
        return float(w @ self.A @ w / 2)


@pytest.mark.parametrize("radius", [0.01, 1.0])
def test_two_losses_point_along_the_gradient(radius: float) -> None:
    model = Quadratic("quadratic", ((12,),), lambda w, X: X)
    w = torch.linspace(-1, 1, 12)
    gradient = model.A @ w
    rng = np.random.default_rng(0)
    none = torch.empty(0)
    for _ in range(20):  # one direction: the part of the gradient along it, exactly, never uphill
        one = two_point(model, w, none, none, radius, 1, rng)
        signs = one.sign()
        torch.testing.assert_close(one, (signs @ gradient) * signs, rtol=1e-2, atol=1e-3)
        assert one @ gradient >= 0
    many = two_point(model, w, none, none, radius, 4000, rng)
    assert (many - gradient).norm() < 0.1 * gradient.norm()


def test_accuracy_is_of_each_clients_own_model() -> None:
    X = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    y = (X[:, 0] > 0).long()
    # One client contradicts the other: no common model is right for both.
    clients = [ClientRows("a", X, y, X[:30], y[:30]), ClientRows("b", X, 1 - y, X[:10], 1 - y[:10])]
    settings = replace(PLAIN, rounds=20, steps=20)
    assert trained("local", clients, settings).history.points[-1].accuracy >= 0.9
    assert trained("ditto", clients, replace(settings, pull=0.01)).history.points[-1].accuracy >= 0.9
    w = trained("fedavg", clients, settings)
    right = sum(int((SMALL.logits(w.last()[0], c.X_test).argmax(1) == c.y_test).sum()) for c in clients)
    assert w.history.points[-1].accuracy == right / 40 <= 0.75


@pytest.mark.slow
@pytest.mark.parametrize(("method", "train"), METHODS.items())
def test_costs_grow_and_the_seed_fixes_the_rest(
    method: str, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients = toy([12, 30, 7])
    monkeypatch.setattr(averaging, "LOOK", 10)
    settings = replace(PLAIN, rounds=25, dropout=0.34)
    rounds = [10, 20, 25] if method in ("fine-tuned", "per-fedavg") else list(range(1, 26))
    told: list[harness.Point] = []
    history = train(clients, SMALL, settings, 5, told.append)
    points = history.points
    assert history.method == method
    assert tuple(told) == points
    assert [point.round for point in points] == rounds
    for before, after in pairwise(points):
        assert before.compute_seconds < after.compute_seconds
        assert before.client_seconds < after.client_seconds
    exchanged = [0 if method in APART else 4 * SMALL.size * number for number in rounds]
    assert [point.bytes_up for point in points] == [point.bytes_down for point in points] == exchanged
    first, again, other = (trained(method, clients, settings, seed=seed) for seed in (5, 5, 6))
    assert [point.accuracy for point in first.history.points] == [point.accuracy for point in points]
    assert torch.equal(first.last(), again.last())
    assert not torch.equal(first.last(), other.last())


def test_fedavg_under_masks_is_fedavg_and_pays_for_them() -> None:
    """But for the rounding of each sum; keys are exchanged once, and no model leaves a client in the clear."""
    clients = toy([12, 30, 7, 9, 20])
    settings = replace(PLAIN, rounds=4)
    plain = trained("fedavg", clients, settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS, "fedavg, masked", masked_fedavg)
        masked = trained("fedavg, masked", clients, settings)
    torch.testing.assert_close(masked.last(), plain.last(), atol=1e-4, rtol=0)
    points = masked.history.points
    assert (masked.history.trips, masked.history.first_trips) == (3, 3)
    rounds = [after.bytes_up - before.bytes_up for before, after in pairwise(points)]
    assert points[0].bytes_up > max(rounds) >= min(rounds) > 4 * SMALL.size
    assert all(after.bytes_down > before.bytes_down for before, after in pairwise(points))
    with pytest.raises(DataError, match="no dropouts under masks"):
        masked_fedavg(clients, SMALL, replace(settings, dropout=0.2), 1, lambda point: None)


def test_clients_work_at_the_same_time() -> None:
    clients = toy([12] * 8)
    last = trained("local", clients, PLAIN).history.points[-1]
    assert last.compute_seconds < last.client_seconds
    pooled = trained("centralized", clients, PLAIN).history.points[-1]
    assert pooled.compute_seconds == pooled.client_seconds


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns(method: str) -> None:
    data = load("digits")
    clients = clients_of(data, partition(data, "iid", 4, 0))
    assert sum(len(client.y) + len(client.y_test) for client in clients) == len(data.y)
    settings = replace(TUNED[method, "mnist-linear"], rounds=100 if method == "fedzo" else 10)
    reached = trained(method, clients, settings, linear(64, 10)).history.points[-1].accuracy
    assert reached > (0.5 if method == "fedzo" else 0.85)  # chance is 0.1


def test_every_method_is_tuned_for_every_problem() -> None:
    assert set(TUNED) == {
        (method, problem)
        for method in METHODS
        for problem in PROBLEMS
        if problem != "mnist-shallow" or method == "centralized"
    }
    assert all(one.batch == 20 and one.dropout == 0 for one in TUNED.values())
