"""aTLAS: how much of every task vector each tensor takes, learned from a little text.

The coefficients are all that is learned. They come out as a recipe of task arithmetic with one weight for each
tensor and expert, so that the result is written like any other merge.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from steelyard.edits.merge.inputs import InputModel
from steelyard.edits.merge.tensors import Computed, Models
from steelyard.errors import UserError

if TYPE_CHECKING:
    import torch

    from steelyard.measure.model import Model
    from steelyard.measure.windows import Batch, TokenSet

_BASE = "base model"


class AtlasOptions(BaseModel):
    """How coefficients are learned."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    objective: Literal["supervised", "entropy"] = Field(
        "supervised", description="predict the text, or only be sure of what is predicted"
    )
    each: Literal["tensor", "model"] = Field("tensor", description="what has a coefficient of its own")
    steps: int = Field(60, ge=1, description="optimizer steps")
    rate: float = Field(0.05, gt=0, description="learning rate at the start; it falls as a cosine")
    weight_decay: float = Field(0.0, ge=0, description="weight decay of the coefficients")
    start: float = Field(0.0, allow_inf_nan=False, description="every coefficient's first value")
    only: tuple[str, ...] = Field(
        (), description="parts of the names of tensors that change; all if there are none"
    )
    batch_tokens: int = Field(1024, ge=8, description="tokens of each task in a step")


@dataclass(frozen=True)
class Coefficients:
    """What was learned.

    Attributes:
        base: location of the base.
        values: by expert's location and tensor, its coefficient; tensors not named keep the base's weights.
        losses: of every step, the mean over tasks of the objective in nats per token.
    """

    base: str
    values: Mapping[str, Mapping[str, float]]
    losses: Sequence[float]

    @property
    def count(self) -> int:
        """How many coefficients there are."""
        return sum(len(each) for each in self.values.values())

    def recipe(self, dtype: str | None = None) -> dict[str, Any]:
        """Return the learned merge as a recipe for `steelyard merge`, as plain data."""
        models = []
        for expert, values in self.values.items():
            conditions: list[dict[str, Any]] = [{"filter": name, "value": value} for name, value in values.items()]
            conditions.append({"value": 0.0})
            models.append({"model": expert, "parameters": {"weight": conditions}})
        recipe: dict[str, Any] = {
            "merge_method": "task_arithmetic",
            "base_model": self.base,
            "models": models,
            "parameters": {"normalize": False},
        }
        return recipe if dtype is None else {**recipe, "dtype": dtype}


def learn(
    base: InputModel,
    experts: Mapping[str, InputModel],
    model: Model,
    data: Mapping[str, TokenSet],
    options: AtlasOptions | None = None,
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> Coefficients:
    """Learn the coefficients; the models themselves stay as they are.

    Base and task vectors are held in float32, so memory is that of as many models plus one.

    Args:
        base: what the experts were fine-tuned from.
        experts: by location.
        model: the base as `measure.model.open_model` opens it.
        data: by task, windows of text from `windows.cut`.
        options: of the learning.
        report: told the number and the loss of every step.

    Raises:
        UserError: for experts that do not fit the base, an encoder, or a loss that stops being finite.

    Source: Zhang et al. 2024, arXiv 2407.02880: the base plus the sum over tasks of Lambda_t tau_t, where Lambda_t
    is constant within a block and every tensor is a block, as in the authors' code. The entropy of the predictions
    needs no labels.
    """
    import torch

    from steelyard.measure.skeleton import Skeleton

    options = options or AtlasOptions()
    if model.task == "encoder":
        raise UserError(f"{model.location} is an encoder and predicts nothing; coefficients cannot be learned")
    bank = _Bank(Models({_BASE: base, **experts}), options)
    skeleton = Skeleton(model)
    optimizer = torch.optim.AdamW([bank.learned], lr=options.rate, weight_decay=options.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps)
    batches = {task: found.batches(options.batch_tokens) for task, found in data.items()}
    losses: list[float] = []
    for step in range(options.steps):
        weights = bank.weights()
        parameters = {name: weights[stored] for name, stored in skeleton.stored.items()}
        each = [
            _loss(skeleton.module, parameters, found[step % len(found)], options.objective, model.task)
            for found in batches.values()
        ]
        loss = sum(each[1:], each[0]) / len(each)
        torch.autograd.backward(loss)
        losses.append(float(loss.detach()))
        if not np.isfinite(losses[-1]):
            raise UserError(f"the loss is {losses[-1]} at step {step + 1}; lower --rate")
        torch.nn.utils.clip_grad_norm_([bank.learned], 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        report(step + 1, losses[-1])
    return Coefficients(base.label, bank.values(), losses)


def combined(base: InputModel, experts: Mapping[str, InputModel], found: Coefficients) -> Computed:
    """Return the weights that coefficients make, float32, to be measured."""
    models = Models({_BASE: base, **experts})

    def compute(name: str) -> np.ndarray:
        result = models.whole(_BASE, name).astype(np.float32)
        vectors = {expert: values[name] for expert, values in found.values.items() if name in values}
        original = result.copy()
        for expert, value in vectors.items():
            result += np.float32(value) * (models.whole(expert, name).astype(np.float32) - original)
        return result

    return Computed(models, compute)


class _Bank:
    """Base, task vectors and their coefficients [experts, tensors or 1]."""

    def __init__(self, models: Models, options: AtlasOptions) -> None:
        import torch

        self._experts = models.labels[1:]
        floats = [name for name in models.names if models.is_float(name)]
        self._changed = [name for name in floats if not options.only or any(part in name for part in options.only)]
        if not self._changed:
            raise UserError(f"no tensor's name holds any of {', '.join(options.only)}; nothing would change")
        self._base = {name: _tensor(models.whole(_BASE, name)) for name in models.names}
        self._vectors = {
            name: [_tensor(models.whole(expert, name)) - self._base[name] for expert in self._experts]
            for name in self._changed
        }
        self._shared = options.each == "model"
        columns = 1 if self._shared else len(self._changed)
        start = torch.full((len(self._experts), columns), options.start)
        self.learned = torch.nn.Parameter(start)

    def weights(self) -> dict[str, torch.Tensor]:
        made = dict(self._base)
        for place, name in enumerate(self._changed):
            for row, vector in enumerate(self._vectors[name]):
                made[name] = made[name] + self.learned[row, 0 if self._shared else place] * vector
        return made

    def values(self) -> dict[str, dict[str, float]]:
        table = self.learned.detach().numpy()
        return {
            expert: {name: float(table[row, 0 if self._shared else i]) for i, name in enumerate(self._changed)}
            for row, expert in enumerate(self._experts)
        }


def _loss(
    module: Any, parameters: Mapping[str, torch.Tensor], batch: Batch, objective: str, task: str
) -> torch.Tensor:
    import torch

    arguments: dict[str, Any] = {"input_ids": torch.from_numpy(batch.inputs)}
    if task == "masked":
        arguments["attention_mask"] = torch.from_numpy(batch.valid.astype(np.int64))
    else:
        arguments["use_cache"] = False
    logits = torch.func.functional_call(module, dict(parameters), (), arguments).logits
    scored = torch.from_numpy(batch.labels >= 0)
    taken = logits[scored].float()
    if objective == "supervised":
        return torch.nn.functional.cross_entropy(taken, torch.from_numpy(batch.labels)[scored])
    spread = taken.log_softmax(-1)
    entropy: torch.Tensor = -(spread.exp() * spread).sum(-1).mean()
    return entropy


def _tensor(array: np.ndarray) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.array(array, np.float32))
