"""Limit every method to one thread, for comparisons on one core."""

import torch
from threadpoolctl import threadpool_limits


def one_core() -> None:
    """Keep this process's linear algebra to one thread from now on: torch's, and the BLAS of NumPy and SciPy.

    Gradient methods run in torch, our statistics and solves in NumPy and SciPy: limiting torch alone would lend
    ours a second core.
    """
    torch.set_num_threads(1)
    threadpool_limits(1)
