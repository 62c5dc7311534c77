"""The calibration run: one streamed pass forward, one back, block by block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard import __version__
from steelyard.measure.activations import ActivationStore
from steelyard.measure.calibration import FILE_VERSION, Calibration, CalibrationOptions
from steelyard.measure.fisher import embedding_gradient, language_gradient
from steelyard.measure.identity import model_identity
from steelyard.measure.model import Model
from steelyard.measure.runner import BlockRunner, Call
from steelyard.measure.skeleton import describe_versions
from steelyard.measure.statistics_file import StatisticsWriter
from steelyard.measure.taps import Taps
from steelyard.measure.texts import Corpus
from steelyard.measure.windows import IGNORED, Batch, TokenSet, cut
from steelyard.progress import SILENT, Progress

if TYPE_CHECKING:
    import torch

# Of fewer, leaving one out says little of texts to come.
_FEWEST_SOURCES = 8

_UNITS = {
    "causal": "KL divergence in nats per token",
    "masked": "KL divergence in nats per token",
    "encoder": "1 - cosine of the embedding, per sequence",
}


def calibrate(
    model: Model,
    documents: Corpus,
    out: str | Path,
    options: CalibrationOptions | None = None,
    progress: Progress = SILENT,
) -> Calibration:
    """Calibrate a model on documents, or open the file if it is there already.

    Args:
        model: what to calibrate.
        documents: texts to calibrate on, see `texts` and `defaults`.
        out: the file. If it exists it must have been made for this model; whatever texts and options it was made
            with, it is used as it is, and says so itself.
        options: how much to calibrate on.
        progress: advanced by the batches.

    Raises:
        UserError: if the file was made for another model, the model cannot be run, or there is no text.
    """
    options = options or CalibrationOptions()
    if Path(out).exists():
        return Calibration.open(out, model_identity(model.source))
    data = cut(
        documents,
        model.tokenizer,
        model.task,
        model.vocabulary,
        sequences=options.sequences,
        length=min(options.sequence_length, model.max_length),
        seed=options.seed,
        location=model.location,
    )
    return collect(model, data, out, options, progress)


def collect(
    model: Model,
    data: TokenSet,
    out: str | Path,
    options: CalibrationOptions | None = None,
    progress: Progress = SILENT,
) -> Calibration:
    """Gather the statistics of a model over some texts and write them to one file.

    The hidden states entering each block are computed block by block and kept (in memory up to
    `options.activation_bytes`, beyond it on disk). Gradients start at the output (see `fisher`) and go back block
    by block, each block being run again with hooks on its linear maps (see `taps`). Weights are read twice and
    held one block at a time. The same model, texts and options give the same bytes on the same machine.

    Args:
        model: what to calibrate.
        data: windows of text, from `windows.cut`.
        out: the file to write, ending in .safetensors; replaced if it exists.
        options: how much is run at once, and the seed of the sampled labels.
        progress: advanced by the batches.

    Raises:
        UserError: if the model cannot be run, or the file cannot be written.
    """
    options = options or CalibrationOptions()
    writer = StatisticsWriter(Path(out))
    try:
        about = _Run(model, data, options, writer, progress).run()
        writer.finish(about)
    except BaseException:
        writer.abort()
        raise
    return Calibration.open(out)


class _Run:
    def __init__(
        self,
        model: Model,
        data: TokenSet,
        options: CalibrationOptions,
        writer: StatisticsWriter,
        progress: Progress,
    ) -> None:
        self.model, self.data, self.options = model, data, options
        self.writer, self.progress = writer, progress
        self.runner = BlockRunner(model)
        self.batches = data.batches(options.batch_tokens)
        self.units = self._units()
        self.owner: dict[str, str] = {}
        self.fisher: dict[str, float] = {}

    def run(self) -> dict[str, Any]:
        depth = self.runner.depth
        with ActivationStore(self.options.activation_bytes) as store:
            calls = self.runner.forward(self.batches, store, self.progress, keep=True, label="calibrating: forward")
            self.progress.start("calibrating: backward", (depth + 1) * len(self.batches), "batches")
            self._tail(store)
            for index in reversed(range(depth)):
                self._block(index, calls, store)
            embeddings = self._embedding(store)
            self.progress.finish()
        return self._about(embeddings)

    def _units(self) -> int:
        if self.model.task == "encoder":
            return len(self.data.windows)
        return sum(int((window.labels != IGNORED).sum()) for window in self.data.windows)

    def _tail(self, store: ActivationStore) -> None:
        """Replace the hidden states after the last block by the gradient there."""
        runner = self.runner
        parameters = runner.skeleton.outside_blocks(without=[runner.skeleton.input_embedding])
        taps = Taps(_linear_maps(runner, parameters))
        with runner.tail(), taps.attached():
            for number, batch in enumerate(self.batches):
                hidden = store.get(number)
                if self.model.task == "encoder":
                    gradient = embedding_gradient(runner, taps, batch, hidden, self.data, self.options.seed)
                else:
                    head = runner.skeleton.stored[f"{runner.skeleton.output_embedding}.weight"]
                    gradient = language_gradient(runner, taps, head, batch, hidden, self.data, self.options.seed)
                store.put(number, gradient)
                self.progress.advance(1)
        self._write(taps)

    def _block(self, index: int, calls: Sequence[Sequence[Call]], store: ActivationStore) -> None:
        """Run a block again, and replace the gradient after it by the gradient before it."""
        import torch

        parameters = self.runner.skeleton.parameters_of(self.runner.skeleton.block_names[index])
        taps = Taps(_linear_maps(self.runner, parameters))
        with self.runner.block(index) as block, taps.attached():
            for number, batch in enumerate(self.batches):
                taps.begin(batch)
                entering = store.get((index, number)).requires_grad_(True)
                leaving = self.runner.run_block(block, entering, calls[number][index])
                torch.autograd.backward(leaving, store.get(number))
                assert entering.grad is not None
                store.put(number, entering.grad)
                store.drop((index, number))
                self.progress.advance(1)
        self._write(taps)

    def _embedding(self, store: ActivationStore) -> list[str]:
        """Counts and gradient moments of the token embedding, from the gradient before the first block."""
        import torch

        skeleton = self.runner.skeleton
        module = skeleton.module.get_input_embeddings()
        name = skeleton.stored[f"{skeleton.input_embedding}.weight"]
        counts = np.zeros(module.weight.shape[0], dtype=np.int64)
        per_token = np.zeros(module.weight.shape[0])
        per_channel = np.zeros(module.weight.shape[1])
        looked_up: list[torch.Tensor] = []

        def hook(_: Any, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
            looked_up.append(output.detach().requires_grad_(True))
            return looked_up[-1]

        handle = module.register_forward_hook(hook)
        try:
            with self.runner.embedding():
                for number, batch in enumerate(self.batches):
                    looked_up.clear()
                    entering, _ = self.runner.enter(batch)
                    torch.autograd.backward(entering, store.get(number))
                    gradient = looked_up[0].grad
                    assert gradient is not None
                    _add_lookups(batch, gradient.numpy(), counts, per_token, per_channel)
        finally:
            handle.remove()
        # The token's own share is kept apart, so the channels carry the whole trace.
        self.writer.add(f"embedding_gradient.{name}", (per_channel / self.units).astype(np.float32))
        self.writer.add(f"token_fisher.{name}", (per_token / self.units).astype(np.float32))
        self.writer.add(f"token_counts.{name}", counts.astype(np.int32))
        self.writer.add(f"token_sources.{name}", _sources_of(self.data, len(counts)))
        self.fisher[f"{name} (embedding)"] = float(per_channel.sum() / self.units)
        return [name]

    def _write(self, taps: Taps) -> None:
        moments = {owner: moment.mean() for owner, moment in taps.inputs.items()}
        reached = [name for name in taps.modules if name in taps.gradients]
        for owner in sorted({taps.owner[name] for name in reached}):
            self.writer.add(f"second_moment.{owner}", moments[owner].astype(np.float32))
            inputs = taps.inputs[owner]
            self.writer.add(f"input_mean.{owner}", (inputs.total / max(inputs.rows, 1)).astype(np.float32))
            self.writer.add(f"input_min.{owner}", taps.inputs[owner].low)
            self.writer.add(f"input_max.{owner}", taps.inputs[owner].high)
        for name in reached:
            trace = float(np.trace(moments[taps.owner[name]]))
            gradient = taps.gradients[name] / self.units / (trace or 1.0)
            self.writer.add(f"output_gradient.{name}", gradient.astype(np.float32))
            self.owner[name] = taps.owner[name]
            self.fisher[name] = float(taps.gradients[name].sum() / self.units)

    def _about(self, embeddings: Sequence[str]) -> dict[str, Any]:
        return {
            "version": FILE_VERSION,
            "model": {"identity": model_identity(self.model.source), "name": Path(self.model.location).name},
            "task": self.model.task,
            "unit": _UNITS[self.model.task],
            "data": {"description": self.data.description, "identity": self.data.identity()},
            "tokens": self.data.tokens,
            "units": self.units,
            "options": self.options.model_dump(),
            "versions": {"steelyard": __version__, "numpy": np.__version__, **describe_versions()},
            "owner": self.owner,
            "embeddings": list(embeddings),
            "fisher": self.fisher,
        }


def _linear_maps(runner: BlockRunner, parameters: Sequence[str]) -> Mapping[str, Any]:
    """The linear maps among some parameters' modules, by the name of the tensor that fills them."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    found: dict[str, Any] = {}
    for parameter in parameters:
        path, leaf = parameter.rpartition(".")[::2]
        module = runner.skeleton.module.get_submodule(path)
        if leaf == "weight" and isinstance(module, nn.Linear | Conv1D):
            found[runner.skeleton.stored[parameter]] = module
    return found


