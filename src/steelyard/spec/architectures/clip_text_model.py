"""CLIP's encoder of texts on its own, as in models that draw."""

from __future__ import annotations

from steelyard.spec.architecture import Architecture
from steelyard.spec.architectures import _clip
from steelyard.spec.compute import Attention
from steelyard.spec.rules import linear, rules

ARCHITECTURE = Architecture(
    model_type="clip_text_model",
    base_class="CLIPTextModel",
    default_class="CLIPTextModel",
    prefix="text_model.",
    block=_clip.TEXT_BLOCK,
    defaults={**_clip.TEXT_DEFAULTS, "projection_dim": 512},
    sizes={**_clip.text_sizes(), "projection": "projection_dim"},
    rules=rules(
        _clip.text_rules(),
        linear("text_projection", "projection.text", "projection", "hidden", classes=("WithProjection",)),
    ),
    attention=(Attention(),),
    once=("projection.text",),
)
