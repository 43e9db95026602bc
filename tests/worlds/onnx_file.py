"""ONNX files, written without the package that makes them."""

import struct

import numpy as np


def _field(number: int, content: bytes | int) -> bytes:
    """A field of a protocol buffer: a number below 128, or bytes."""
    if isinstance(content, int):
        return bytes([number << 3, content])
    assert len(content) < 2**14
    size = [len(content) % 128 | 128, len(content) >> 7] if len(content) > 127 else [len(content)]
    return bytes([number << 3 | 2, *size]) + content


def onnx(weights: np.ndarray, elsewhere: str = "") -> bytes:
    """An ONNX file of one product, samples (n, inputs) by weights (inputs, outputs); elsewhere: the file that has them."""

    def value(name: str, side: int) -> bytes:
        shape = _field(1, _field(2, b"n")) + _field(1, _field(1, side))
        return _field(1, name.encode()) + _field(2, _field(1, _field(1, 1) + _field(2, shape)))

    inputs, outputs = weights.shape
    node = b"".join(_field(*one) for one in ((1, b"x"), (1, b"w"), (2, b"y"), (4, b"MatMul")))
    tensor = _field(1, inputs) + _field(1, outputs) + _field(2, 1) + _field(8, b"w")
    if elsewhere:
        tensor += _field(13, _field(1, b"location") + _field(2, elsewhere.encode())) + _field(14, 1)
    else:
        tensor += _field(9, struct.pack(f"<{weights.size}f", *weights.ravel()))
    graph = _field(1, node) + _field(2, b"g") + _field(5, tensor)
    graph += _field(11, value("x", inputs)) + _field(12, value("y", outputs))
    return _field(1, 8) + _field(7, graph) + _field(8, _field(2, 13))
