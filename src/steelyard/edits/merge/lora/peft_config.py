"""`adapter_config.json` of an extracted adapter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from steelyard.edits.merge.inputs import InputModel
from steelyard.edits.merge.lora.differences import Change, Changes, peft_name

_TASKS = {"causal": "CAUSAL_LM"}


def adapter_config(base: InputModel, changes: Changes, ranks: Mapping[str, int], rank: int) -> dict[str, Any]:
    """Return the configuration with which peft loads the adapter; every product counts once, alpha being the rank.

    Args:
        base: the model it is for.
        changes: what it holds.
        ranks: rank of every product, by the tensor's name.
        rank: the greatest one asked for.
    """
    by_module = {change.module: ranks[name] for name, change in changes.products.items()}
    usual = Counter(by_module.values()).most_common(1)[0][0] if by_module else rank
    others = {module: found for module, found in by_module.items() if found != usual}
    return {
        "peft_type": "LORA",
        "task_type": _TASKS.get(base.spec.task),
        "base_model_name_or_path": base.label,
        "r": usual,
        "lora_alpha": usual,
        "rank_pattern": others,
        "alpha_pattern": others,
        "lora_dropout": 0.0,
        "bias": "all" if changes.bias else "none",
        "use_rslora": False,
        "use_dora": False,
        "fan_in_fan_out": any(change.form == "transposed" for change in changes.products.values()),
        "target_modules": _targets(base, changes.products),
        "modules_to_save": list(changes.modules_to_save) or None,
        "ensure_weight_tying": changes.tied,
        "init_lora_weights": True,
        "inference_mode": True,
    }


def _targets(base: InputModel, products: Mapping[str, Change]) -> list[str]:
    """Return the last parts of the modules' names if they name no other module, else the whole names."""
    modules = {change.module for change in products.values()}
    last = {module.rpartition(".")[2] for module in modules}
    named = {peft_name(base, tensor.module) for tensor in base.spec.tensors.values() if len(tensor.shape) == 2}
    others = [module for module in named - modules if module.rpartition(".")[2] in last]
    return sorted(modules if others else last)
