from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from steelyard.errors import UserError
from steelyard.measure.activations import ActivationStore
from steelyard.measure.model import Model, Overlay, open_model
from steelyard.measure.runner import BlockRunner
from steelyard.measure.windows import Batch
from steelyard.weights import Checkpoint

from .models import KINDS, VOCABULARY


def opened(folder: Path) -> Model:
    return open_model(folder, Checkpoint.open(folder))


def ragged_batches() -> list[Batch]:
    draw = np.random.default_rng(3)
    batches = []
    for lengths in ([20, 20, 20], [19, 12, 5]):
        inputs = np.zeros((3, lengths[0]), dtype=np.int64)
        for row, length in enumerate(lengths):
            inputs[row, :length] = draw.integers(0, VOCABULARY, length)
        batches.append(Batch(np.arange(3), inputs, inputs.copy(), np.array(lengths)))
    return batches


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("limit", [1 << 30, 0])
def test_agrees_with_transformers(kind: str, limit: int, tiny: Callable[..., Path]) -> None:
    import torch
    import transformers

    folder = tiny(kind)
    batches = ragged_batches()
    reference = getattr(transformers, KINDS[kind][0]).from_pretrained(folder).eval()
    runner = BlockRunner(opened(folder))
    with ActivationStore(limit) as store, torch.no_grad():
        runner.forward(batches, store)
        with runner.tail():
            for number, batch in enumerate(batches):
                output = runner.run_tail(batch, store.get(number))
                mask = torch.from_numpy(batch.valid.astype("int64"))
                expected = reference(input_ids=torch.from_numpy(batch.inputs), attention_mask=mask)
                ours, theirs = (
                    (o.last_hidden_state if kind == "bert" else o.logits)[torch.from_numpy(batch.valid)]
                    for o in (output, expected)
                )
                assert theirs.std() > 0.1
                torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
def test_names_without_the_base_prefix(kind: str, tiny: Callable[..., Path], tmp_path: Path) -> None:
    """Published checkpoints differ in whether names begin with `transformer.`, `bert.`, `model.`."""
    import shutil

    from safetensors.numpy import load_file, save_file

    folder = tmp_path / "model"
    shutil.copytree(tiny(kind), folder)
    prefix = {"llama": "model.", "gpt2": "transformer.", "bert": "bert."}[kind]
    tensors = load_file(folder / "model.safetensors")
    renamed = {n.removeprefix(prefix) if n.startswith(prefix) else f"{prefix}{n}": t for n, t in tensors.items()}
    if kind == "llama":
        renamed["lm_head.weight"] = renamed.pop("model.lm_head.weight")
    assert set(renamed) != set(tensors)
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    first, second = (final_hidden(opened(f)) for f in (folder, tiny(kind)))
    assert np.array_equal(first, second)


def test_a_stored_head_that_differs_is_not_tied(tiny: Callable[..., Path]) -> None:
    """As transformers does: the config's tie holds only where the files do not contradict it."""
    model = opened(tiny("llama-tied"))
    assert BlockRunner(model).skeleton.stored["lm_head.weight"] == "model.embed_tokens.weight"
    head = model.source.tensor("model.embed_tokens.weight") * 2

    class WithHead(Overlay):
        @property
        def names(self) -> list[str]:
            return [*self.base.names, "lm_head.weight"]

    changed = model.with_source(WithHead(model.source, {"lm_head.weight": head}))
    assert BlockRunner(changed).skeleton.stored["lm_head.weight"] == "lm_head.weight"
    same = model.with_source(WithHead(model.source, {"lm_head.weight": head / 2}))
    assert BlockRunner(same).skeleton.stored["lm_head.weight"] == "model.embed_tokens.weight"


def test_weights_are_held_one_block_at_a_time(tiny: Callable[..., Path]) -> None:
    model = opened(tiny("llama"))
    runner = BlockRunner(model)

    def on_meta() -> set[bool]:
        return {p.device.type == "meta" for p in runner.skeleton.module.parameters()}

    assert on_meta() == {True}
    with runner.block(1) as block:
        assert {p.device.type for p in block.parameters()} == {"cpu"}
        others = [p for b in runner.skeleton.blocks if b is not block for p in b.parameters()]
        assert {p.device.type for p in others} == {"meta"}
    final_hidden(model, runner)
    assert on_meta() == {True}


def test_missing_and_misshapen_tensors_are_named(tiny: Callable[..., Path]) -> None:
    model = opened(tiny("llama"))
    name = "model.layers.1.mlp.up_proj.weight"

    class Without(Overlay):
        @property
        def names(self) -> list[str]:
            return [n for n in self.base.names if n != name]

    with pytest.raises(UserError, match=r"layers\.1\.mlp\.up_proj"):
        BlockRunner(model.with_source(Without(model.source, {})))
    wrong = Overlay(model.source, {name: np.zeros((3, 32), np.float32)})
    with pytest.raises(UserError, match=r"up_proj\.weight has shape \[3, 32\].*\[48, 32\]"):
        final_hidden(model.with_source(wrong))


def test_unknown_model_type_is_refused(tiny: Callable[..., Path]) -> None:
    model = opened(tiny("llama"))

    class Odd(Overlay):
        @property
        def config(self) -> dict[str, object]:
            return {**self.base.config, "model_type": "no-such-model"}

    with pytest.raises(UserError, match="no-such-model"):
        BlockRunner(model.with_source(Odd(model.source, {})))


def final_hidden(model: Model, runner: BlockRunner | None = None) -> np.ndarray:
    batches = ragged_batches()
    with ActivationStore() as store:
        (runner or BlockRunner(model)).forward(batches, store)
        return np.concatenate([store.get(i).numpy().ravel() for i in range(len(batches))])


def test_store_spills_and_replaces() -> None:
    import torch

    with ActivationStore(limit=100) as store:
        tensors = [torch.randn(4, 5) for _ in range(6)]
        for number, tensor in enumerate(tensors):
            store.put(number, tensor)
        store.put(0, tensors[5] + 1)
        store.put(3, tensors[3] * 2)
        store.put(4, torch.arange(3.0))
        store.drop(1)
        torch.testing.assert_close(store.get(0), tensors[5] + 1)
        torch.testing.assert_close(store.get(2), tensors[2])
        torch.testing.assert_close(store.get(3), tensors[3] * 2)
        torch.testing.assert_close(store.get(4), torch.arange(3.0))
        torch.testing.assert_close(store.get(5), tensors[5])
