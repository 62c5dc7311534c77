"""What a report says, as plain frozen data: filled by `fit`, kept in `steelyard.json`, read back by `rebuild`.

Quantities are bytes, seconds and, for damage, the unit that `Damage` names. A share of one (agreement, flips)
has the unit "fraction" and is shown in percent. What was not measured is None or empty; the report leaves it out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from steelyard.errors import UserError

Setting = str | int | float | bool | None


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval, which is None where none was computed."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Damage:
    """The measure of damage that predictions, curves and the headline use."""

    name: str = "KL"
    unit: str = "nats/token"

    @property
    def label(self) -> str:
        """Name and unit, for axes and headings."""
        return f"{self.name}, {self.unit}" if self.unit else self.name


KL = Damage()


@dataclass(frozen=True)
class Request:
    """What was asked, of what, and how.

    Attributes:
        model: name or location of the model.
        asked: the budget in words ("4.00 MiB on disk"); empty where there was none.
        command: the command line or call that does it again.
        verb: what was done.
        options: name to value, as the user may set them.
        versions: name of software to version.
        calibration: where the calibration data came from.
        evaluation: where the evaluation data came from.
        seconds: wall time.
        peak_memory: most resident bytes.
    """

    model: str
    asked: str = ""
    command: str = ""
    verb: str = "fit"
    options: Mapping[str, Setting] = field(default_factory=dict)
    seed: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    calibration: str = ""
    evaluation: str = ""
    seconds: float | None = None
    peak_memory: int | None = None


@dataclass(frozen=True)
class RoleBytes:
    """Bytes on disk of one kind of tensor (see `roles.byte_rows`), before and after."""

    role: str
    original: int
    new: int


@dataclass(frozen=True)
class Sizes:
    """Bytes of all weight files on disk, headers and index included.

    Attributes:
        original: of the model as it was.
        written: of the result as it lies on disk.
        planned: of the result as planned.
        budget: the most it was allowed to take.
        step: bytes of the cheapest improvement that did not fit any more: the slack is below it.
        parameters: stored parameters, tied ones once.
        roles: where the bytes went; together they make `original` and `written`.
    """

    original: int
    written: int
    planned: int | None = None
    budget: int | None = None
    step: int | None = None
    parameters: int | None = None
    roles: tuple[RoleBytes, ...] = ()

    @property
    def slack(self) -> int | None:
        """Bytes of the budget that were left; negative if it was exceeded."""
        return None if self.budget is None else self.budget - self.written

    def bits(self, nbytes: int) -> float | None:
        """Bits per stored parameter of a file of `nbytes`."""
        return 8 * nbytes / self.parameters if self.parameters else None


@dataclass(frozen=True)
class Metric:
    """One measurement before and after.

    Attributes:
        name: "loss", "perplexity", "top-1 agreement"; the row named as `Damage.name` is the headline.
        base: of the original; None where the metric compares with it (KL, agreement).
        new: of the result.
        change: new - base, paired over documents; None where not computed.
        better: which direction is better; empty where neither is.
    """

    name: str
    new: Interval
    base: Interval | None = None
    change: Interval | None = None
    unit: str = ""
    better: Literal["lower", "higher", ""] = "lower"


@dataclass(frozen=True)
class TensorRow:
    """How one tensor is stored.

    Attributes:
        layer: number of its block, None outside the blocks.
        role: as in the spec ("attn.q"), None if unknown.
        label: the codec's label ("int4 g64 sym").
        bits: bits per weight, scales included.
        nbytes: bytes on disk without its header entry.
        damage: predicted.
        error: |decoded - original| / |original|, Frobenius.
    """

    name: str
    layer: int | None
    role: str | None
    label: str
    bits: float
    nbytes: int
    damage: float | None = None
    error: float | None = None


@dataclass(frozen=True)
class CurvePoint:
    """One budget of a curve; `chosen` marks the result this report is about."""

    nbytes: int
    damage: Interval
    predicted: float | None = None
    loss: Interval | None = None
    chosen: bool = False


@dataclass(frozen=True)
class Series:
    """One method's curve. The first series of a report is Steelyard's, the others are baselines."""

    name: str
    points: tuple[CurvePoint, ...]


@dataclass(frozen=True)
class Prediction:
    """Predicted and measured damage of one result, or of one tensor changed alone."""

    label: str
    predicted: float
    measured: Interval


@dataclass(frozen=True)
class FormatRow:
    """One output format at the same budget."""

    name: str
    nbytes: int
    damage: Interval
    detail: str = ""


@dataclass(frozen=True)
class Certificate:
    """One thing that was checked before the folder took its name."""

    name: str
    status: Literal["pass", "fail", "skipped"]
    detail: str = ""


@dataclass(frozen=True)
class ReportData:
    """Everything a report shows.

    Attributes:
        predicted: predicted damage of the result; the headline shows it beside the measured one.
        predictions: more pairs of predicted and measured damage; the curve's own are added by themselves.
        loads_in: what loads the result: "plain transformers", "transformers after `import steelyard`".
    """

    request: Request
    sizes: Sizes
    metrics: tuple[Metric, ...] = ()
    damage: Damage = KL
    predicted: float | None = None
    tensors: tuple[TensorRow, ...] = ()
    curve: tuple[Series, ...] = ()
    predictions: tuple[Prediction, ...] = ()
    formats: tuple[FormatRow, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    loads_in: str = ""
    notes: tuple[str, ...] = ()

    def metric(self, name: str) -> Metric | None:
        """The measurement of that name, if it was made."""
        return next((row for row in self.metrics if row.name == name), None)

    def all_predictions(self) -> tuple[Prediction, ...]:
        """Every known pair of predicted and measured damage."""
        own = self.curve[0].points if self.curve else ()
        pairs = [
            Prediction(f"{point.nbytes:,} bytes", point.predicted, point.damage)
            for point in own
            if point.predicted is not None
        ]
        headline = self.metric(self.damage.name)
        if self.predicted is not None and headline is not None and not any(point.chosen for point in own):
            pairs.append(Prediction("this result", self.predicted, headline.new))
        return (*pairs, *self.predictions)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data, from which `from_dict` builds the same report."""
        plain: dict[str, Any] = _adapter().dump_python(self, mode="json")
        return plain

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ReportData:
        """Inverse of `to_dict`.

        Raises:
            UserError: naming the first field that is missing or of the wrong kind.
        """
        from pydantic import ValidationError

        try:
            report: ReportData = _adapter().validate_python(data)
            return report
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "report"
            raise UserError(f"the report's data are damaged at {place}: {first['msg']}") from None


def _adapter() -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(ReportData)
