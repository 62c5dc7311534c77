"""What one calibration run has learnt about a model: kept in one file, read lazily, used by every method."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from steelyard.errors import UserError
from steelyard.measure.rare_tokens import information_shares
from steelyard.measure.statistics_file import open_statistics
from steelyard.weights import Checkpoint

FILE_VERSION = 3


class CalibrationOptions(BaseModel):
    """How much to calibrate on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sequences: int = Field(default=128, ge=1, description="windows of text")
    sequence_length: int = Field(default=256, ge=8, description="tokens in a window")
    batch_tokens: int = Field(default=4096, ge=8, description="tokens run at once")
    seed: int = Field(default=0, description="decides which texts, which windows and the sampled labels")
    activation_bytes: int = Field(default=1 << 30, ge=0, description="hidden states kept in memory; others on disk")


@dataclass(frozen=True)
class DamageTerm:
    """One place where a tensor acts: an error E [out, in] there costs 1/2 sum_i row_weight_i (E H E^T)_ii.

    Attributes:
        second_moment: H [in, in] float32.
        row_weight: [out] float32.
    """

    second_moment: np.ndarray
    row_weight: np.ndarray

    def damage(self, error: np.ndarray) -> float:
        """Return the predicted damage of an error [out, in]."""
        error = np.asarray(error, dtype=np.float32)
        forms = np.einsum("ij,ij->i", error @ self.second_moment, error, dtype=np.float64)
        return float(0.5 * self.row_weight.astype(np.float64) @ forms)


