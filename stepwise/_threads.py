"""One thread for small matrices: on a busy machine several are slower by orders of magnitude."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from threadpoolctl import ThreadpoolController


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let NumPy's linear algebra use one thread. It is a context manager and a decorator.

    The threads of OpenBLAS wait for each other in a loop. If other processes hold the cores, the
    eigenvectors of a matrix [512, 512] take seconds instead of 50 ms.
    """
    with _controller().limit(limits=1, user_api="blas"):
        yield
