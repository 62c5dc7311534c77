"""`steelyard.load`: a model of transformers from any folder Steelyard writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steelyard.errors import UserError
from steelyard.jobs import resolve
from steelyard.registration import install


def load(location: str | Path, *, keep_decoded: bool = False, **options: Any) -> Any:
    """Load a model with transformers, as the class its config names.

    Args:
        location: a folder of any format, or "reference" for the bundled model.
        keep_decoded: keep packed weights decoded after their first use, which is faster and takes the memory of the
            unpacked model. Only folders in Steelyard's own format have packed weights in memory.
        options: of transformers' `from_pretrained`.

    Raises:
        UserError: if transformers is not installed, or the config names a class it does not have.
    """
    install()
    try:
        import transformers
    except ImportError:
        raise UserError("loading a model needs transformers: pip install 'steelyard[torch]'") from None
    path = resolve(location)
    config = transformers.AutoConfig.from_pretrained(path)
    names = config.architectures or []
    kind = getattr(transformers, names[0], None) if names else transformers.AutoModel
    if kind is None:
        raise UserError(f"{path}: config.json names the class {names[0]}, which transformers does not have")
    model = kind.from_pretrained(path, **options)
    if keep_decoded:
        from steelyard.formats.native.modules import Packed

        for module in model.modules():
            if isinstance(module, Packed):
                module.keep_decoded = True
    return model
