"""The one way a loop is compiled in this house."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function) -> Function:
    """Compile `function` with numba: cached on disk, without the interpreter lock, with exact IEEE arithmetic.

    Where the package's own folder cannot be written, numba keeps the cache in the user's cache folder. Changes in
    a kernel that another file's kernel calls are not seen by the latter's cache: touch both files.
    """
    return cast(Function, numba.njit(cache=True, nogil=True)(function))
