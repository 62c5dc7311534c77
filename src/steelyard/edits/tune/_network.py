"""A transformers model some of whose matrices are given from outside at every call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from steelyard.measure.model import Model
from steelyard.measure.skeleton import Skeleton
from steelyard.measure.windows import IGNORED, Batch, Task


class Network:
    """A model with all its weights in memory, in float32.

    Args:
        model: the model.
        given: names of stored tensors that every call brings along, and that are not loaded.
    """

    def __init__(self, model: Model, given: frozenset[str] = frozenset()) -> None:
        self.task: Task = model.task
        self.skeleton = Skeleton(model)
        self.given = {name: tensor for name, tensor in self.skeleton.stored.items() if tensor in given}
        if missing := sorted(given - set(self.given.values())):
            raise ValueError(f"{model.location} has no parameter for {missing[0]}")
        self._loaded = self.skeleton.loaded(
            model.source, [name for name in self.skeleton.stored if name not in self.given]
        )
        self._loaded.__enter__()

    def outputs(self, batch: Batch, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return logits [b, t, vocabulary], or an encoder's last hidden states [b, t, width].

        Args:
            batch: of windows.
            weights: the matrices that are given, by the names of the stored tensors.
        """
        values = {name: (weights or {})[tensor] for name, tensor in self.given.items()}
        arguments: dict[str, Any] = {"input_ids": torch.from_numpy(batch.inputs)}
        if self.task != "causal":
            arguments["attention_mask"] = torch.from_numpy(batch.valid.astype(np.int64))
        made = functional_call(self.skeleton.module, values, (), arguments, tie_weights=False)
        found: Tensor = made.last_hidden_state if self.task == "encoder" else made.logits
        return found


def divergence(outputs: Tensor, wanted: Tensor, batch: Batch, task: Task) -> Tensor:
    """Return how far a student is from its teacher.

    Args:
        outputs: of the student, from `Network.outputs`.
        wanted: of the teacher.
        batch: of both.
        task: of both.

    Returns:
        The mean over the scored tokens of KL(teacher || student) in nats; for an encoder the squared distance of
        the hidden states over the teacher's squared length.
    """
    if task == "encoder":
        valid = torch.from_numpy(batch.valid)
        return (outputs[valid] - wanted[valid]).square().sum() / wanted[valid].square().sum()
    scored = torch.from_numpy(batch.labels != IGNORED)
    log_student, log_teacher = (found[scored].float().log_softmax(-1) for found in (outputs, wanted))
    return torch.nn.functional.kl_div(log_student, log_teacher, log_target=True, reduction="batchmean")


def surprise(outputs: Tensor, batch: Batch) -> Tensor:
    """Return the mean cross-entropy of the scored tokens in nats."""
    labels = torch.from_numpy(batch.labels)
    return torch.nn.functional.cross_entropy(outputs.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED)
