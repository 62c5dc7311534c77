"""What each step of rounding costs and brings: python benchmarks/rounding.py [--blocks 8] [--workers 2]

Layers of a small language model: in each block four matrices of 256 x 256, two of 768 x 256 and one of 256 x 768,
with inputs of a few strong directions and uneven power. Prints wall and processor seconds for the whole model and
the error of the outputs relative to their power (geometric mean over matrices), on the inputs the rounding saw and
on fresh ones. Last, the time of pricing a menu of candidates for every matrix. The work is made from a seed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from steelyard.codecs import IntegerCodec
from steelyard.edits.quantize._rounded import Rounded
from steelyard.edits.quantize.error import error
from steelyard.edits.quantize.gptq import GptqOptions, gptq
from steelyard.edits.quantize.rtn import RtnOptions, round_to_nearest
from steelyard.edits.quantize.statistics import Statistics
from steelyard.parallel import map_threads
from steelyard.seeds import generator

BLOCK = {"qkv": (3, 256, 256), "o": (1, 256, 256), "gate_up": (2, 768, 256), "down": (1, 256, 768)}
TOKENS = 8192

CODECS = [
    IntegerCodec(4, 64, True),
    IntegerCodec(4, 64, False),
    IntegerCodec(3, 64, True),
    IntegerCodec(3, 64, False),
    IntegerCodec(2, 32, True),
    IntegerCodec(2, 32, False),
    IntegerCodec(4, None, True),
]
MENU = [
    *(
        IntegerCodec(bits, group, symmetric)
        for bits in (2, 3, 4)
        for group in (32, 64)
        for symmetric in (True, False)
    ),
    *(IntegerCodec(bits, 128, True) for bits in (3, 4, 5, 6, 8)),
    *(IntegerCodec(bits, None, True) for bits in (4, 6, 8)),
]

Round = Callable[[np.ndarray, IntegerCodec, Statistics], Rounded]


@dataclass(frozen=True)
class Layer:
    """One matrix, what is known about its inputs, and the second moment of fresh inputs."""

    weight: np.ndarray
    statistics: Statistics
    seen: np.ndarray
    fresh: np.ndarray


def inputs(name: str, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Return two second moments [in, in] of independent samples of one distribution."""
    draw = generator(0, name)
    # Eigenvalues fall as a power law, and a few coordinates are far stronger than the rest, as in real models.
    mixing = draw.normal(size=(columns, columns)) * np.arange(1, columns + 1) ** -0.6
    mixing *= draw.lognormal(0, 0.6, size=columns)[:, None]
    moments = []
    for _ in range(2):
        sample = draw.normal(size=(TOKENS, columns)) @ mixing.T
        moments.append(sample.T @ sample / TOKENS)
    return moments[0], moments[1]


def layers(blocks: int) -> list[Layer]:
    """Return the matrices of a model; those that read one input share its statistics."""
    found = []
    for block in range(blocks):
        for kind, (count, out, columns) in BLOCK.items():
            seen, fresh = inputs(f"{block}.{kind}", columns)
            statistics = Statistics(seen)
            for k in range(count):
                weight = generator(0, f"{block}.{kind}.{k}").standard_t(6, size=(out, columns)) * 0.04
                found.append(Layer(weight.astype(np.float32), statistics, seen, fresh))
    return found


def variants() -> dict[str, Round]:
    """Return the roundings compared, each adding one step to the one before."""
    return {
        "nearest, scales from extremes": lambda w, c, s: round_to_nearest(w, c, s, RtnOptions(search=False)),
        "nearest, searched scales": round_to_nearest,
        "gptq, stored order": _gptq(sweeps=0, activation_order=False),
        "gptq, activation order": _gptq(sweeps=0),
        "  + 1 sweep": _gptq(sweeps=1),
        "  + 3 sweeps (default)": _gptq(),
        "  + 10 sweeps": _gptq(sweeps=10),
    }


def _gptq(**options: int) -> Round:
    chosen = GptqOptions.model_validate(options)
    return lambda weight, codec, statistics: gptq(weight, codec, statistics, chosen)


def _factor(weight: np.ndarray, codec: IntegerCodec, statistics: Statistics, order: bool) -> None:
    statistics.factor(weight.shape[1], 0.01, order)


def relative(model: list[Layer], decoded: list[np.ndarray], fresh: bool) -> float:
    """Return the geometric mean over matrices of the outputs' error relative to their power."""
    logs = []
    for layer, other in zip(model, decoded, strict=True):
        moment = layer.fresh if fresh else layer.seen
        power = error(layer.weight, np.zeros_like(layer.weight), moment)
        logs.append(np.log(error(layer.weight, other, moment) / power))
    return float(np.exp(np.mean(logs)))


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--workers", type=int, default=None, help="threads over matrices [all processors]")
    parser.add_argument("--no-menu", action="store_true", help="leave out the pricing of a menu")
    arguments = parser.parse_args()
    model = layers(arguments.blocks)
    size = sum(layer.weight.size for layer in model)
    print(f"{len(model)} matrices, {size / 1e6:.1f} M weights")

    def run(function: Callable[..., Any], codec: IntegerCodec) -> list[Any]:
        return map_threads(lambda layer: function(layer.weight, codec, layer.statistics), model, arguments.workers)

    wall, processor = time.perf_counter(), time.process_time()
    for order in (True, False):
        run(partial(_factor, order=order), CODECS[0])
    seconds = time.perf_counter() - wall, time.process_time() - processor
    print("factors for two orders: {:.2f} s, {:.2f} s processor".format(*seconds))
    gptq(model[0].weight, CODECS[0], model[0].statistics)  # compiles
    for codec in CODECS:
        print(f"\n{codec.label}, {codec.bits_per_weight(model[0].weight.shape):.3f} bits per weight")
        print(f"{'':32s}{'wall s':>8s}{'cpu s':>8s}{'error':>12s}{'fresh':>12s}")
        for label, function in variants().items():
            wall, processor = time.perf_counter(), time.process_time()
            rounded = run(function, codec)
            wall, processor = time.perf_counter() - wall, time.process_time() - processor
            decoded = [item.decode() for item in rounded]
            seen, fresh = relative(model, decoded, False), relative(model, decoded, True)
            print(f"{label:32s}{wall:8.2f}{processor:8.2f}{seen:12.3e}{fresh:12.3e}", flush=True)
    if not arguments.no_menu:
        wall, processor = time.perf_counter(), time.process_time()
        for codec in MENU:
            run(_gptq(), codec)
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        print(f"\n{len(MENU)} candidates for every matrix: {wall:.1f} s, {processor:.1f} s processor")


if __name__ == "__main__":
    main()
