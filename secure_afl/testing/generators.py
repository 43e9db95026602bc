"""Uses of random generators that can be foretold: Python's and NumPy's."""

import gc
import random
import sys
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

_OURS = "secure_afl.testing."  # draws vectors and schedules


def _state(generator: Any) -> Any:
    """A generator's state, to be compared."""

    def frozen(one: Any) -> Any:
        if isinstance(one, dict):
            return tuple((key, frozen(value)) for key, value in one.items())
        return one.tobytes() if isinstance(one, np.ndarray) else one

    if isinstance(generator, random.Random):
        return generator.getstate()
    if isinstance(generator, np.random.RandomState):
        return frozen(generator.get_state(legacy=False))
    return frozen(generator.bit_generator.state)


def _recording(original: Any, used: list[str]) -> Any:
    """Stands for a generator's class or maker: notes that it was called, by whom, and calls it."""

    def call(*arguments: Any, **named: Any) -> Any:
        caller = sys._getframe(2 if isinstance(original, type) else 1).f_globals.get("__name__", "?")
        if caller.partition(".")[0] not in sys.stdlib_module_names and not caller.startswith(_OURS):
            used.append(f"{original.__module__}.{original.__name__} by {caller}")
        return original(*arguments, **named)

    if not isinstance(original, type):
        return call

    class Kind(type):
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, original)

        def __call__(cls, *arguments: Any, **named: Any) -> Any:
            return call(*arguments, **named)

    return Kind(original.__name__, (), {"__module__": original.__module__})


@contextmanager
def generators_noted(apart_from: Collection[object] = ()) -> Iterator[list[str]]:
    """Fills a list with the uses of Python's and NumPy's generators meanwhile: made anew under whatever name a module
    knows the maker by, or drawn from or seeded where they exist already.
    """
    kinds = (random.Random, np.random.Generator, np.random.RandomState)
    # `tempfile` draws names of files.
    skipped = {id(one) for one in (*apart_from, vars(tempfile)["_get_candidate_names"]().rng)}
    known = [
        one
        for one in gc.get_objects()
        if issubclass(type(one), kinds)
        and not isinstance(one, random.SystemRandom)
        and id(one) not in skipped
    ]
    before = [_state(one) for one in known]
    used: list[str] = []
    makers = [random.Random, np.random.default_rng, np.random.RandomState]
    makers += [getattr(np.random, name) for name in ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")]
    stand_ins = {id(maker): _recording(maker, used) for maker in makers}
    replaced: list[tuple[dict[str, Any], str, Any]] = []
    for module in list(sys.modules.values()):
        names = getattr(module, "__dict__", None)
        if type(names) is not dict or names is globals():
            continue
        for name, value in list(names.items()):
            if id(value) in stand_ins:
                replaced.append((names, name, value))
                names[name] = stand_ins[id(value)]
    try:
        yield used
    finally:
        for names, name, value in replaced:
            names[name] = value
        for generator, state in zip(known, before, strict=True):
            if _state(generator) != state:
                used.append(
                    f"a {type(generator).__module__}.{type(generator).__name__} that was there before"
                )
