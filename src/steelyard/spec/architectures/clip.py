"""CLIP: an encoder of texts and one of images, projected into one space."""

from __future__ import annotations

from steelyard.spec.architecture import Architecture, label_count
from steelyard.spec.architectures import _clip
from steelyard.spec.compute import Attention
from steelyard.spec.rules import linear, parameter, rules

_BOTH = ("CLIPModel",)

ARCHITECTURE = Architecture(
    model_type="clip",
    base_class="CLIPModel",
    default_class="CLIPModel",
    prefix="",
    block=_clip.TEXT_BLOCK,
    stacks={"image_layer": _clip.image_block("image_")},
    defaults={
        "id2label": None,
        "projection_dim": 512,
        **{f"text_config.{key}": value for key, value in _clip.TEXT_DEFAULTS.items()},
        **{f"vision_config.{key}": value for key, value in _clip.IMAGE_DEFAULTS.items()},
    },
    sizes={
        **_clip.text_sizes("text_config."),
        **_clip.image_sizes("vision_config.", "image_"),
        "projection": "projection_dim",
        "label": label_count,
    },
    rules=rules(
        parameter("logit_scale", "head.scale", classes=_BOTH),
        _clip.text_rules(_BOTH),
        _clip.image_rules("image_"),
        linear("visual_projection", "projection.image", "projection", "image_hidden", classes=_BOTH),
        linear("text_projection", "projection.text", "projection", "hidden", classes=_BOTH),
        linear(
            "classifier",
            "classifier",
            "label",
            "image_hidden",
            bias=True,
            classes=("ForImageClassification",),
        ),
    ),
    attention=(Attention(), _clip.image_attention("image_")),
    streams=(*_clip.IMAGE_STREAMS, ("visual_projection.", "image")),
    positions=_clip.image_positions("vision_config."),
    once=("projection.image", "projection.text"),
)
