"""The training loop: batches, teacher and student, the optimizer, checkpoints. It knows nothing of codes.

It changes what `Trainable` offers, by Adam, towards a teacher's outputs or towards the tokens. The same data, seed
and threads give the same bytes, also where a run was interrupted and resumed from its last checkpoint.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from steelyard.edits.tune.trainable import Moment, Trainable
from steelyard.errors import UserError
from steelyard.progress import SILENT, Progress
from steelyard.seeds import generator

if TYPE_CHECKING:
    from torch import Tensor

    from steelyard.edits.tune._network import Network
    from steelyard.measure.windows import Batch, TokenSet

Loss = Literal["kl", "tokens"]


@dataclass(frozen=True)
class Settings:
    """How a run goes.

    Attributes:
        steps: updates in all.
        batch: windows in a step.
        rate: of weights, as a share of their typical size.
        step_rate: of steps and zero points, likewise.
        warmup: share of the steps over which the rates rise.
        loss: "kl", the divergence from the teacher's outputs; "tokens", the cross-entropy of the text.
        save_every: steps between checkpoints.
        seed: of the order of the data.
    """

    steps: int
    batch: int
    rate: float
    step_rate: float
    warmup: float = 0.1
    loss: Loss = "kl"
    save_every: int = 25
    seed: int = 0

    def factor(self, step: int) -> float:
        """Return the share of the rates at a step from 0: linear up, then the half cosine down to 0."""
        rise = max(1, round(self.warmup * self.steps))
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, self.steps - rise)))


@dataclass
class History:
    """What happened: the loss of every step."""

    losses: list[float] = field(default_factory=list)


class Run:
    """Training of some matrices of a student.

    Args:
        student: the network whose matrices are trained.
        teacher: whose outputs are aimed at; None trains on the tokens.
        tensors: what is trained, by the name of the stored tensor.
        transposed: those of them that the checkpoint stores as [in, out].
        data: windows of text.
        settings: how it goes.
        checkpoint: file to keep the state in; None keeps none.
    """

    def __init__(
        self,
        student: Network,
        teacher: Network | None,
        tensors: Mapping[str, Trainable],
        transposed: frozenset[str],
        data: TokenSet,
        settings: Settings,
        checkpoint: Path | None = None,
    ) -> None:
        import torch

        self.student, self.teacher, self.tensors = student, teacher, dict(tensors)
        self.transposed, self.data, self.settings = transposed, data, settings
        self.checkpoint, self.step, self.history = checkpoint, 0, History()
        self._rates: list[float] = []
        self._names: dict[int, str] = {}
        groups: list[dict[str, Any]] = []
        for name, trainable in self.tensors.items():
            for group in trainable.groups():
                rate = settings.rate if group.kind == "weight" else settings.step_rate
                self._rates.append(rate * group.scale)
                self._names.update({id(value): f"{name}|{part}" for part, value in group.tensors.items()})
                groups.append({"params": list(group.tensors.values()), "lr": self._rates[-1]})
        # A discrete step changes codes by itself and leaves nothing to the optimizer.
        self.optimizer = torch.optim.Adam(groups, betas=(0.9, 0.95), eps=1e-12) if groups else None
        if checkpoint is not None and checkpoint.exists():
            self._restore(checkpoint)

    def train(self, progress: Progress = SILENT) -> History:
        """Take the remaining steps.

        Raises:
            UserError: if the loss stops being finite.
        """
        progress.start("training", self.settings.steps)
        progress.advance(self.step)
        while self.step < self.settings.steps:
            self.history.losses.append(self._one(Moment(self.step, self.settings.steps)))
            self.step += 1
            last = self.step == self.settings.steps
            if self.checkpoint is not None and (last or self.step % self.settings.save_every == 0):
                self._save(self.checkpoint)
            progress.advance(1)
        progress.finish()
        return self.history

    def weights(self) -> dict[str, Tensor]:
        """Return the matrices in training as the checkpoint orients them, differentiable."""
        found = {name: trainable.weight() for name, trainable in self.tensors.items()}
        return {name: value.T if name in self.transposed else value for name, value in found.items()}

    def loss(self, batch: Batch, weights: Mapping[str, Tensor]) -> Tensor:
        """Return the loss of a batch."""
        import torch

        from steelyard.edits.tune._network import divergence, surprise

        outputs = self.student.outputs(batch, weights)
        if self.teacher is None:
            return surprise(outputs, batch)
        with torch.no_grad():
            wanted = self.teacher.outputs(batch)
        return divergence(outputs, wanted, batch, self.student.task)

    def _one(self, moment: Moment) -> float:
        from torch.autograd import backward

        for trainable in self.tensors.values():
            trainable.begin(moment)
        loss = self.loss(batch_at(self.data, moment.step, self.settings), self.weights())
        value = float(loss.detach())
        if not math.isfinite(value):
            raise UserError(f"the loss is {value} at step {moment.step + 1}; lower the rates")
        backward(loss)
        for trainable in self.tensors.values():
            trainable.before_update(moment)
        if self.optimizer is not None:
            factor = self.settings.factor(moment.step)
            for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
                group["lr"] = rate * factor
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        for trainable in self.tensors.values():
            trainable.after_update(moment)
        return value

    def _save(self, path: Path) -> None:
        from safetensors.torch import save_file

        state: dict[str, Tensor] = {}
        for name, trainable in self.tensors.items():
            for group in trainable.groups():
                for part, value in group.tensors.items():
                    state[f"value|{name}|{part}"] = value.detach()
            state |= {f"state|{name}|{key}": value for key, value in trainable.state().items()}
        if self.optimizer is not None:
            for parameter, slots in self.optimizer.state.items():
                state |= {f"adam|{self._names[id(parameter)]}|{slot}": value for slot, value in slots.items()}
        about = {"run": json.dumps([self.step, asdict(self.settings), self.history.losses])}
        partial = path.with_name(path.name + ".partial")
        save_file({name: value.contiguous().clone() for name, value in state.items()}, partial, metadata=about)
        os.replace(partial, path)

    def _restore(self, path: Path) -> None:
        import torch
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file, torch.no_grad():
            self.step, settings, losses = json.loads(file.metadata()["run"])
            if settings != asdict(self.settings):
                raise UserError(f"{path} belongs to a run with other settings; remove it to begin anew")
            self.history = History(losses)
            names = set(file.keys())
            for name, trainable in self.tensors.items():
                for group in trainable.groups():
                    for part, value in group.tensors.items():
                        value.copy_(file.get_tensor(f"value|{name}|{part}"))
                        self._restore_adam(file, names, f"{name}|{part}", value)
                head = f"state|{name}|"
                trainable.load({n.removeprefix(head): file.get_tensor(n) for n in names if n.startswith(head)})

    def _restore_adam(self, file: Any, names: set[str], part: str, value: Tensor) -> None:
        assert self.optimizer is not None
        for slot in ("step", "exp_avg", "exp_avg_sq"):
            if f"adam|{part}|{slot}" in names:
                self.optimizer.state[value][slot] = file.get_tensor(f"adam|{part}|{slot}")


def batch_at(data: TokenSet, step: int, settings: Settings) -> Batch:
    """Return the windows of a step; each epoch permutes them anew, keyed by (seed, epoch).

    Args:
        data: all windows; where there are fewer than a batch wants, all of them are the batch.
        step: from 0.
        settings: of the run.
    """
    count = min(settings.batch, len(data.windows))
    epoch, place = divmod(step, len(data.windows) // count)
    order = generator(settings.seed, f"tune epoch {epoch}").permutation(len(data.windows))
    chosen: Sequence[int] = order[place * count : (place + 1) * count].tolist()
    windows = tuple(data.windows[number] for number in chosen)
    longest = max(len(window.inputs) for window in windows)
    return replace(data, windows=windows).batches(count * longest)[0]
