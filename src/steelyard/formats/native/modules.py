"""Modules that hold their weight as the bytes it is stored in and decode on use."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from steelyard.formats.native.torch_decoding import PackedMatrix


class Packed(nn.Module):
    """A module whose `weight` is a blob, uint8 [nbytes].

    Args:
        matrix: what the bytes mean.
        dtype: of the results; `.to(dtype)` changes it.
        device: where to make the weight.

    Attributes:
        keep_decoded: keep the decoded weight after its first use: faster, and as large as an unpacked model.
        stored_name: of the tensor in the folder it came from, "" if from none.
    """

    weight: nn.Parameter
    like: nn.Parameter

    def __init__(self, matrix: PackedMatrix, dtype: torch.dtype, device: torch.device | None = None) -> None:
        super().__init__()
        self.matrix = matrix
        self.keep_decoded = False
        self.stored_name = ""
        self._kept: Tensor | None = None
        # An empty parameter that follows `.to()`, which casts it but not the bytes. It comes first because callers
        # ask a model's first parameter for the type of them all. It is in no state dict.
        self.like = nn.Parameter(torch.empty(0, dtype=dtype, device="cpu"), requires_grad=False)
        blob = torch.empty(matrix.nbytes, dtype=torch.uint8, device=device)
        self.weight = nn.Parameter(blob, requires_grad=False)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the results."""
        return self.like.dtype

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination.pop(f"{prefix}like")

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *other: Any) -> None:
        state_dict.setdefault(f"{prefix}like", self.like.data)
        super()._load_from_state_dict(state_dict, prefix, *other)

    def decoded(self) -> Tensor:
        """Return the whole matrix [out, in] in the module's float type."""
        return self.matrix.decode(self.weight).to(self.dtype)

    def forget(self) -> None:
        """Let go of the decoded weight, which is of other bytes than `weight` now holds."""
        self._kept = None

    def _usable(self, kept: Tensor | None, dtype: torch.dtype) -> bool:
        return kept is not None and kept.device == self.weight.device and kept.dtype == dtype


class PackedLinear(Packed):
    """A linear map with a packed weight; also stands in for GPT-2's Conv1D.

    A low-rank part is applied as two thin products and never multiplied out.

    Args:
        matrix: the weight, (out, in).
        bias: of the map, None without.
        dtype: see `Packed`.
        device: see `Packed`.
    """

    def __init__(
        self,
        matrix: PackedMatrix,
        bias: nn.Parameter | None,
        dtype: torch.dtype,
        device: torch.device | None = None,
    ) -> None:
        super().__init__(matrix, dtype, device)
        self.out_features, self.in_features = matrix.shape
        self.bias = bias

    def forward(self, input: Tensor) -> Tensor:
        """Return input W^T + bias for input [..., in]."""
        # Tying code pads a head's bias to the length of its weight, which here is a number of bytes.
        bias = None if self.bias is None else self.bias[: self.out_features]
        factors = self.matrix.factors(self.weight, input.dtype)
        base = self._base(input.dtype)
        if factors is None:
            assert base is not None
            return functional.linear(input, base, bias)
        b, a = factors
        correction = functional.linear(functional.linear(input, a), b, bias)
        return correction if base is None else functional.linear(input, base) + correction

    def _base(self, dtype: torch.dtype) -> Tensor | None:
        if self._usable(self._kept, dtype):
            return self._kept
        matrix = self.matrix.without_factors()
        if matrix is None:
            return None
        base = matrix.decode(self.weight.detach()[: matrix.nbytes]).to(dtype)
        self._kept = base if self.keep_decoded else None
        return base

    def unpacked(self, dtype: torch.dtype | None = None) -> nn.Linear:
        """Return the plain linear map this one stands for."""
        plain = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        plain.weight = nn.Parameter(self.decoded().to(dtype))
        if self.bias is not None:
            plain.bias = nn.Parameter(self.bias.detach()[: self.out_features].to(dtype))
        return plain

    def extra_repr(self) -> str:
        """Sizes and codec."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"codec={self.matrix.codec.label}"
        )


class PackedEmbedding(Packed):
    """An embedding table of which only the rows that are looked up are decoded.

    Args:
        matrix: the table, (rows, columns).
        padding_idx: as in `torch.nn.Embedding`.
        dtype: see `Packed`.
        device: see `Packed`.
    """

    def __init__(
        self, matrix: PackedMatrix, padding_idx: int | None, dtype: torch.dtype, device: torch.device | None = None
    ) -> None:
        super().__init__(matrix, dtype, device)
        self.num_embeddings, self.embedding_dim = matrix.shape
        self.padding_idx = padding_idx

    def forward(self, input: Tensor) -> Tensor:
        """Return the rows of integers [...] as [..., columns]."""
        if self.keep_decoded:
            if not self._usable(self._kept, self.dtype):
                self._kept = self.decoded()
            assert self._kept is not None
            return functional.embedding(input, self._kept)
        rows, place = torch.unique(input, return_inverse=True)
        if rows.numel() and not 0 <= int(rows[0]) <= int(rows[-1]) < self.num_embeddings:
            raise IndexError(f"token {int(rows[0])} or {int(rows[-1])} is outside of 0..{self.num_embeddings - 1}")
        return functional.embedding(place, self.matrix.decode(self.weight, rows.long()).to(self.dtype))

    def unpacked(self, dtype: torch.dtype | None = None) -> nn.Embedding:
        """Return the plain table this one stands for."""
        plain = nn.Embedding(self.num_embeddings, self.embedding_dim, self.padding_idx, device="meta")
        plain.weight = nn.Parameter(self.decoded().to(dtype))
        return plain

    def extra_repr(self) -> str:
        """Sizes and codec."""
        return f"{self.num_embeddings}, {self.embedding_dim}, codec={self.matrix.codec.label}"


def packed_like(module: Any, matrix: PackedMatrix, dtype: torch.dtype) -> PackedLinear | PackedEmbedding | None:
    """Return the packed module that can take a module's place; None if it does more than the plain one.

    Args:
        module: a linear map, a Conv1D or an embedding table of transformers' models.
        matrix: its weight to be.
        dtype: of its results.
    """
    device = module.weight.device
    forward = type(module).forward
    if isinstance(module, nn.Embedding) and forward is nn.Embedding.forward and module.max_norm is None:
        found = (module.num_embeddings, module.embedding_dim)
        return PackedEmbedding(matrix, module.padding_idx, dtype, device) if found == matrix.shape else None
    if isinstance(module, nn.Linear) and forward is nn.Linear.forward:
        found = (module.out_features, module.in_features)
        return PackedLinear(matrix, module.bias, dtype, device) if found == matrix.shape else None
    if type(module).__name__ == "Conv1D" and hasattr(module, "nf"):
        found = (module.nf, module.nx)
        return PackedLinear(matrix, module.bias, dtype, device) if found == matrix.shape else None
    return None
