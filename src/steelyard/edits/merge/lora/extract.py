"""The difference of two models as a LoRA adapter in peft's format, matrix by matrix."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from steelyard.edits.merge.inputs import InputModel, StoredModel
from steelyard.edits.merge.lora.differences import Change, find_changes
from steelyard.edits.merge.lora.factor import Factors, Rows, factor, relative_error
from steelyard.edits.merge.lora.peft_config import adapter_config
from steelyard.edits.merge.lora.settings import CONFIG_FILE
from steelyard.errors import UserError
from steelyard.parallel import single_threaded_blas, stream_threads
from steelyard.progress import SILENT, Progress
from steelyard.seeds import generator
from steelyard.weights import DTYPES, FolderWriter, Layout, StoredTensor, bytes_hash, check_output, plan_layout

ELEMENTS = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
_PREFIX = "base_model.model."
_ONE_FILE = 1 << 62


class ExtractOptions(BaseModel):
    """How a difference of two models becomes an adapter."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int = Field(32, ge=1, description="rank of every product, or the greatest with --tolerance")
    tolerance: float = Field(
        0.0, ge=0, lt=1, description="cut each rank where the relative error of the difference is within this"
    )
    include: str | None = Field(None, description="regular expression: only modules it is found in")
    exclude: str | None = Field(None, description="regular expression: leave out modules it is found in")
    embeddings: Literal["save", "lora", "skip"] = Field(
        "save", description="changed embeddings and heads: whole, as products, or not at all"
    )
    others: Literal["save", "skip"] = Field("save", description="changed norms and biases: whole, or not at all")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="element type of the adapter")
    seed: int = Field(0, description="seed of everything drawn")


@dataclass(frozen=True)
class ExtractedTensor:
    """What became of one changed matrix.

    Attributes:
        name: of the tensor.
        rank: of its product.
        error: Frobenius norm of what the stored product leaves of the difference, relative to the difference.
    """

    name: str
    rank: int
    error: float


@dataclass(frozen=True)
class Extracted:
    """An adapter that was made.

    Attributes:
        out: its folder.
        nbytes: bytes of its weight file.
        tensors: the changed matrices.
        saved: names of tensors saved whole.
        skipped: names of changed tensors that the adapter leaves out.
        error: relative error over all the products together.
    """

    out: Path
    nbytes: int
    tensors: tuple[ExtractedTensor, ...]
    saved: tuple[str, ...]
    skipped: tuple[str, ...]
    error: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**dataclasses.asdict(self), "out": str(self.out)}


def extract_lora(
    finetuned: str | Path,
    base: str | Path,
    out: str | Path,
    options: ExtractOptions | None = None,
    *,
    resume: bool = False,
    progress: Progress = SILENT,
) -> Extracted:
    """Write the adapter that turns one model into another, as far as its rank allows.

    Args:
        finetuned: the model to be reached; a folder, a quantized one, a GGUF file.
        base: the model the adapter is for.
        out: the folder to make: `adapter_config.json` and `adapter_model.safetensors`, which peft loads.
        options: how.
        resume: continue an unfinished run.
        progress: advanced by the entries of every matrix.

    Raises:
        UserError: if the models differ in more than their numbers, or in nothing.
    """
    options = options or ExtractOptions()
    reached = StoredModel.open(str(finetuned))
    try:
        source = StoredModel.open(str(base))
        try:
            path = check_output(out, reached.checkpoint.folder, resume)
            return _Extraction(reached, source, options, progress).run(path, resume)
        finally:
            source.close()
    finally:
        reached.close()