class Calibration:
    """Statistics of a model's linear maps and embeddings, from `collect`.

    Damage is predicted KL divergence in nats per scored token for language models, and one minus the cosine of
    the sentence embedding, per sequence, for encoders (see `unit`). For a linear map with input second moment
    H = mean over tokens of x x^T, row i of the exact Fisher information is a matrix M_i [in, in]; it is stored as
    G_i H, with G_i such that the traces agree (G_i = tr M_i / tr H). So the prediction is exact in expectation for
    independent errors of one size, attention's spreading of errors over tokens included, and keeps H's directions.

    Use it in a `with` block or call `close`. Reading is lazy and safe from threads.
    """

    def __init__(self, path: Path, arrays: Checkpoint, about: dict[str, Any]) -> None:
        self.path = path
        self.about = about
        self._arrays = arrays

    @classmethod
    def open(cls, path: str | Path, model_identity: str | None = None) -> Calibration:
        """Open a calibration file.

        Args:
            path: of the file.
            model_identity: of the model it is wanted for, see `identity.model_identity`.

        Raises:
            UserError: if it is damaged, of another version or made for another model.
        """
        arrays, about = open_statistics(path)
        if about.get("version") != FILE_VERSION:
            arrays.close()
            raise UserError(f"{path} is of version {about.get('version')}, not {FILE_VERSION}; delete it")
        if model_identity is not None and about["model"]["identity"] != model_identity:
            arrays.close()
            made_for = about["model"]["name"]
            raise UserError(f"{path} was made for another model ({made_for}); pass another --calibration file")
        return cls(Path(path), arrays, about)

    @property
    def names(self) -> list[str]:
        """Tensors whose damage can be predicted."""
        return sorted({*self.about["owner"], *self.about["embeddings"]})

    @property
    def tokens(self) -> int:
        """Number of tokens seen."""
        return int(self.about["tokens"])

    @property
    def description(self) -> str:
        """In words, what texts were used."""
        return str(self.about["data"]["description"])

    @property
    def unit(self) -> str:
        """What damage is measured in."""
        return str(self.about["unit"])

    def terms(self, name: str) -> tuple[DamageTerm, ...]:
        """Return every place where a tensor acts; two for an embedding tied to the head, whose damages add up.

        Raises:
            KeyError: if nothing is known of the tensor.
        """
        terms = []
        if name in self.about["embeddings"]:
            gradient = self._arrays.tensor(f"embedding_gradient.{name}")
            terms.append(DamageTerm(np.diag(gradient), self.token_shares(name)))
        if name in self.about["owner"]:
            terms.append(DamageTerm(self._moment(name), self._arrays.tensor(f"output_gradient.{name}")))
        if not terms:
            raise KeyError(name)
        return tuple(terms)

    def second_moment(self, name: str) -> np.ndarray:
        """Return H [in, in] float32.

        For an embedding it is diag(G) over hidden channels, as rows are only looked up; for a tied one the
        average of that and the head's, each weighted by its mean row weight.
        """
        return _merged(self.terms(name)).second_moment

    def moment_key(self, name: str) -> str:
        """Return the key of the input a linear map reads: one for all that read the same input."""
        return str(self.about["owner"].get(name, name))

    def moment_of(self, key: str) -> np.ndarray:
        """Return H [in, in] float32 of a key from `moment_key`; for a table's name, its diagonal matrix."""
        if key in self.about["embeddings"]:
            return self.terms(key)[0].second_moment
        return self._arrays.tensor(f"second_moment.{key}")

    def output_gradient(self, name: str) -> np.ndarray:
        """Return G [out] float32; for an embedding each token's share, for a tied one what best joins the two."""
        return _merged(self.terms(name)).row_weight

    def damage(self, name: str, error: np.ndarray) -> float:
        """Return the predicted damage of an error [out, in] in a tensor, see `unit`."""
        return sum(term.damage(error) for term in self.terms(name))

    def fisher(self, name: str) -> float:
        """Return the trace of the tensor's Fisher information per scored token (per sequence for encoders)."""
        return sum(
            float(np.trace(t.second_moment, dtype=np.float64)) * float(t.row_weight.sum(dtype=np.float64))
            for t in self.terms(name)
        )

    def input_range(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the least and greatest input of each channel, two [in] float32."""
        owner = self.about["owner"][name]
        return self._arrays.tensor(f"input_min.{owner}"), self._arrays.tensor(f"input_max.{owner}")

    def input_mean(self, name: str) -> np.ndarray:
        """Return the mean input of each channel of a linear map, [in] float32."""
        return self._arrays.tensor(f"input_mean.{self.about['owner'][name]}")

    def token_counts(self, name: str) -> np.ndarray:
        """Return how often an embedding's rows were looked up, [vocabulary] int32."""
        return self._arrays.tensor(f"token_counts.{name}")

    def token_sources(self, name: str) -> np.ndarray:
        """Return in how many texts, or files of texts, each of an embedding's rows was looked up, int32."""
        return self._arrays.tensor(f"token_sources.{name}")

    def token_information(self, name: str) -> np.ndarray:
        """Return the Fisher information of each of an embedding's rows, summed over its uses, float32."""
        return self._arrays.tensor(f"token_fisher.{name}")

    def token_shares(self, name: str) -> np.ndarray:
        """Return how much of an embedding's Fisher information lies in each row: [vocabulary] float32, sum 1.

        It is what texts other than these are to be expected to hold, see `information_shares`.
        """
        return information_shares(self.token_counts(name), self.token_sources(name), self.token_information(name))

    def close(self) -> None:
        """Let go of the file."""
        self._arrays.close()

    def _moment(self, name: str) -> np.ndarray:
        return self._arrays.tensor(f"second_moment.{self.about['owner'][name]}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __contains__(self, name: object) -> bool:
        return name in self.about["owner"] or name in self.about["embeddings"]

    def __repr__(self) -> str:
        return f"Calibration({str(self.path)!r}, {len(self.names)} tensors, {self.tokens:,} tokens)"


def _merged(terms: tuple[DamageTerm, ...]) -> DamageTerm:
    if len(terms) == 1:
        return terms[0]
    weights = [float(term.row_weight.mean(dtype=np.float64)) for term in terms]
    total = sum(weights) or 1.0
    moment = sum(w / total * t.second_moment for w, t in zip(weights, terms, strict=True))
    # Each term's rows count as much as its trace does in the merged moment.
    trace = float(np.trace(moment, dtype=np.float64)) or 1.0
    rows = sum(float(np.trace(t.second_moment, dtype=np.float64)) / trace * t.row_weight for t in terms)
    return DamageTerm(np.asarray(moment, dtype=np.float32), np.asarray(rows, dtype=np.float32))
