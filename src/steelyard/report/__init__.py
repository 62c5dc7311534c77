"""Reports: one self-contained page, the same figures as PNG, the same tables on the terminal.

`write(folder, data)` and `rebuild(folder)` make the page and figures; `steelyard.report.text` the tables;
`pareto_png` the picture of a curve alone. `ReportData` is all they show.
"""

from __future__ import annotations

from steelyard.report.data import (
    Certificate,
    CurvePoint,
    Damage,
    FormatRow,
    Interval,
    Metric,
    Prediction,
    ReportData,
    Request,
    RoleBytes,
    Series,
    Sizes,
    TensorRow,
)
from steelyard.report.pareto import pareto_png
from steelyard.report.roles import byte_rows
from steelyard.report.summary import summary
from steelyard.report.write import rebuild, write

__all__ = [
    "Certificate",
    "CurvePoint",
    "Damage",
    "FormatRow",
    "Interval",
    "Metric",
    "Prediction",
    "ReportData",
    "Request",
    "RoleBytes",
    "Series",
    "Sizes",
    "TensorRow",
    "byte_rows",
    "pareto_png",
    "rebuild",
    "summary",
    "write",
]
