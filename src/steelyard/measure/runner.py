"""Running a model block by block, with weights from anywhere and memory for one block at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steelyard.errors import UserError
from steelyard.measure.activations import ActivationStore
from steelyard.measure.model import Model
from steelyard.measure.skeleton import Skeleton
from steelyard.measure.windows import Batch
from steelyard.progress import SILENT, Progress

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Call:
    """What a block is called with besides the hidden states: masks, position embeddings, …"""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class _Stop(Exception):
    """Ends the forward pass of a shell whose last stub has seen what it needs."""


class BlockRunner:
    """Runs a model's parts one at a time: what stands before the blocks, each block, what stands after them.

    Nothing is known of the architecture: the blocks are replaced by stubs, and the model's own `forward` is run
    around them. The first stub receives the hidden states that enter the blocks, every stub what its block is
    called with; for the part after the blocks the last stub returns the hidden states it is given.

    Computation is in float32 on the CPU.

    Example:
        >>> runner = BlockRunner(model)  # doctest: +SKIP
        >>> with ActivationStore() as store:
        ...     runner.forward(batches, store)
        ...     with runner.tail():
        ...         logits = runner.run_tail(batches[0], store.get(0)).logits
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.skeleton = Skeleton(model)
        self._stubs = _make_stubs(self.skeleton.blocks)

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.skeleton.blocks)

    @contextmanager
    def embedding(self) -> Iterator[None]:
        """Hold the weights that `enter` needs."""
        names = self.skeleton.outside_blocks(without=[self.skeleton.output_embedding])
        with self.skeleton.loaded(self.model.source, names):
            yield

    @contextmanager
    def block(self, index: int) -> Iterator[Any]:
        """Hold the weights of a block and yield it."""
        names = self.skeleton.parameters_of(self.skeleton.block_names[index])
        with self.skeleton.loaded(self.model.source, names):
            yield self.skeleton.blocks[index]

    @contextmanager
    def tail(self) -> Iterator[None]:
        """Hold the weights that `run_tail` needs."""
        names = self.skeleton.outside_blocks(without=[self.skeleton.input_embedding])
        with self.skeleton.loaded(self.model.source, names):
            yield

    def enter(self, batch: Batch) -> tuple[torch.Tensor, list[Call]]:
        """Return the hidden states [b, t, hidden] that enter the first block, and every block's call."""
        import torch

        for stub in self._stubs:
            stub.call = None
        self._stubs[-1].stops = True
        try:
            with self._stubbed():
                self.skeleton.module(input_ids=torch.from_numpy(batch.inputs), **self._mask(batch))
        except _Stop:
            pass
        finally:
            self._stubs[-1].stops = False
        calls = [stub.call for stub in self._stubs]
        hidden: torch.Tensor = self._stubs[0].entered
        self._stubs[0].entered = None
        return hidden, calls

    def run_block(self, block: Any, hidden: torch.Tensor, call: Call) -> torch.Tensor:
        """Return the hidden states after a block."""
        result = block(hidden, *call.args, **call.kwargs)
        if not hasattr(result, "shape"):
            kind = type(self.skeleton.module).__name__
            raise UserError(f"the blocks of {kind} do not return hidden states alone; use --data none")
        output: torch.Tensor = result
        return output

    def run_tail(self, batch: Batch, hidden: torch.Tensor) -> Any:
        """Return the model's output from the hidden states after the last block; differentiable in them."""
        self._stubs[-1].injected = hidden
        try:
            with self._stubbed():
                return self.skeleton.module(inputs_embeds=hidden.detach(), **self._mask(batch))
        finally:
            self._stubs[-1].injected = None
            self._stubs[0].entered = None

    def forward(
        self,
        batches: Sequence[Batch],
        store: ActivationStore,
        progress: Progress = SILENT,
        visit: Callable[[int, Any], Any] | None = None,
        keep: bool = False,
        label: str = "running the model",
    ) -> list[list[Call]]:
        """Run all batches through all blocks, block by block.

        The hidden states after the last block are left in the store under the batch's number.

        Args:
            batches: what to run.
            store: where hidden states wait between blocks.
            progress: advanced by the blocks and batches done.
            visit: called with (block index, block) before a block runs; returns a context manager whose value is
                called with each batch before it runs.
            keep: whether the input of block i for batch j stays in the store under (i, j).
            label: shown by `progress`.

        Returns:
            For each batch the calls of all blocks.
        """
        import torch

        progress.start(label, self.depth * len(batches), "batches")
        calls: list[list[Call]] = []
        with torch.no_grad():
            with self.embedding():
                for number, batch in enumerate(batches):
                    hidden, called = self.enter(batch)
                    store.put(number, hidden)
                    calls.append(called)
            for index in range(self.depth):
                with self.block(index) as block:
                    if visit is None:
                        self._through(index, block, batches, calls, store, progress, keep, None)
                    else:
                        with visit(index, block) as before:
                            self._through(index, block, batches, calls, store, progress, keep, before)
        progress.finish()
        return calls

    def _through(
        self,
        index: int,
        block: Any,
        batches: Sequence[Batch],
        calls: list[list[Call]],
        store: ActivationStore,
        progress: Progress,
        keep: bool,
        before: Callable[[Batch], None] | None,
    ) -> None:
        for number, batch in enumerate(batches):
            hidden = store.get(number)
            if keep:
                store.put((index, number), hidden)
            if before is not None:
                before(batch)
            store.put(number, self.run_block(block, hidden, calls[number][index]))
            progress.advance(1)

    def _mask(self, batch: Batch) -> dict[str, Any]:
        """Padding stands on the right, where causal models never look, so only others need a mask."""
        import torch

        if self.model.task == "causal" or bool(batch.valid.all()):
            return {}
        return {"attention_mask": torch.from_numpy(batch.valid.astype("int64"))}

    @contextmanager
    def _stubbed(self) -> Iterator[None]:
        from torch import nn

        parent, leaf = self.skeleton.list_name.rpartition(".")[::2]
        owner = self.skeleton.module.get_submodule(parent)
        blocks = getattr(owner, leaf)
        setattr(owner, leaf, nn.ModuleList(self._stubs))
        try:
            yield
        finally:
            setattr(owner, leaf, blocks)


def _make_stubs(blocks: Sequence[Any]) -> list[Any]:
    from torch import nn

    class Stub(nn.Module):
        """Stands for a block: notes its call and passes hidden states on, or those it was given."""

        def __init__(self, block: Any) -> None:
            super().__init__()
            # Outside of the module's own registry, so that the block is not a child.
            self.__dict__["original"] = block
            self.call: Call | None = None
            self.entered: Any = None
            self.injected: Any = None
            self.stops = False

        def __getattr__(self, name: str) -> Any:
            # Models ask their blocks for such things as the kind of attention.
            try:
                return super().__getattr__(name)
            except AttributeError:
                return getattr(self.__dict__["original"], name)

        def forward(self, hidden: Any, *args: Any, **kwargs: Any) -> Any:
            self.call = Call(args, kwargs)
            self.entered = hidden
            if self.stops:
                raise _Stop
            return hidden if self.injected is None else self.injected

    return [Stub(block) for block in blocks]
