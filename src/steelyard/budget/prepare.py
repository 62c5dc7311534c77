"""The `prepare` job: the same function in weights that lose less when they are rounded, with a certificate."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from steelyard.budget.dry_run import CannotPlan, DryRun, check_plain
from steelyard.budget.knowledge import KnowledgeBase
from steelyard.budget.learning import NO_DATA, NothingHeldOut, learn
from steelyard.budget.provenance import document, versions
from steelyard.codecs import IntegerCodec
from steelyard.edits.prepare import certificate as certify
from steelyard.edits.prepare.certificate import Certificate
from steelyard.edits.prepare.changes import Changes
from steelyard.edits.prepare.channels import disassemble
from steelyard.edits.prepare.network import Network, Read
from steelyard.edits.prepare.products import reparametrize
from steelyard.edits.prepare.rotation import rotate
from steelyard.edits.prepare.scales import activation_aware, equalize, smooth
from steelyard.errors import UserError, VerificationError
from steelyard.jobs import OpenModel, add_model_files, open_model
from steelyard.progress import SILENT, Progress
from steelyard.units import parse_size
from steelyard.weights import DTYPES, FolderWriter, Layout, StoredTensor, check_output, data_hash, plan_layout

if TYPE_CHECKING:
    from steelyard.measure.calibration import Calibration

FILE_NAME = "preparation.json"
"""What was done and proved, beside the weights; later steps carry it along."""


class PrepareOptions(NothingHeldOut, BaseModel):
    """What to do to a model before it is rounded."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal["rotate", "smooth", "awq", "equalize", "disassemble", "query-key"] = Field(
        "awq", description="which preparation"
    )
    rotation: Literal["hadamard", "orthogonal", "klt"] = Field(
        "hadamard",
        description="rotate: the kind of matrix; klt is the calibrated channels' own axes, then Hadamard",
    )
    heads: bool = Field(True, description="rotate: values of heads and time steps of Mamba too")
    values: bool = Field(False, description="query-key: values and output of attention too")
    untie: bool = Field(False, description="rotate: store a head of its own where it is the embedding table")
    extra: int = Field(32, ge=1, description="disassemble: channels added to every feed-forward")
    assemble: bool = Field(
        False, description="disassemble: join as many similar channels; the width stays, the function does not"
    )
    alpha: float = Field(0.5, ge=0, le=1, description="smooth: how much moves from activations into weights")
    bits: int = Field(4, ge=2, le=8, description="awq: bits of the codes to come")
    group_size: int | None = Field(64, ge=16, le=256, description="awq: columns under one scale")
    symmetric: bool = Field(True, description="awq: no zero points")
    data: str | None = Field(None, description="smooth, awq, klt, disassemble: calibration text, as for fit")
    calibration: str | None = Field(None, description="file to keep the calibration in, and to take it from")
    sequences: int = Field(128, ge=1, description="calibration sequences")
    sequence_length: int = Field(256, ge=8, description="tokens per calibration sequence")
    dtype: Literal["keep", "float32"] = Field("keep", description="type of the changed weights")
    max_shard_size: str | int = Field("5GB", description="begin a new file above this size")
    seed: int = Field(0, description="seed of everything drawn")


@dataclass(frozen=True)
class PrepareResult:
    """What `prepare` made.

    Attributes:
        out: the folder.
        nbytes: bytes of its weight files.
        changed: number of changed tensors.
        certificate: how far its function is from the original's.
        calibrated_on: in words, the texts; "" where none were needed.
    """

    out: Path
    nbytes: int
    changed: int
    certificate: Certificate
    calibrated_on: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "out": str(self.out),
            "bytes": self.nbytes,
            "changed": self.changed,
            "certificate": self.certificate.to_dict(),
            "calibrated_on": self.calibrated_on,
        }


