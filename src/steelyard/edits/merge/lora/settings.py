"""What an adapter's `adapter_config.json` says, as far as it changes the weights of the model."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from steelyard.errors import UserError

CONFIG_FILE = "adapter_config.json"

# Settings under which the weights are no product B·A in the places that the names of the tensors say.
_UNSUPPORTED = {
    "target_parameters": "adapters of fused parameters",
    "layer_replication": "replicated layers",
    "trainable_token_indices": "single trained tokens",
    "alora_invocation_tokens": "activated LoRA, which depends on the text",
    "use_qalora": "QA-LoRA, whose inputs are pooled",
    "use_bdlora": "block-diagonal LoRA",
    "arrow_config": "Arrow routing, which depends on the text",
    "lora_ga_config": "",
    "corda_config": "",
    "eva_config": "",
}


class AdapterSettings(BaseModel):
    """The settings of a LoRA adapter that merging needs; others are left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    peft_type: str
    r: int = Field(8, ge=1)
    lora_alpha: float = Field(8, allow_inf_nan=False)
    use_rslora: bool = False
    use_dora: bool = False
    fan_in_fan_out: bool = False
    bias: str = "none"
    ensure_weight_tying: bool = False
    rank_pattern: dict[str, int] = Field(default_factory=dict)
    alpha_pattern: dict[str, float] = Field(default_factory=dict)
    base_model_name_or_path: str | None = None
    revision: str | None = None

    @classmethod
    def read(cls, data: bytes, where: str) -> AdapterSettings:
        """Return the settings of a file.

        Args:
            data: its content.
            where: its name, for messages.

        Raises:
            UserError: if it is damaged, or describes an adapter that is not a sum of low-rank products.
        """
        try:
            values = json.loads(data)
        except ValueError:
            raise UserError(f"{where} is not valid JSON; download it again") from None
        if not isinstance(values, Mapping):
            raise UserError(f"{where} is not a JSON object; download it again")
        kind = str(values.get("peft_type", "")).upper()
        if kind != "LORA":
            raise UserError(
                f"{where}: peft_type {values.get('peft_type')!r} cannot be merged here, LORA can; "
                "merge it with peft's merge_and_unload first"
            )
        for setting, reason in _UNSUPPORTED.items():
            if reason and values.get(setting):
                raise UserError(f"{where}: {setting} ({reason}) cannot be merged here; merge it with peft first")
        filled = {name: value for name, value in values.items() if value is not None}
        try:
            return cls.model_validate({**filled, "peft_type": kind})
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            raise UserError(f"{where}: {name}: {first['msg']} (got {first.get('input')!r})") from None

    def rank_of(self, module: str) -> int:
        """Return the rank that the settings give a module."""
        return int(_matched(self.rank_pattern, module, self.r))

    def scale_of(self, module: str) -> float:
        """Return what the product B·A of a module is multiplied by.

        Source: alpha/r, Hu et al. 2021, arXiv 2106.09685, section 4.1; alpha/√r with `use_rslora`, Kalajdzievski
        2023, arXiv 2312.03732, definition 1.
        """
        rank = self.rank_of(module)
        alpha = float(_matched(self.alpha_pattern, module, self.lora_alpha))
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank


def _matched(pattern: Mapping[str, Any], module: str, default: Any) -> Any:
    """Return the value of the first key that is the module's name or, as a regular expression, ends it."""
    for key, value in pattern.items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default
