"""Training of the reference model: small, real, resumable, deterministic.

A Llama of about 6.5 million parameters, a warm-up / stable / decay schedule (Hägele et al. 2024, 2405.18392:
the decay may begin from any checkpoint of the stable phase), Muon on the matrices of the blocks and AdamW on the
rest, float32 throughout. The order of the data depends on (seed, epoch) alone, and a checkpoint holds everything
the next step depends on, so a run that was interrupted ends in the same bytes as one that was not.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.errors import UserError
from steelyard.reference import corpus
from steelyard.reference.options import TrainOptions
from steelyard.reference.tokenizer import encode_stream, save_tokenizer, train_tokenizer
from steelyard.seeds import generator

_CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class Step:
    """One step's report: its number, the mean loss in nats per token, and the tokens seen so far."""

    number: int
    loss: float
    tokens: int
    seconds: float


def rate_factor(step: int, options: TrainOptions) -> float:
    """Return the learning rate of `step` (from 0) as a share of the peak: linear up, flat, then 1 - sqrt down."""
    if step < options.warmup_steps:
        return (step + 1) / options.warmup_steps
    into_decay = step - (options.steps - options.decay_steps)
    if options.decay_steps and into_decay >= 0:
        return 1 - math.sqrt((into_decay + 1) / (options.decay_steps + 1))
    return 1.0


def batch_at(stream: np.ndarray, step: int, options: TrainOptions) -> np.ndarray:
    """Return the token windows [batch, sequence + 1] of a step.

    Each epoch cuts the stream at an offset of its own and permutes the windows, keyed by (seed, epoch).
    """
    usable = len(stream) - options.sequence - 1
    windows = usable // options.sequence
    if windows < options.batch:
        raise UserError(f"the corpus has {len(stream)} tokens, too few for a batch of {options.batch}")
    per_epoch = windows // options.batch
    epoch, place = divmod(step, per_epoch)
    draw = generator(options.seed, f"epoch {epoch}")
    offset = int(draw.integers(0, options.sequence))
    order = draw.permutation(windows)[place * options.batch : (place + 1) * options.batch]
    starts = offset + order * options.sequence
    return np.stack([stream[start : start + options.sequence + 1] for start in starts]).astype(np.int64)