def prepare_folder(
    model: str | Path,
    out: str | Path,
    options: PrepareOptions | None = None,
    *,
    resume: bool = False,
    progress: Progress = SILENT,
) -> PrepareResult:
    """Write a model of the same function that is easier to round.

    Raises:
        UserError: for a model of an unknown family, a tied head that a rotation cannot keep, an existing output.
        VerificationError: if the changed model is not the same function in float64; nothing is written.
    """
    options = options or PrepareOptions()
    with open_model(model) as opened:
        path = check_output(out, opened.checkpoint.folder, resume)
        network = Network.of(opened.spec)
        read = _reader(opened)
        changes, description = _changes(opened, network, read, options, path, progress)
        layout = _layout(opened, changes, options)
        certificate = _certificate(opened, network, changes, layout, options.method, options.seed)
        work = data_hash([options.model_dump(mode="json"), opened.checkpoint.content_hash(), versions()])
        with FolderWriter(path, layout, resume=resume, plan_hash=work, source=opened.checkpoint.folder) as writer:
            for file in layout.files:
                for name, tensor in file.tensors.items():
                    if not writer.done(name):
                        writer.write(name, _stored(opened, changes, tensor))
            _add_files(writer, opened, changes, options, certificate)
            folder = writer.finish()
    return PrepareResult(folder, layout.total_bytes, len(list(changes.names())), certificate, description)


def dry_run(
    model: str | Path, options: PrepareOptions, progress: Progress = SILENT, before: DryRun | None = None
) -> DryRun:
    """Plan without reading a weight: most preparations change numbers and nothing else.

    Raises:
        UserError: for a model of an unknown family.
        CannotPlan: where shapes, types or tensors change too.
    """
    check_plain(before)
    changes = {
        "disassemble adds channels": options.method == "disassemble",
        "untie stores a head of its own": options.method == "rotate" and options.untie,
        "dtype float32 widens what turns out to be changed": options.dtype != "keep",
    }
    if reasons := [reason for reason, holds in changes.items() if holds]:
        raise CannotPlan(f"{reasons[0]}, so that the headers of the model do not tell those of the result")
    with open_model(model) as opened:
        Network.of(opened.spec)
        tensors = [StoredTensor(name, tensor.dtype, tensor.shape) for name, tensor in opened.spec.tensors.items()]
        size = plan_layout(tensors, parse_size(options.max_shard_size)).total_bytes
        return DryRun(
            model=str(model),
            budget=size,
            asked=f"{options.method}, the same function",
            format="dense",
            smallest=size,
            nbytes=size,
            tensors={tensor.name: "its own type" for tensor in tensors},
            resources="a matrix at a time in float64, and three passes over a few random tokens",
            notes=(),
            leaves="model",
        )


def _reader(opened: OpenModel) -> Read:
    return lambda name: opened.checkpoint.tensor(opened.spec.ties.get(name, name)).astype(np.float64)


def _changes(
    opened: OpenModel, network: Network, read: Read, options: PrepareOptions, out: Path, progress: Progress
) -> tuple[Changes, str]:
    if options.method == "rotate" and options.rotation != "klt":
        return rotate(network, read, options.rotation, options.heads, options.untie, options.seed), ""
    if options.method == "query-key":
        return reparametrize(network, read, options.values, options.seed), ""
    if options.method == "equalize":
        return equalize(network, read), ""
    if options.data == NO_DATA:
        raise UserError(
            f"{'klt' if options.method == 'rotate' else options.method} needs to see activations; give text with "
            "--data, or equalize without any"
        )
    with (
        tempfile.TemporaryDirectory(dir=out.parent if out.parent.is_dir() else None) as work,
        learn(opened, options, Path(work), progress) as learned,
    ):
        calibration = learned.calibration
        assert calibration is not None
        return _calibrated(opened, network, read, calibration, options), learned.description


