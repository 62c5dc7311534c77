"""The result in one sentence, and each number's row in words: shared by the page and the terminal."""

from __future__ import annotations

from dataclasses import dataclass

from steelyard.report import numbers
from steelyard.report.data import Interval, Metric, Prediction, ReportData


def summary(data: ReportData) -> str:
    """Return one sentence: asked, written, damage, loss, what loads it.

    Example:
        "4.00 MiB asked, 4,194,290 bytes written (14 bytes under) · KL 0.0123 [0.0110, 0.0137] nats/token ·
        loss 1.234 → 1.240 · loads in plain transformers"
    """
    parts = [_bytes(data)]
    headline = data.metric(data.damage.name)
    if headline is not None:
        parts.append(f"{data.damage.name} {numbers.with_bounds(headline.new)} {data.damage.unit}".rstrip())
    loss = data.metric("loss")
    if loss is not None and loss.base is not None:
        parts.append(f"loss {before_after(loss)}")
    if data.loads_in:
        parts.append(f"loads in {data.loads_in}")
    return " · ".join(parts)


def before_after(metric: Metric) -> str:
    """Return "1.234 → 1.240"; the value alone where there is no base."""
    row = metric_text(metric)
    return f"{row.base} → {row.new}" if row.base else row.new


def slack(data: ReportData) -> str:
    """Return "14 bytes under", "on the byte", "3 bytes over"; empty without a budget."""
    left = data.sizes.slack
    if left is None:
        return ""
    if left == 0:
        return "on the byte"
    return f"{abs(left):,} {'byte' if abs(left) == 1 else 'bytes'} {'under' if left > 0 else 'over'}"


@dataclass(frozen=True)
class MetricText:
    """One row of the table of measurements; empty where there is nothing to say."""

    name: str
    base: str
    new: str
    bounds: str
    change: str
    verdict: str


def metric_text(metric: Metric) -> MetricText:
    """Return a measurement as text.

    The verdict compares the paired interval of the change with zero; without one it is left empty.
    """
    unit = "" if metric.unit == "fraction" else f", {metric.unit}" if metric.unit else ""
    change = metric.change
    if change is None and metric.base is not None:
        change = Interval(metric.new.value - metric.base.value)
    text = "" if change is None else numbers.signed(numbers.measured(change, metric.unit))
    if change is not None and numbers.bounds(change, metric.unit):
        text += f" {numbers.bounds(change, metric.unit)}"
    # A change is known better than the values: one more digit of them, so that they differ where they differ.
    decimals = min(6, max(0, numbers.decimals_of(metric.change, metric.unit) - 1))
    return MetricText(
        metric.name + unit,
        "" if metric.base is None else numbers.measured(metric.base, metric.unit, decimals),
        numbers.measured(metric.new, metric.unit, decimals),
        numbers.bounds(metric.new, metric.unit, decimals),
        text,
        _verdict(metric),
    )


def ratio(pair: Prediction) -> str:
    """Return how many times the prediction the measured damage is: "1.05×"."""
    return f"{pair.measured.value / pair.predicted:.2f}×" if pair.predicted > 0 else numbers.MISSING


def _verdict(metric: Metric) -> str:
    change = metric.change
    if change is None or change.low is None or change.high is None or not metric.better:
        return ""
    if change.low <= 0 <= change.high:
        return "no change seen"
    return "better" if (change.value < 0) == (metric.better == "lower") else "worse"


def _bytes(data: ReportData) -> str:
    written = f"{data.sizes.written:,} bytes written"
    if data.sizes.budget is None:
        return f"{written} of {data.sizes.original:,}"
    return f"{numbers.size(data.sizes.budget)} asked, {written} ({slack(data)})"
