"""CLIP's encoder of images on its own, as in models that see and write."""

from __future__ import annotations

from steelyard.spec.architecture import Architecture
from steelyard.spec.architectures import _clip
from steelyard.spec.rules import linear, rules

ARCHITECTURE = Architecture(
    model_type="clip_vision_model",
    base_class="CLIPVisionModel",
    default_class="CLIPVisionModel",
    prefix="vision_model.",
    block=_clip.image_block(),
    defaults={**_clip.IMAGE_DEFAULTS, "projection_dim": 512},
    sizes={**_clip.image_sizes(), "projection": "projection_dim"},
    rules=rules(
        _clip.image_rules(),
        linear("visual_projection", "projection.image", "projection", "hidden", classes=("WithProjection",)),
    ),
    attention=(_clip.image_attention(),),
    streams=(*_clip.IMAGE_STREAMS, ("visual_projection.", "image")),
    positions=_clip.image_positions(),
    once=("projection.image",),
)
