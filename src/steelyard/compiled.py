"""Functions compiled to native speed by numba. Imported only by modules that hold such functions."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from threading import Lock
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def inner(function: Function) -> Function:
    """Compile as part of the kernels that call it."""
    return cast(Function, numba.njit(nogil=True)(function))


def unchecked(function: Function) -> Function:
    """Compile as `inner` does, with quotients by 0 that are infinite or NaN, so that loops may run in vectors."""
    return cast(Function, numba.njit(nogil=True, error_model="numpy")(function))


_SPARING = Lock()


class Kernel:
    """A function compiled for the given argument types at its first call, or then taken from the disk cache.

    The types are fixed so that read-only (memory-mapped) arrays share the code of others. The cache lies beside the
    function's file, or in the user's cache folder where that cannot be written; without either there is none.
    """

    def __init__(self, function: Callable[..., Any], signatures: tuple[Any, ...]) -> None:
        self._function, self._signatures = function, signatures
        self._compiled: Callable[..., Any] | None = None
        self._lock = Lock()

    def __call__(self, *arguments: Any) -> Any:
        """Call the compiled function."""
        return (self._compiled or self.prepare())(*arguments)

    def prepare(self) -> Callable[..., Any]:
        """Compile, or take from the cache, unless that is done."""
        with self._lock:
            self._compiled = self._compiled or self._compile()
            return self._compiled

    def _compile(self) -> Callable[..., Any]:
        _spare_scipy()

        def build(cache: bool) -> Callable[..., Any]:
            compiled = numba.njit(list(self._signatures), cache=cache, nogil=True)(self._function)
            return cast(Callable[..., Any], compiled)

        try:
            return build(cache=True)
        except (RuntimeError, OSError):  # numba finds no folder for its cache, or cannot write there
            return build(cache=False)


def _spare_scipy() -> None:
    """Keep numba from importing `scipy.linalg` before its first kernel, which takes longer than most of the start.

    It does so to know whether kernels may multiply matrices. They may: scipy is always installed with this package.
    Those that do import it then.
    """
    from numba.np import linalg

    with _SPARING:
        if "numba.np.arraymath" in sys.modules:
            return
        check = linalg.ensure_blas
        linalg.ensure_blas = lambda: None
        try:
            importlib.import_module("numba.np.arraymath")
        finally:
            linalg.ensure_blas = check


def kernel(*signatures: Any) -> Callable[[Callable[..., Any]], Kernel]:
    """Compile for the given signatures when first called."""
    return lambda function: Kernel(function, signatures)


def given(element: Any, axes: int = 2) -> Any:
    """Return the type of an array that is only read; memory-mapped ones are read-only."""
    return numba.types.Array(element, axes, "C", readonly=True)
