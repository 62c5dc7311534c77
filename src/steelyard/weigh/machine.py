"""This machine as a device: what it reads and computes, measured once and kept in the user's cache folder."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np

from steelyard.errors import UserError
from steelyard.weigh.devices import Device, Level, Rows

WORKING_SETS = tuple(size * 2**20 for size in (1, 4, 16, 32, 64))
"""Bytes read again and again, for the speeds of caches."""
LARGE = 256 * 2**20
"""Bytes that no cache of a processor of one socket is expected to hold for long."""
_WIDTH = 2048
# A prompt of 256 tokens through sixteen matrices of 1024 x 1024, each of which has left the fast caches when it is
# used again, as those of a model have.
_ROWS, _SIDE, _MATRICES = 256, 1024, 16
FEW_ROWS = (2, 4, 8, 16, 32, 64, 128)
_REPEATS = 12

Call = Callable[[], object]
Clock = Callable[[], float]


class Runner(Protocol):
    """A library that computes products of matrices on this machine.

    Attributes:
        name: of the library.
        numbers: types it can compute with, fp32 first.
    """

    name: str
    numbers: tuple[str, ...]

    def product(self, rows: int, inner: int, columns: int, number: str) -> Call:
        """Return a call that multiplies [rows, inner] by a transposed weight of [columns, inner]."""

    def kernel_seconds(self, clock: Clock) -> float:
        """Return what a product costs beside its operations and bytes, small kernels around it included."""


class NumpyRunner:
    """numpy's own products, by the library for linear algebra it was built with."""

    name = "numpy"
    numbers: tuple[str, ...] = ("fp32", "fp64")

    def product(self, rows: int, inner: int, columns: int, number: str) -> Call:
        """Return a call that multiplies [rows, inner] by a transposed weight of [columns, inner]."""
        element = np.float32 if number == "fp32" else np.float64
        given = np.ones((rows, inner), element)
        weight = np.ones((columns, inner), element).T
        out = np.empty((rows, columns), element)
        return lambda: np.matmul(given, weight, out=out)

    def kernel_seconds(self, clock: Clock) -> float:
        """Return the time of a product so small that only its call counts."""
        return seconds_of(self.product(1, 16, 16, "fp32"), 200, clock)


NUMPY = NumpyRunner()


def calibrate(runner: Runner = NUMPY, clock: Clock = time.perf_counter) -> Device:
    """Measure this machine: a few seconds with all the threads the library uses by itself.

    Weights are read as writing a token reads them, by products of one row with a large matrix, and the peak is that
    of products as reading a prompt takes them. Both are thus what products reach, and the shares of them are 1.

    Args:
        runner: the library to measure.
        clock: see `seconds_of`.
    """
    peak = {number: _rate(runner, _ROWS, number, clock) for number in runner.numbers}
    first = runner.numbers[0]
    few = [Rows(rows, min(1.0, _rate(runner, rows, first, clock) / peak[first])) for rows in FEW_ROWS]
    levels = tuple(Level(size, _read_speed(runner, size, clock)) for size in WORKING_SETS)
    return Device(
        name="local",
        title=f"{_processor()}, {runner.name}",
        kind="local",
        memory=total_memory(),
        bandwidth=_read_speed(runner, LARGE, clock),
        peak=peak,
        source="measured",
        compute_share=1.0,
        bandwidth_share=1.0,
        kernel_seconds=runner.kernel_seconds(clock),
        levels=levels,
        few_rows=(*few, Rows(_ROWS, 1.0)),
    )


def seconds_of(call: Call, repeats: int = _REPEATS, clock: Clock = time.perf_counter) -> float:
    """Return the shortest time of a call after one to warm up: what is longer was disturbed.

    Args:
        call: what to measure.
        repeats: how often.
        clock: `time.process_time` where other programs want the same cores and the call uses one thread.
    """
    call()
    times = []
    for _ in range(repeats):
        begin = clock()
        call()
        times.append(clock() - begin)
    return min(times)


def _rate(runner: Runner, rows: int, number: str, clock: Clock) -> float:
    products = [runner.product(rows, _SIDE, _SIDE, number) for _ in range(_MATRICES)]

    def all_of_them() -> None:
        for product in products:
            product()

    return 2 * _MATRICES * rows * _SIDE**2 / seconds_of(all_of_them, clock=clock)


def _read_speed(runner: Runner, size: int, clock: Clock) -> float:
    rows = size // 4 // _WIDTH
    return size / seconds_of(runner.product(1, _WIDTH, rows, "fp32"), clock=clock)


def total_memory() -> int:
    """Return the bytes of memory of this machine.

    Raises:
        UserError: if the system does not tell.
    """
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError) as error:
        raise UserError("this system does not tell how much memory it has; describe the device yourself") from error


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return " ".join((named or platform.processor() or platform.machine()).split())


def default_path() -> Path:
    """Return where the measured machine is kept."""
    return Path.home() / ".cache" / "steelyard" / "machine.json"


def save(device: Device, path: Path | None = None) -> Path:
    """Keep a measured machine and return where.

    Raises:
        UserError: if it cannot be written there.
    """
    path = path or default_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(device.to_json(), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error
    return path


def load(path: Path | None = None) -> Device:
    """Return the machine that was measured.

    Raises:
        UserError: if none was, or the file is not what `save` wrote.
    """
    path = path or default_path()
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            "this machine has not been measured yet; run: steelyard weigh --calibrate-machine"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); run: steelyard weigh --calibrate-machine") from error
    if not isinstance(data, dict):
        raise UserError(f"{path}: not a description of a device; run: steelyard weigh --calibrate-machine")
    return Device.from_json(data)
