"""How fast the codecs' kernels are: python benchmarks/codec_kernels.py [--megabytes 512]

Prints, for 1 and 2 threads, the speed of the streamed path (4 bits, groups of 64, symmetric, bfloat16 source)
beside memcpy, numpy's copy and, where a C compiler is at hand, the plain C loop that does the same; then one line
for each kind of kernel, and what numba adds to the start of a process. The best of several runs counts; processor
time says what the work costs where other processes share the machine.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np

from steelyard.codecs import IntegerCodec, require_finite
from steelyard.parallel import cpu_count, map_threads

COLUMNS, ROWS = 4096, 256  # of a chunk: 2 MB of bfloat16

FLOOR = r"""
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
void encode(const uint16_t *source, size_t count, uint32_t *packed, uint16_t *scales) {
    for (size_t start = 0; start < count; start += 64) {
        float x[64]; int32_t code[64]; uint32_t top = 0;
        for (int j = 0; j < 64; j++) {
            uint32_t wide = (uint32_t)source[start + j] << 16;
            memcpy(&x[j], &wide, 4);
            wide &= 0x7fffffff;
            if (wide > top) top = wide;
        }
        float scale; memcpy(&scale, &top, 4); scale /= 7.5f;
        if (scale == 0) scale = 1.17549435e-38f;
        uint32_t bits; memcpy(&bits, &scale, 4);
        bits = (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000u;
        memcpy(&scale, &bits, 4); scales[start / 64] = bits >> 16;
        for (int j = 0; j < 64; j++) {
            float y = rintf(x[j] / scale);
            y = y < -8 ? -8 : y; y = y > 7 ? 7 : y;
            code[j] = (int32_t)y + 8;
        }
        for (int j = 0; j < 64; j += 8) {
            uint32_t word = 0;
            for (int k = 0; k < 8; k++) word |= (uint32_t)code[j + k] << (4 * k);
            packed[(start + j) / 8] = word;
        }
    }
}
"""


def best(function: Callable[[int], object], count: int, workers: int, repeats: int) -> tuple[float, float]:
    """Return the least seconds and the least processor seconds of `repeats` runs of `function` over all chunks."""
    elapsed, used = [], []
    for _ in range(repeats):
        start, start_used = time.perf_counter(), time.process_time()
        map_threads(function, range(count), workers)
        elapsed.append(time.perf_counter() - start)
        used.append(time.process_time() - start_used)
    return min(elapsed), min(used)


def c_loop(folder: Path) -> ctypes.CDLL | None:
    """Return the compiled C loop, or None without a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    (folder / "floor.c").write_text(FLOOR)
    library = folder / "floor.so"
    options = ["-O3", "-march=native", "-shared", "-fPIC", "-o", str(library), str(folder / "floor.c"), "-lm"]
    subprocess.run([compiler, *options], check=True)
    return ctypes.CDLL(str(library))


def streamed(source: np.ndarray, repeats: int) -> None:
    """Print the streamed path beside what bounds it."""
    chunks = source.reshape(-1, ROWS, COLUMNS)
    copies = np.empty_like(chunks)
    codec = IntegerCodec(bits=4, group_size=64, symmetric=True)
    packed = np.empty((len(chunks), ROWS, COLUMNS // 8), np.int32)
    scales = np.empty((len(chunks), ROWS, COLUMNS // 64), np.uint16)

    def memcpy(i: int) -> None:
        ctypes.memmove(copies[i].ctypes.data, chunks[i].ctypes.data, chunks[i].nbytes)

    def copy(i: int) -> None:
        np.copyto(copies[i], chunks[i])

    def encode(i: int) -> None:
        parts = codec.encode_rows(chunks[i])
        packed[i] = parts["weight_packed"]

    runs: dict[str, Callable[[int], object]] = {"memcpy": memcpy, "numpy copy": copy}
    with tempfile.TemporaryDirectory() as folder:
        library = c_loop(Path(folder))
        if library is not None:

            def floor(i: int) -> None:
                library.encode(
                    ctypes.c_void_p(chunks[i].ctypes.data),
                    ctypes.c_size_t(chunks[i].size),
                    ctypes.c_void_p(packed[i].ctypes.data),
                    ctypes.c_void_p(scales[i].ctypes.data),
                )

            runs["plain C loop"] = floor
        runs["encode_rows"] = encode
        size = source.nbytes / 1e9
        print(f"{'':34}{'':8}{'elapsed':>28}{'processor':>20}")
        print(
            f"{'streamed int4 g64 sym from bf16':34}{'threads':>8}"
            f"{'s per GB':>10}{'GB/s':>8}{'x memcpy':>10}{'s per GB':>10}{'x memcpy':>10}"
        )
        for workers in sorted({1, min(2, cpu_count())}):
            base: tuple[float, float] | None = None
            for name, run in runs.items():
                elapsed, used = best(run, len(chunks), workers, repeats)
                base = base or (elapsed, used)
                print(
                    f"{name:34}{workers:8}{elapsed / size:10.3f}{size / elapsed:8.2f}{elapsed / base[0]:10.2f}"
                    f"{used / size:10.3f}{used / base[1]:10.2f}"
                )


def kernels(source: np.ndarray, repeats: int) -> None:
    """Print processor nanoseconds for each element of every kind of kernel; large results count page faults."""
    rows = source[:1024]
    wide = rows.astype(np.float32)
    count = rows.size
    print(f"\n{'processor ns per element':28}{'encode':>9}{'decode':>9}{'residual':>10}{'quantize':>10}")
    for bits, group, symmetric in itertools.product((2, 3, 4, 8), (64, None), (True, False)):
        codec = IntegerCodec(bits=bits, group_size=group, symmetric=symmetric)
        parts = codec.encode_rows(rows)
        _, scale, zero = codec.to_codes(parts, rows.shape)
        work: tuple[Callable[[int], object], ...] = (
            lambda _, codec=codec: codec.encode_rows(rows),
            lambda _, codec=codec, parts=parts: codec.decode(parts, rows.shape),
            lambda _, codec=codec, parts=parts: codec.residual(rows, parts),
            lambda _, codec=codec, scale=scale, zero=zero: codec.quantize_with(wide, scale, zero),
        )
        numbers = [best(run, 1, 1, repeats)[1] / count * 1e9 for run in work]
        print(f"{codec.label:28}{numbers[0]:9.2f}{numbers[1]:9.2f}{numbers[2]:10.2f}{numbers[3]:10.2f}")
    check = best(lambda _: require_finite("w", rows), 1, 1, repeats)[1] / count * 1e9
    print(f"{'require_finite bf16':28}{check:9.2f}")


START = (
    "import time; begun = time.process_time()\n"
    "import numpy as np\n"
    "from steelyard.codecs import IntegerCodec\n"
    "rows = np.ones((8, 64), np.float32)\n"
    "imported = time.process_time()\n"
    "import numba; loaded = time.process_time()\n"
    "IntegerCodec(4, 64).encode_rows(rows); first = time.process_time()\n"
    "print(imported - begun, loaded - imported, first - loaded)\n"
)


def start() -> None:
    """Print what a fresh process pays before its first encoded row, the cache being warm."""
    runs = [
        [float(number) for number in subprocess.check_output([sys.executable, "-c", START], text=True).split()]
        for _ in range(3)
    ]
    imported, loaded, first = (min(column) for column in zip(*runs, strict=True))
    print(
        f"\nprocessor seconds of a fresh process: import steelyard.codecs {imported:.2f}, "
        f"import numba {loaded:.2f}, first call with a warm cache {first:.2f}"
    )


def main() -> None:
    """Run all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=512, help="of bfloat16 source (default 512)")
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    rows = max(ROWS, arguments.megabytes * 10**6 // (2 * COLUMNS) // ROWS * ROWS)
    source = np.empty((rows, COLUMNS), ml_dtypes.bfloat16)
    draw = np.random.default_rng(0)
    for begin in range(0, rows, ROWS):
        source[begin : begin + ROWS] = draw.standard_normal((ROWS, COLUMNS), dtype=np.float32) * np.float32(0.02)
    streamed(source, arguments.repeats)
    kernels(source, arguments.repeats)
    start()


if __name__ == "__main__":
    main()
