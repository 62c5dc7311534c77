"""Hadamard matrices: entries of +1 and -1, rows orthogonal to each other."""

from __future__ import annotations

from functools import lru_cache

import numpy as np


def odd_part(size: int) -> int:
    """Return the least divisor of a size by which it must be divided for `hadamard` to know the quotient."""
    return next(rest for rest in range(1, size + 1) if size % rest == 0 and _seed_of(size // rest))


@lru_cache(maxsize=16)
def hadamard(size: int) -> np.ndarray:
    """Return a Hadamard matrix, float64 [size, size] of +1 and -1.

    Sylvester's doubling of 1, or of a matrix by Paley's constructions from the squares modulo a prime (1933): of
    size q + 1 for q of 3 modulo 4, of 2 (q + 1) for q of 1 modulo 4.

    Raises:
        ValueError: if none is known here; see `odd_part`.
    """
    seed = _seed_of(size)
    if not seed:
        raise ValueError(f"no Hadamard matrix of size {size} is known here")
    matrix = _paley(seed)
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


def _seed_of(size: int) -> int:
    """Return the smallest size from which doubling comes to this one, 0 if there is none."""
    sizes = [size]
    while sizes[-1] % 2 == 0:
        sizes.append(sizes[-1] // 2)
    return next((small for small in sizes[::-1] if small in (1, 2) or _prime_of(small)), 0)


def _prime_of(size: int) -> int:
    """Return the prime that Paley makes a matrix of this size from, else 0."""
    for prime, remainder in ((size - 1, 3), (size // 2 - 1, 1)):
        if size % 4 == 0 and prime % 4 == remainder and prime > 2 and _is_prime(prime):
            return prime
    return 0


def _is_prime(number: int) -> bool:
    return all(number % divisor for divisor in range(2, int(number**0.5) + 1))


def _paley(size: int) -> np.ndarray:
    if size <= 2:
        return np.array([[1.0, 1.0], [1.0, -1.0]])[:size, :size]
    prime = _prime_of(size)
    squares = np.full(prime, -1.0)
    squares[np.arange(1, prime) ** 2 % prime] = 1.0
    squares[0] = 0.0
    places = np.arange(prime)
    core = np.zeros((prime + 1, prime + 1))
    core[0, 1:] = 1.0
    core[1:, 0] = -1.0 if prime % 4 == 3 else 1.0
    core[1:, 1:] = squares[(places[:, None] - places) % prime]
    if prime % 4 == 3:
        whole: np.ndarray = core + np.eye(prime + 1)
        return whole
    doubled: np.ndarray = np.kron(core, [[1.0, 1.0], [1.0, -1.0]]) + np.kron(
        np.eye(prime + 1), [[1.0, -1.0], [-1.0, -1.0]]
    )
    return doubled