class _Extraction:
    def __init__(self, reached: InputModel, base: InputModel, options: ExtractOptions, progress: Progress) -> None:
        self._reached, self._base, self._options, self._progress = reached, base, options, progress
        self._chosen = _filter(options)

    def run(self, out: Path, resume: bool) -> Extracted:
        changes = find_changes(self._reached, self._base, self._options, self._chosen, self._progress)
        if not changes.products:
            rest = [*changes.skipped, *changes.saved.values()]
            others = f" (but in {', '.join(rest[:3])}); peft loads no adapter without a matrix" if rest else ""
            raise UserError(
                f"{self._reached.label} and {self._base.label} do not differ in any matrix chosen{others}"
            )
        with single_threaded_blas():
            ranks = self._ranks(changes.products)
            layout = self._layout(changes.products, ranks, changes.saved)
            work = [self._reached.identity(), self._base.identity(), self._options.model_dump(mode="json")]
            plan = bytes_hash(json.dumps(work).encode())
            with FolderWriter(out, layout, resume=resume, plan_hash=plan) as writer:
                made = self._write(writer, changes.products, ranks)
                for key, name in changes.saved.items():
                    if not writer.done(_PREFIX + key):
                        shape = self._reached.shape(name)
                        flat = self._reached.reader(name)(0, int(np.prod(shape)))
                        writer.write(_PREFIX + key, flat.reshape(shape).astype(self._numpy))
                config = adapter_config(self._base, changes, ranks, self._options.rank)
                writer.add_file(CONFIG_FILE, (json.dumps(config, indent=1) + "\n").encode())
                folder = writer.finish()
        missed = sum((tensor.error * norm) ** 2 for tensor, norm in made)
        energy = sum(norm**2 for _, norm in made)
        return Extracted(
            folder,
            layout.total_bytes,
            tuple(tensor for tensor, _ in made),
            tuple(changes.saved.values()),
            changes.skipped,
            float(np.sqrt(missed / energy)) if energy else 0.0,
        )

    @property
    def _numpy(self) -> Any:
        return DTYPES[ELEMENTS[self._options.dtype]].numpy

    def _ranks(self, products: dict[str, Change]) -> dict[str, int]:
        full = {name: min(self._options.rank, *change.shape) for name, change in products.items()}
        if not self._options.tolerance:
            return full
        found = self._factors(products, full, "choosing ranks")
        return {name: factors.rank_for(self._options.tolerance) for name, factors in found}

    def _factors(self, products: dict[str, Change], ranks: dict[str, int], label: str) -> Any:
        """Yield (name, factors) in order, worked out in threads."""
        self._progress.start(label, sum(change.entries for change in products.values()))

        def make(name: str) -> tuple[str, Factors]:
            change = products[name]
            draw = generator(self._options.seed, name)
            found = factor(change.rows(self._reached, self._base), change.shape, ranks[name], draw)
            self._progress.advance(change.entries)
            return name, found

        yield from stream_threads(make, products)
        self._progress.finish()

    def _write(
        self, writer: FolderWriter, products: dict[str, Change], ranks: dict[str, int]
    ) -> list[tuple[ExtractedTensor, float]]:
        """Write every product; return what became of it and the norm of the difference."""
        made = []
        for name, factors in self._factors(products, ranks, "decomposing"):
            change = products[name]
            left, right = factors.left.astype(self._numpy), factors.right.astype(self._numpy)
            for key, array in change.stored(left, right).items():
                if not writer.done(_PREFIX + key):
                    writer.write(_PREFIX + key, np.ascontiguousarray(array))
            rows: Rows = change.rows(self._reached, self._base)
            error = relative_error(rows, change.shape, left, right)
            made.append((ExtractedTensor(name, ranks[name], error), float(np.sqrt(factors.energy))))
            self._reached.done(name)
            self._base.done(name)
        return made

    def _layout(self, products: dict[str, Change], ranks: dict[str, int], saved: dict[str, str]) -> Layout:
        element = ELEMENTS[self._options.dtype]
        tensors = []
        for name, change in products.items():
            for key, shape in change.stored_shapes(ranks[name]).items():
                tensors.append(StoredTensor(_PREFIX + key, element, shape))
        tensors += [StoredTensor(_PREFIX + key, element, self._reached.shape(name)) for key, name in saved.items()]
        layout = plan_layout(tensors, _ONE_FILE)
        return dataclasses.replace(
            layout, files=(dataclasses.replace(layout.files[0], name="adapter_model.safetensors"),)
        )


def _filter(options: ExtractOptions) -> Callable[[str], bool]:
    """Return what tells whether a module is chosen."""
    patterns = {}
    for option in ("include", "exclude"):
        text = getattr(options, option)
        try:
            patterns[option] = None if text is None else re.compile(text)
        except re.error as error:
            raise UserError(f"--{option}: {text!r} is not a regular expression ({error})") from None
    include, exclude = patterns["include"], patterns["exclude"]

    def chosen(module: str) -> bool:
        if include is not None and include.search(module) is None:
            return False
        return exclude is None or exclude.search(module) is None

    return chosen
