from __future__ import annotations

import pytest
from report_sample import encoder, full, minimal

from steelyard.report import ReportData


@pytest.fixture(params=[full, minimal, encoder], ids=["full", "minimal", "encoder"])
def data(request: pytest.FixtureRequest) -> ReportData:
    return request.param()