def _sources_of(data: TokenSet, vocabulary: int) -> np.ndarray:
    """Return in how many sources each token is, [vocabulary] int32; of few sources, how many windows."""
    numbers = {source: number for number, source in enumerate(sorted(set(data.sources)))}
    of_window = [numbers[data.sources[window.document]] for window in data.windows]
    if len(numbers) < _FEWEST_SOURCES:
        of_window = list(range(len(data.windows)))
    pairs = [
        np.stack([np.full(len(window.inputs), number), window.inputs], axis=1)
        for number, window in zip(of_window, data.windows, strict=True)
    ]
    distinct = np.unique(np.concatenate(pairs), axis=0)
    return np.bincount(distinct[:, 1], minlength=vocabulary).astype(np.int32)


def _add_lookups(
    batch: Batch, gradient: np.ndarray, counts: np.ndarray, per_token: np.ndarray, per_channel: np.ndarray
) -> None:
    """Add, for each sequence, the squared gradient of every row that was looked up."""
    for row, length in enumerate(batch.lengths):
        tokens, place = np.unique(batch.inputs[row, :length], return_inverse=True)
        sums = np.zeros((len(tokens), gradient.shape[2]))
        np.add.at(sums, place, gradient[row, :length].astype(np.float64))
        squares = sums**2
        counts += np.bincount(batch.inputs[row, :length], minlength=len(counts))
        per_token[tokens] += squares.sum(1)
        per_channel += squares.sum(0)
