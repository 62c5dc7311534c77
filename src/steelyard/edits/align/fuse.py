"""The `fuse` job: one model of two that were trained apart."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import steelyard
from steelyard.edits.align.activations import match_moments, unit_likeness, windows
from steelyard.edits.align.job import OWN_FILES
from steelyard.edits.align.maps import Map, products
from steelyard.edits.align.moments import Moments, collect
from steelyard.edits.align.opened import Two, open_two
from steelyard.edits.align.options import FuseOptions
from steelyard.edits.align.otfusion import Fusion
from steelyard.edits.align.pleas import LeastSquares, Partial, fully, join, join_heads
from steelyard.edits.align.weights import match_nearest
from steelyard.errors import UserError
from steelyard.progress import SILENT, Progress
from steelyard.units import parse_size
from steelyard.weights import DTYPES, FolderWriter, StoredTensor, bytes_hash, check_output, plan_layout

FILE_NAME = "fusion.json"
"""What was done, beside the weights."""

_WIDTH_KEYS = {"gpt2": "n_inner"}
_FREE_HEADS = ("llama", "mistral", "qwen3")
"""Model types whose config gives heads a size of their own, so that there may be more of them."""


@dataclass(frozen=True)
class FuseResult:
    """What `fuse` made.

    Attributes:
        out: the folder.
        nbytes: of its weight files.
        parameters: how many it has.
        ffn: inner channels of its feed-forwards.
        kv_heads: key heads of its attention.
        joined: of the inner channels of one model, how many are joined; all of them but for `pleas` above width 1.
        residuals: pleas: mean relative square error of what linear maps put out, of permuted means and as fitted.
    """

    out: Path
    nbytes: int
    parameters: int
    ffn: int
    kv_heads: int
    joined: int
    residuals: tuple[float, float] | None = field(default=None)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**vars(self), "out": str(self.out), "residuals": self.residuals and list(self.residuals)}


@dataclass(frozen=True)
class _Made:
    """A fused model, tensor by tensor, before it is written."""

    tensor: Callable[[str], np.ndarray]
    shape: Callable[[str, tuple[int, ...]], tuple[int, ...]]
    ffn: int
    kv_heads: int
    joined: int
    residuals: Callable[[], tuple[float, float] | None]


def fuse_folder(
    first: str | Path,
    second: str | Path,
    out: str | Path,
    options: FuseOptions | None = None,
    *,
    resume: bool = False,
    progress: Progress = SILENT,
) -> FuseResult:
    """Write one model made of two.

    Args:
        first: whose order, sizes and other files the result has.
        second: the other; for otfusion its stream and feed-forwards may have other widths.
        out: the folder to make.
        options: how.
        resume: go on where an interrupted run stopped.
        progress: advanced by spaces and batches of text.

    Raises:
        UserError: if the models do not fit each other, or there is no text.
    """
    options = options or FuseOptions()
    with open_two(first, second, same_size=options.method == "pleas") as two:
        path = check_output(out, two.first.checkpoint.folder, resume)
        check_output(out, two.second.checkpoint.folder, resume)
        made = _otfusion(two, options, progress) if options.method == "otfusion" else _pleas(two, options, progress)
        return _write(two, path, made, options, resume)


def _otfusion(two: Two, options: FuseOptions, progress: Progress) -> _Made:
    fusion = Fusion(two, options.regularization, options.sweeps, options.reads)
    if options.match == "weights":
        fusion.match_weights()
    else:
        moments = _moments(two, options, progress)
        fusion.match_activations(_by_space(two, moments), unit_likeness(two, moments, False))
    ffn = _ffn(two)
    return _Made(
        lambda name: fusion.tensor(name, options.share),
        lambda _, shape: shape,
        ffn,
        _kv_heads(two),
        ffn,
        lambda: None,
    )


def _pleas(two: Two, options: FuseOptions, progress: Progress) -> _Made:
    needed = options.fit or options.match == "activations"
    moments = _moments(two, options, progress) if needed else {}
    likeness: dict[str, np.ndarray] = {}
    orders: dict[str, Map]
    if options.match == "activations":
        orders, likeness = match_moments(two, moments, True), unit_likeness(two, moments, True)
    else:
        orders = match_nearest(
            two.symmetry, two.read_first, two.read_second, seed=options.seed, progress=progress
        ).maps
    ffn = _ffn(two)
    size = round(options.width * ffn)
    spaces: dict[str, Partial] = {}
    kv_heads = _kv_heads(two)
    if options.heads:
        kv_heads = int(options.width * kv_heads + 0.5)
        _check_heads(two, kv_heads)

    def alike(space: str) -> np.ndarray:
        found = likeness.get(space)
        return products(two.symmetry, orders, space, two.read_first, two.read_second) if found is None else found

    for space, order in orders.items():
        spaces[space] = join(order, alike(space), size) if space.endswith(".ffn") else fully(order)
    for attention in two.symmetry.attentions if options.heads else ():
        held = {space: alike(space) for space in map(attention.space, ("query", "key", "value", "attended"))}
        spaces |= join_heads(attention, orders, held, kv_heads)
    squares = LeastSquares(two, spaces, moments if options.fit else {}, options.ridge)

    def residuals() -> tuple[float, float] | None:
        found = np.array(list(squares.residuals.values()))
        return (float(found[:, 0].mean()), float(found[:, 1].mean())) if len(found) else None

    return _Made(squares.tensor, squares.shape, size, kv_heads, 2 * ffn - size, residuals)


def _kv_heads(two: Two) -> int:
    return two.symmetry.attentions[0].kv_heads


def _check_heads(two: Two, kv_heads: int) -> None:
    """Refuse other numbers of heads where the config has no size for them, or transformers does not load them.

    Raises:
        UserError: naming the model types that have one, or the number of heads.
    """
    kind = two.first.spec.model_type
    if kind not in _FREE_HEADS:
        raise UserError(
            f"{two.first.location} is a {kind}, whose heads share the width of the model; only "
            f"{', '.join(_FREE_HEADS)} can have more: leave out --heads"
        )
    heads, hidden = kv_heads * two.symmetry.attentions[0].repeat, two.symmetry.sizes["stream"]
    if kind == "llama" and hidden % heads:
        raise UserError(
            f"that width makes {heads} heads, and transformers loads a llama of {hidden} channels only with heads "
            "that divide them; choose another --width, such as 2, or leave out --heads"
        )


def _ffn(two: Two) -> int:
    """Return the inner channels of every feed-forward of the first model.

    Raises:
        UserError: if blocks differ.
    """
    found = {size for space, size in two.symmetry.sizes.items() if space.endswith(".ffn")}
    if len(found) != 1:
        raise UserError(f"{two.first.location} has feed-forwards of {sorted(found)} channels; fuse needs one width")
    return found.pop()


def _moments(two: Two, options: FuseOptions, progress: Progress) -> dict[str, Moments]:
    data = windows(two, options.data, options.sequences, options.sequence_length, options.seed)
    return collect(two, data, progress=progress)


def _by_space(two: Two, moments: dict[str, Moments]) -> dict[str, Moments]:
    """Return the moments of what is read of each space, summed over the maps that read it."""
    spec = two.first.spec
    found: dict[str, Moments] = {}
    for key, held in moments.items():
        reads: tuple[str, ...] = ()
        for name, dims in two.symmetry.dims.items():
            tensor = spec.tensors[name]
            if tensor.kind == "linear" and spec.input_keys.get(name) == key:
                reads = dims[0 if tensor.transposed else 1]
        if not reads:  # a tied head has no tensor of its own
            reads = ("stream",) if "stream" in two.symmetry.sizes else ()
        for space in reads:
            if space in found:
                found[space].add(held)
            else:
                found[space] = Moments(
                    held.first.copy(),
                    held.cross.copy(),
                    held.second.copy(),
                    held.mean_first.copy(),
                    held.mean_second.copy(),
                    held.tokens,
                )
    return found


def _write(two: Two, path: Path, made: _Made, options: FuseOptions, resume: bool) -> FuseResult:
    opened = two.first
    stored = [
        StoredTensor(
            tensor.name,
            "F32" if options.dtype == "float32" and tensor.role != "buffer" else tensor.dtype,
            made.shape(tensor.name, tensor.shape),
        )
        for tensor in opened.spec.tensors.values()
    ]
    layout = plan_layout(stored, parse_size(options.max_shard_size))
    inputs = [model.checkpoint.content_hash() for model in (two.first, two.second)]
    settings = options.model_dump(mode="json")
    plan = bytes_hash(json.dumps([settings, inputs, steelyard.__version__]).encode())
    with FolderWriter(path, layout, resume=resume, plan_hash=plan, source=opened.checkpoint.folder) as writer:
        for file in layout.files:
            for name, tensor in file.tensors.items():
                if writer.done(name):
                    continue
                if name in two.symmetry.dims:
                    writer.write(name, made.tensor(name).astype(DTYPES[tensor.dtype].numpy))
                else:
                    writer.write(name, opened.checkpoint.tensor(name))
        config = dict(opened.checkpoint.config)
        if made.ffn != _ffn(two):
            config[_WIDTH_KEYS.get(opened.spec.model_type, "intermediate_size")] = made.ffn
        if made.kv_heads != _kv_heads(two):
            attention = two.symmetry.attentions[0]
            config["num_key_value_heads"] = made.kv_heads
            config["num_attention_heads"] = made.kv_heads * attention.repeat
            config["head_dim"] = attention.channels
        if options.dtype == "float32":
            config["dtype"] = "float32"
            config.pop("torch_dtype", None)
        writer.add_file("config.json", (json.dumps(config, indent=2) + "\n").encode())
        carried = [name for name in opened.checkpoint.other_files if name not in OWN_FILES | {FILE_NAME}]
        writer.carry(opened.checkpoint, carried)
        # What depends on which tensors this run still had to make stays out of the record.
        record = {"verb": "fuse", "steelyard": steelyard.__version__, "options": settings, "inputs": inputs}
        writer.add_file(
            FILE_NAME,
            (
                json.dumps({**record, "ffn": made.ffn, "kv_heads": made.kv_heads, "joined": made.joined}) + "\n"
            ).encode(),
        )
        folder = writer.finish()
    parameters = sum(int(np.prod(tensor.shape)) for tensor in stored)
    return FuseResult(
        folder, layout.total_bytes, parameters, made.ffn, made.kv_heads, made.joined, made.residuals()
    )
