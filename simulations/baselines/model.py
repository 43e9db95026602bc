"""A torch model as one flat parameter vector and a forward function, the cheapest form for local steps."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, eq=False)
class Model:
    """A classifier with softmax cross-entropy loss.

    shapes: of its tensors, each weight (outputs, ...) followed by its bias (outputs,). forward: from those
    tensors and X, float32 (rows, features), to logits, float32 (rows, classes). A state w of the model is one
    float32 vector (size,), so that every method is the vector algebra of its paper.
    """

    kind: str
    shapes: tuple[tuple[int, ...], ...]
    forward: Callable[[tuple[Tensor, ...], Tensor], Tensor]

    @property
    def size(self) -> int:
        return sum(map(prod, self.shapes))

    def start(self, seed: int) -> Tensor:
        """Initial parameters, which every party can compute: torch's default, uniform within 1/sqrt(fan-in)."""
        generator = torch.Generator().manual_seed(seed)
        uniform = torch.rand(self.size, generator=generator) * 2 - 1
        fans = [prod(self.shapes[i - i % 2][1:]) for i in range(len(self.shapes))]  # a bias has its weight's
        for part, fan in zip(self._tensors(uniform), fans, strict=True):
            part /= fan**0.5
        return uniform

    def logits(self, w: Tensor, X: Tensor) -> Tensor:
        return self.forward(self._tensors(w), X)

    def loss(self, w: Tensor, X: Tensor, y: Tensor) -> float:
        """Mean cross-entropy."""
        return float(functional.cross_entropy(self.logits(w, X), y))

    def gradient(self, w: Tensor, X: Tensor, y: Tensor) -> Tensor:
        """Gradient of the loss in w, float32 (size,)."""
        tensors = self._tensors(w)
        for tensor in tensors:
            tensor.requires_grad_()
        loss = functional.cross_entropy(self.forward(tensors, X), y)
        return torch.cat([part.reshape(-1) for part in torch.autograd.grad(loss, tensors)])

    def _tensors(self, w: Tensor) -> tuple[Tensor, ...]:
        parts = torch.split(w, [prod(shape) for shape in self.shapes])
        return tuple(part.view(shape) for part, shape in zip(parts, self.shapes, strict=True))


def linear(features: int, classes: int) -> Model:
    """One layer: multinomial logistic regression."""
    return Model("linear", ((classes, features), (classes,)), lambda w, X: functional.linear(X, w[0], w[1]))


def mlp(features: int, hidden: int, classes: int) -> Model:
    """One hidden layer with ReLU; the pFedMe paper has 100 hidden units for MNIST and 20 for Synthetic."""

    def forward(w: tuple[Tensor, ...], X: Tensor) -> Tensor:
        return functional.linear(functional.linear(X, w[0], w[1]).relu_(), w[2], w[3])

    return Model("mlp", ((hidden, features), (hidden,), (classes, hidden), (classes,)), forward)


def cnn(side: int, classes: int) -> Model:
    """The small network of pFedMe for images (LeNet's form), on one channel of side×side pixels.

    Convolutions of 5×5 with 6 and 16 channels, each with ReLU and max-pooling by 2, then 120, 100 and the
    classes. Images of fewer than 16 pixels a side are padded by 2 in both convolutions: else nothing is left.
    Its gradient on 28×28 costs a quarter of that of one 7×7 convolution with 64 channels.
    """
    padding = 2 if side < 16 else 0
    left = side
    for _ in range(2):
        left = (left + 2 * padding - 4) // 2

    def forward(w: tuple[Tensor, ...], X: Tensor) -> Tensor:
        h = X.view(-1, 1, side, side)
        for i in (0, 2):  # ReLU after pooling: the same values from a quarter of the work
            h = functional.max_pool2d(functional.conv2d(h, w[i], w[i + 1], padding=padding), 2).relu()
        h = h.flatten(1)
        for i in (4, 6):
            h = functional.linear(h, w[i], w[i + 1]).relu_()
        return functional.linear(h, w[8], w[9])

    shapes = ((6, 1, 5, 5), (6,), (16, 6, 5, 5), (16,), (120, 16 * left**2), (120,), (100, 120), (100,))
    return Model("cnn", (*shapes, (classes, 100), (classes,)), forward)


def shallow_cnn(side: int, classes: int) -> Model:
    """One convolution, the network that the analytic method trains: for SGD on the same architecture.

    7×7 with 64 channels and padding 1 on one channel of side×side pixels, ReLU, average-pooling by 4, one linear
    layer to the classes.
    """

    def forward(w: tuple[Tensor, ...], X: Tensor) -> Tensor:
        h = functional.conv2d(X.view(-1, 1, side, side), w[0], w[1], padding=1).relu_()
        return functional.linear(functional.avg_pool2d(h, 4).flatten(1), w[2], w[3])

    left = (side - 4) // 4
    return Model("shallow-cnn", ((64, 1, 7, 7), (64,), (classes, 64 * left**2), (classes,)), forward)
