"""Naming a model by its content."""

from __future__ import annotations

from blake3 import blake3

from steelyard.measure.model import WeightSource
from steelyard.weights import array_hash


def model_identity(source: WeightSource) -> str:
    """Return a hash of every tensor's name, type, shape and bytes, however the files are cut."""
    digest = blake3()
    for name in sorted(source.names):
        tensor = source.tensor(name)
        array = tensor if tensor.flags.c_contiguous else tensor.copy()
        digest.update(f"{name}\x00{tensor.dtype.name}\x00{tensor.shape}\x00{array_hash(array)}\n".encode())
    return digest.hexdigest()
