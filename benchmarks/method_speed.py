"""Seconds per million weights of every rounding method, and of encoding every GGUF type.

    python benchmarks/method_speed.py [--size 1024] [--only gptq rtn ...]

One square matrix with the second moment of its inputs at hand, on one thread; seconds are processor time. The floor
of a method that uses the second moment is one product of the matrix with it, 2 out in^2 operations, measured in
the same run: compensating an error exactly costs as much. The first call compiles, of two more the better time is
taken, and of one where the first took over ten seconds. Some minutes in all.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np
from _setup import parser_of

from steelyard.budget.encoding import ABSMAX
from steelyard.codecs import (
    AnyPrecisionCodec,
    BlockwiseCodec,
    CodebookCodec,
    Codec,
    GridCodec,
    IntegerCodec,
    LowRankCodec,
    OutlierCodec,
    PowerCodec,
    RotatedCodec,
    SignChainCodec,
    SumCodec,
)
from steelyard.codecs.gguf import GgufCodec
from steelyard.codecs.gguf.types import LEVELS
from steelyard.edits import registry
from steelyard.edits.quantize.statistics import Statistics
from steelyard.parallel import single_threaded_blas
from steelyard.seeds import generator

INTEGER_METHODS = ("rtn", "hqq", "gptq", "decoupleq", "sign-gradient")
FOUR = IntegerCodec(4, 64, True)
OTHERS: tuple[tuple[str, Codec], ...] = (
    ("low-rank", SumCodec(FOUR, LowRankCodec(16))),
    ("outliers", OutlierCodec(FOUR, 4)),
    ("rotated", RotatedCodec(FOUR, 256)),
    ("nupes", PowerCodec(4, 64)),
    ("gptq-levels", BlockwiseCodec("nf", 4, 64)),
    ("lattice", GridCodec(0.5)),
    ("kmeans", CodebookCodec(1, 8, 4)),
    ("additive", CodebookCodec(2, 8, 8)),
    ("any-precision", AnyPrecisionCodec(8, 3, None)),
    ("sign-chain", SignChainCodec(4, 16)),
)
SLOW = 10.0


def best(work: Callable[[], object], count: int = 2) -> float:
    """Return the least seconds of processor time of some runs."""
    seconds = []
    for _ in range(count):
        began = time.process_time()
        work()
        seconds.append(time.process_time() - began)
    return min(seconds)


def sample(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a weight float32 and a second moment float64 with a few strong directions, both [size, size]."""
    draw = generator(0, "method speed")
    weight = (draw.standard_t(6, size=(size, size)) * 0.04).astype(np.float32)
    mixing = draw.normal(size=(size, size)) * np.arange(1, size + 1) ** -0.6
    inputs = draw.normal(size=(4 * size, size)) @ mixing.T
    return weight, inputs.T @ inputs / len(inputs)


def main() -> None:
    """Print both tables."""
    parser = parser_of(__doc__)
    parser.add_argument("--size", type=int, default=1024, help="rows and columns of the matrix")
    parser.add_argument("--only", nargs="+", default=None, help="methods and GGUF types [all]")
    arguments = parser.parse_args()
    weight, moment = sample(arguments.size)
    millions = weight.size / 1e6
    wide = moment.astype(np.float32)

    def wanted(name: str) -> bool:
        return arguments.only is None or name in arguments.only

    def seconds_of(method: str, codec: Codec) -> float:
        """The better of the runs after one that compiles; each works out its factors anew."""
        function = registry.get(method).function

        def work() -> None:
            function(weight, codec, Statistics(moment))

        return best(work, 1 if best(work, 1) > SLOW else 2)

    with single_threaded_blas():
        weight @ wide
        floor = best(lambda: weight @ wide, 5)
        print(f"matrix {arguments.size} x {arguments.size}; product with the second moment {floor * 1e3:.1f} ms\n")
        print(f"{'method':16}{'codec':>24}{'s / M weights':>15}{'/ product':>11}")
        for codec in (IntegerCodec(4, 64, True), IntegerCodec(2, 64, False)):
            if wanted(ABSMAX):
                codec.encode(weight)
                _row(ABSMAX, codec, best(partial(codec.encode, weight), 5), millions, floor)
            for method in filter(wanted, INTEGER_METHODS):
                _row(method, codec, seconds_of(method, codec), millions, floor)
        for method, other in OTHERS:
            if wanted(method):
                _row(method, other, seconds_of(method, other), millions, floor)
        print(f"\n{'GGUF type':16}{'bits':>24}{'s / M weights':>15}{'MB of bf16 / s':>16}")
        for name in filter(wanted, LEVELS):
            gguf = GgufCodec(name)
            seconds = seconds_of("gguf", gguf)
            bits = gguf.bits_per_weight(weight.shape)
            print(f"{name:16}{bits:24.4f}{seconds / millions:15.3f}{2 * millions / seconds:16.1f}", flush=True)


def _row(method: str, codec: Codec, seconds: float, millions: float, floor: float) -> None:
    print(f"{method:16}{codec.label:>24}{seconds / millions:15.3f}{seconds / floor:11.1f}", flush=True)


if __name__ == "__main__":
    main()
