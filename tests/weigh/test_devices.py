"""Devices as data, and the machine that was measured."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from steelyard.errors import UserError
from steelyard.weigh import machine
from steelyard.weigh.devices import Device, Level, devices, find_device
from steelyard.weigh.machine import Call, Clock


def test_every_device_is_plausible() -> None:
    assert len(devices()) >= 30
    for name, device in devices().items():
        assert name == device.name == name.lower()
        assert device.title and device.source
        assert 2**33 <= device.memory <= 2**40
        assert 5e10 <= device.bandwidth <= 1e13
        assert device.compute_type() in ("bf16", "fp16", "fp32")
        # Fewer bits are never slower; no device computes a thousand operations for each byte it reads.
        order = [device.peak[number] for number in ("fp32", "bf16", "fp8") if number in device.peak]
        assert order == sorted(order)
        assert 1 < device.operations_per_second() / device.bandwidth < 1000
        assert device.dollars_per_hour is None or 0.1 < device.dollars_per_hour < 20
        assert device.watts is None or 30 < device.watts < 1500


def test_names_are_found_as_people_write_them() -> None:
    assert find_device("H100 SXM").name == find_device("h100_sxm").name == "h100-sxm"
    with pytest.raises(UserError, match="did you mean h100-sxm"):
        find_device("h100-smx")
    with pytest.raises(UserError, match="known: local"):
        find_device("abacus")


def test_peaks_are_asked_for_by_type() -> None:
    device = find_device("t4")
    assert device.operations_per_second("int8") == pytest.approx(2 * device.operations_per_second("fp16"))
    with pytest.raises(UserError, match="t4 has no peak for 'fp8'"):
        device.operations_per_second("fp8")


def test_processors_compute_in_what_is_fastest() -> None:
    device = find_device("t4")
    assert device.compute_type() == "fp16"
    assert replace(device, peak={"bf16": 1e9, "fp32": 2e9}).compute_type() == "fp32"
    assert replace(device, peak={"int8": 1e9}).compute_type() == "int8"


def test_small_working_sets_are_read_from_caches() -> None:
    device = replace(find_device("t4"), bandwidth_share=1.0, levels=(Level(100, 9.0), Level(1000, 5.0)))
    assert [device.bytes_per_second(size) for size in (1, 100, 101, 1001)] == [9.0, 9.0, 5.0, 320e9]


class Clockwork:
    """A library whose products take known times on a clock of its own."""

    name = "clockwork"
    numbers: tuple[str, ...] = ("fp32",)

    def __init__(self) -> None:
        self.now = 0.0

    def product(self, rows: int, inner: int, columns: int, number: str) -> Call:
        seconds = max(2 * rows * inner * columns / 4e9, 4 * inner * columns / 2e9)

        def call() -> None:
            self.now += seconds

        return call

    def kernel_seconds(self, clock: Clock) -> float:
        return 1e-3

    def clock(self) -> float:
        return self.now


def test_calibration_finds_the_speeds_of_a_known_machine(tmp_path: Path) -> None:
    clockwork = Clockwork()
    device = machine.calibrate(clockwork, clockwork.clock)
    assert device.peak == {"fp32": pytest.approx(4e9)}
    assert device.bandwidth == pytest.approx(2e9)
    assert [level.bandwidth for level in device.levels] == [pytest.approx(2e9)] * len(machine.WORKING_SETS)
    assert (device.kernel_seconds, device.compute_share, device.bandwidth_share) == (1e-3, 1, 1)
    path = machine.save(device, tmp_path / "deep" / "machine.json")
    assert machine.load(path) == device


def test_numpy_multiplies_what_it_says() -> None:
    product = machine.NUMPY.product(3, 5, 7, "fp64")
    assert np.array_equal(product(), np.full((3, 7), 5.0))
    assert 0 < machine.NUMPY.kernel_seconds(machine.time.perf_counter) < 0.1


def test_the_local_machine_must_be_measured_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    with pytest.raises(UserError, match="--calibrate-machine"):
        find_device("local")
    clockwork = Clockwork()
    machine.save(machine.calibrate(clockwork, clockwork.clock))
    assert find_device("local").title.endswith("clockwork")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"peak": 3}', "\x00"])
def test_spoiled_files_are_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "machine.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="calibrate"):
        machine.load(path)


@pytest.mark.parametrize("change", [{"memory": 0}, {"bandwidth": -1}, {"peak": {}}, {"peak": {"fp32": 0}}])
def test_absurd_devices_are_refused(change: dict[str, object]) -> None:
    data = json.loads(json.dumps(find_device("t4").to_json()))
    assert Device.from_json(data) == find_device("t4")
    with pytest.raises(UserError, match="no description of a device"):
        Device.from_json({**data, **change})


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="cannot be written"):
        machine.save(find_device("t4"), tmp_path / "file" / "machine.json")


def test_no_floor_above_is_imported() -> None:
    names = ("devices", "inverse", "machine", "platforms", "trainable")
    code = "import sys\n" + "".join(f"import steelyard.weigh.{name}\n" for name in names)
    code += "above = ('torch', 'transformers', 'numba', 'steelyard.measure', 'steelyard.budget', 'steelyard.cli')\n"
    code += "sys.exit(' '.join(name for name in above if name in sys.modules) or 0)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
