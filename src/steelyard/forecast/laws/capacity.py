"""What fits into a model: facts by its size, and how fast models grow denser."""

from __future__ import annotations

from typing import Any

import numpy as np

from steelyard.forecast.law import Array, Published, exponent, law, scale

_FACTS = "arXiv:2404.05405, summary of results"


@law(
    name="knowledge-capacity",
    formula="rate N",
    paper="Allen-Zhu and Li 2024, arXiv:2404.05405: bits of facts that can be asked for again",
    columns={"N": "log"},
    parameters=(scale("rate", (-1.0, "N"), low=16.0, high=24.0),),
    published=(
        Published(
            "each fact seen 1000 times, also as int8",
            {"rate": 2.0},
            _FACTS,
            loss_unit="bits",
            note="for every architecture",
        ),
        Published(
            "each fact seen 100 times",
            {"rate": 1.0},
            _FACTS,
            loss_unit="bits",
            note="GPT-2; 1.3 times less with gated feed-forward layers",
        ),
        Published("each fact seen 1000 times, int4 by GPTQ", {"rate": 0.7}, _FACTS, loss_unit="bits"),
    ),
    target="knowledge",
)
def knowledge_capacity(p: Any, x: Any) -> tuple[Array, tuple[Array, ...]]:
    """Bits of knowledge that a model holds at most."""
    bits = np.exp(p.rate + x.N)
    return bits, (bits,)


@law(
    name="densing",
    formula="exp(A months + B)",
    paper="Xiao et al. 2024, arXiv:2412.04315: of the densest model of its time; a trend, not a rule of design",
    columns={"months": "raw"},
    parameters=(exponent("A", 0.0, 0.5), exponent("B", -4.0, 2.0)),
    target="density",
)
def densing(p: Any, x: Any) -> tuple[Array, tuple[Array, ...]]:
    """Size of the reference model that does as well, over the model's own; it doubles every ln(2)/A months."""
    density = np.exp(p.A * x.months + p.B)
    return density, (density * x.months, density)
