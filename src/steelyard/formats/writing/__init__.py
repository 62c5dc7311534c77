"""Other people's formats that folders are converted to: layouts of linear maps, with everything else left plain."""

from __future__ import annotations

from steelyard.formats.base import Format
from steelyard.formats.writing.awq import AwqFormat
from steelyard.formats.writing.bitsandbytes import BitsandbytesFormat
from steelyard.formats.writing.fp8 import Fp8Format
from steelyard.formats.writing.gptq import GptqFormat

WRITERS: dict[str, Format] = {
    format.name: format
    for format in (GptqFormat("gptq", 1), GptqFormat("gptq-v2", 2), AwqFormat(), BitsandbytesFormat(), Fp8Format())
}
"""By the name `convert --format` takes."""