def _calibrated(
    opened: OpenModel, network: Network, read: Read, calibration: Calibration, options: PrepareOptions
) -> Changes:
    if options.method == "rotate":

        def moment(name: str) -> np.ndarray | None:
            return calibration.second_moment(name) if name in calibration else None

        return rotate(network, read, options.rotation, options.heads, options.untie, options.seed, moment)

    def ranges(name: str) -> np.ndarray:
        least, greatest = calibration.input_range(name)
        largest: np.ndarray = np.maximum(np.abs(least), np.abs(greatest)).astype(np.float64)
        return largest

    if options.method == "disassemble":
        moments = calibration.second_moment if options.assemble else None
        return disassemble(network, read, ranges, options.extra, moments)
    if options.method == "smooth":
        return smooth(network, read, lambda n: ranges(n) if n in calibration else None, options.alpha)
    knowledge = KnowledgeBase(calibration, opened.spec.ties)
    codec = IntegerCodec(options.bits, options.group_size, options.symmetric, "F32")
    return activation_aware(network, read, lambda name: knowledge.of(name).statistics, codec)


def _stored(opened: OpenModel, changes: Changes, tensor: StoredTensor) -> np.ndarray:
    """Return a tensor of the result in its stored type; what is not changed keeps its bytes."""
    original: np.ndarray = opened.checkpoint.tensor(changes.source(tensor.name))
    if tensor.name not in set(changes.names()):
        return original
    stored: np.ndarray = changes.of(tensor.name).apply(original).astype(DTYPES[tensor.dtype].numpy)
    return stored


def _layout(opened: OpenModel, changes: Changes, options: PrepareOptions) -> Layout:
    changed = set(changes.names())
    names = [*opened.spec.tensors, *([changes.network.head] if changes.untied else [])]
    tensors = []
    for name in names:
        tensor = opened.spec.tensors[changes.source(name)]
        widened = options.dtype == "float32" and name in changed
        tensors.append(StoredTensor(name, "F32" if widened else tensor.dtype, changes.shape(name, tensor.shape)))
    return plan_layout(tensors, parse_size(options.max_shard_size))


def _certificate(
    opened: OpenModel, network: Network, changes: Changes, layout: Layout, method: str, seed: int
) -> Certificate:
    """Compare the functions.

    Raises:
        VerificationError: if they are not one in float64.
    """
    read = _reader(opened)
    stored = {name: tensor for file in layout.files for name, tensor in file.tensors.items()}
    if not list(changes.names()):
        raise UserError(
            f"there is nothing in a {opened.spec.model_type} that {method} could change; see docs/prepare.md"
        )
    tokens = certify.draw_tokens(opened.spec.tensors[network.embed].shape[0], seed)

    def head(reader: Read) -> Read:
        tied = network.head and network.tied and not changes.untied
        return lambda name: reader(network.embed if tied and name == network.head else name)

    expected = network.logits(read, tokens)
    certified = changes.exact or changes
    exact = network.logits(head(lambda name: certified.read(read, name)), tokens)
    found = network.logits(head(lambda name: _stored(opened, changes, stored[name]).astype(np.float64)), tokens)
    made = Certificate(
        certify.relative(exact, expected),
        certify.relative(found, expected),
        int(tokens.size),
        "channels were assembled" if changes.exact else "",
    )
    if not made.exact <= certify.TOLERANCE:
        raise VerificationError(
            f"the prepared model is another function: its logits differ by {made.exact:.1e} in float64; "
            "nothing was written"
        )
    return made


def _add_files(
    writer: FolderWriter, opened: OpenModel, changes: Changes, options: PrepareOptions, certificate: Certificate
) -> None:
    config: dict[str, Any] = {**opened.checkpoint.config, **changes.config}
    if changes.untied:
        config["tie_word_embeddings"] = False
    add_model_files(writer, opened.checkpoint, config, made=(FILE_NAME,))
    request: Mapping[str, Any] = {"verb": "prepare", **options.model_dump(mode="json")}
    writer.add_file(
        FILE_NAME,
        document(
            request=request,
            versions=versions(),
            inputs=opened.checkpoint.content_hash(),
            outputs=writer.file_hashes(),
            certificates=[{"name": "same function in float64", **certificate.to_dict()}],
        ),
    )
