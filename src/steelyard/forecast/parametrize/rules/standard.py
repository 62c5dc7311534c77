"""The standard parametrization of transformers: every width is treated alike."""

from __future__ import annotations

from steelyard.forecast.parametrize.rule import Rule

RULE = Rule(
    name="standard",
    summary="what transformers does: one deviation and one learning rate for all widths",
    paper="Yang et al. 2022, arXiv:2203.03466 (its SP; deviation as transformers has it, free of the width)",
    needs_base=False,
    covers_depth=True,
)