def build_model(options: TrainOptions) -> Any:
    """Return the untrained model: weights drawn by name from the seed, output projections scaled by depth."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=options.vocabulary,
        hidden_size=options.hidden,
        intermediate_size=options.ffn,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        num_key_value_heads=options.kv_heads,
        max_position_embeddings=options.context,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        rms_norm_eps=1e-5,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() < 2:
                parameter.fill_(1.0)
                continue
            scale = 0.02
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                scale /= math.sqrt(2 * options.layers)
            draw = generator(options.seed, name).standard_normal(tuple(parameter.shape)).astype(np.float32)
            parameter.copy_(torch.from_numpy(draw * scale))
    return model


class Run:
    """A training run in its folder: `tokenizer.json`, `tokens.npy`, the last checkpoint and `log.jsonl`."""

    def __init__(self, folder: Path, options: TrainOptions, resume: bool = False) -> None:
        import torch

        self.folder, self.options = folder, options
        if folder.exists() and any(folder.iterdir()) and not resume:
            raise UserError(f"{folder} exists; choose another folder or continue it with --resume")
        # Denormal floats in trained weights cost almost half the speed; this must precede torch's threads.
        torch.set_flush_denormal(True)
        torch.set_num_threads(options.threads or len(os.sched_getaffinity(0)))
        folder.mkdir(parents=True, exist_ok=True)
        self.stream = self._tokens()
        self.model = build_model(options)
        self.step = 0
        matrices, others = [], []
        for name, parameter in self.model.named_parameters():
            (matrices if parameter.dim() == 2 and ".layers." in name else others).append(parameter)
        from steelyard.reference.muon import Muon

        self.optimizers: list[Any] = [
            Muon(matrices, options.matrix_rate, momentum=0.95, weight_decay=options.weight_decay),
            torch.optim.AdamW(others, lr=options.other_rate, betas=(0.9, 0.95), eps=1e-10, weight_decay=0.0),
        ]
        if resume and (folder / _CHECKPOINT).exists():
            self._restore()

    def train(self, report: Callable[[Step], None] = lambda step: None) -> None:
        """Run the remaining steps, saving a checkpoint every so often and at the end."""
        import torch

        loss_of = self._loss_function()
        peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]
        while self.step < self.options.steps:
            began = time.monotonic()
            batch = torch.from_numpy(batch_at(self.stream, self.step, self.options))
            loss = loss_of(batch[:, :-1], batch[:, 1:])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            factor = rate_factor(self.step, self.options)
            for optimizer, rates in zip(self.optimizers, peaks, strict=True):
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * factor
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            self.step += 1
            value = float(loss.detach())
            if not math.isfinite(value):
                raise UserError(f"the loss is {value} at step {self.step}; lower the learning rates")
            tokens = self.step * self.options.batch * self.options.sequence
            done = Step(self.step, value, tokens, time.monotonic() - began)
            report(done)
            if self.step % self.options.save_every == 0 or self.step == self.options.steps:
                self._save(done)

    def _loss_function(self) -> Callable[[Any, Any], Any]:
        import torch

        def loss_of(inputs: Any, targets: Any) -> Any:
            logits = self.model(input_ids=inputs, use_cache=False).logits
            return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

        if not (self.options.compile and _has_compiler()):
            return loss_of
        compiled: Callable[[Any, Any], Any] = torch.compile(loss_of)
        return compiled

    def _tokens(self) -> np.ndarray:
        path = self.folder / "tokens.npy"
        if not path.exists():
            texts = [file.text for file in corpus.files("train")]
            tokenizer = train_tokenizer(texts, self.options.vocabulary)
            save_tokenizer(tokenizer, self.folder, self.options.context)
            with open(path.with_suffix(".partial"), "wb") as file:
                np.save(file, encode_stream(tokenizer, texts))
            os.replace(path.with_suffix(".partial"), path)
        return np.asarray(np.load(path))

    def _state(self) -> dict[str, Any]:
        """Every tensor the next step depends on, by name."""
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        state = {f"model.{name}": p.detach() for name, p in self.model.named_parameters()}
        for optimizer in self.optimizers:
            for parameter, slots in optimizer.state.items():
                for slot, value in slots.items():
                    state[f"optimizer.{slot}.{names[id(parameter)]}"] = value
        return state

    def _save(self, done: Step) -> None:
        from safetensors.torch import save_file

        meta = {"step": str(self.step), "identity": json.dumps(self.options.identity(), sort_keys=True)}
        partial = self.folder / (_CHECKPOINT + ".partial")
        save_file({k: v.contiguous() for k, v in self._state().items()}, partial, metadata=meta)
        os.replace(partial, self.folder / _CHECKPOINT)
        with open(self.folder / "log.jsonl", "a") as log:
            log.write(json.dumps({"step": done.number, "loss": round(done.loss, 4), "tokens": done.tokens}) + "\n")

    def _restore(self) -> None:
        import torch
        from safetensors import safe_open

        with safe_open(self.folder / _CHECKPOINT, framework="pt") as saved:
            meta = saved.metadata()
            tensors = {name: saved.get_tensor(name) for name in saved.keys()}  # noqa: SIM118
        if json.loads(meta["identity"]) != json.loads(json.dumps(self.options.identity())):
            raise UserError(f"{self.folder} was trained with other options; use the same ones or another folder")
        self.step = int(meta["step"])
        parameters = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(tensors[f"model.{name}"])
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    name = next(n for n, p in parameters.items() if p is parameter)
                    for slot in ("momentum", "exp_avg", "exp_avg_sq", "step"):
                        if (key := f"optimizer.{slot}.{name}") in tensors:
                            optimizer.state[parameter][slot] = tensors[key]


def export(run_folder: Path, out: Path, options: TrainOptions) -> None:
    """Write the last checkpoint of a run as a Hugging Face folder in bfloat16."""
    import shutil

    import torch
    from safetensors import safe_open

    model = build_model(options)
    with safe_open(run_folder / _CHECKPOINT, framework="pt") as saved, torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(saved.get_tensor(f"model.{name}"))
    model.to(torch.bfloat16).save_pretrained(out)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(run_folder / name, out / name)


def _has_compiler() -> bool:
    import shutil

    return any(shutil.which(name) for name in ("c++", "g++", "clang++"))
