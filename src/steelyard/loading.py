"""`steelyard.load`: a model of transformers from any folder Steelyard writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steelyard.errors import UserError
from steelyard.formats.native.composition import MODEL_TYPE
from steelyard.jobs import resolve
from steelyard.registration import install


def load(
    location: str | Path,
    *,
    keep_decoded: bool = False,
    bits: int | None = None,
    budget_bytes: int | None = None,
    **options: Any,
) -> Any:
    """Load a model with transformers, as the class its config names.

    Args:
        location: a folder of any format, or "reference" for the bundled model.
        keep_decoded: keep packed weights decoded after their first use, which is faster and takes the memory of the
            unpacked model. Only folders in Steelyard's own format have packed weights in memory.
        bits: of a nested folder (`steelyard nest`), the level of all tensors: bits of codes, blocks of chains.
        budget_bytes: of a nested folder, what all weights may take in memory; the most useful levels are kept.
            `steelyard.grow` and `steelyard.shed` change it later.
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
    if config.model_type == MODEL_TYPE:
        kind = transformers.AutoModelForCausalLM
    if kind is None:
        raise UserError(f"{path}: config.json names the class {names[0]}, which transformers does not have")
    if bits is not None or budget_bytes is not None:
        _ask_for(config, path, {"bits": bits, "budget_bytes": budget_bytes})
        options["config"] = config
    model = kind.from_pretrained(path, **options)
    if keep_decoded:
        from steelyard.formats.native.modules import Packed

        for module in model.modules():
            if isinstance(module, Packed):
                module.keep_decoded = True
    return model


def grow(model: Any, *, budget_bytes: int | None = None, bits: int | None = None) -> int:
    """Read more of a loaded model's nested weights, in the order that gains most for its bytes.

    Args:
        model: loaded from a nested folder (`steelyard nest`), which must still be there.
        budget_bytes: what all of its weights may take in memory.
        bits: instead, one level for all tensors: bits of nested codes, blocks of chains.

    Returns:
        Bytes of its weights afterwards.

    Raises:
        UserError: if the model is not nested, or that is less than it has.
    """
    from steelyard.formats.native import nesting

    return nesting.grow(model, budget_bytes=budget_bytes, bits=bits)


def shed(model: Any, *, budget_bytes: int | None = None, bits: int | None = None) -> int:
    """Forget the least useful of a loaded model's nested weights; arguments and result as of `grow`.

    Raises:
        UserError: if the model is not nested, or that is more than it has, or less than its smallest version.
    """
    from steelyard.formats.native import nesting

    return nesting.shed(model, budget_bytes=budget_bytes, bits=bits)


def switch(model: Any, *, at: str | None = None, flops: float | None = None) -> str:
    """Run another way through a loaded model of `steelyard stitch` from now on.

    Args:
        model: loaded from a stitched folder.
        at: the way: "2:3", or "first" and "second" for a parent alone.
        flops: instead, the most operations a token may take; the way of least measured loss is chosen.

    Returns:
        The way that is run now.

    Raises:
        UserError: if the model is not stitched, or has no such way.
    """
    if getattr(model.config, "model_type", None) != MODEL_TYPE:
        raise UserError("only models of steelyard stitch have ways to switch between")
    return str(model.switch(at=at, flops=flops))


def _ask_for(config: Any, path: str | Path, wanted: dict[str, int | None]) -> None:
    """Put into a config how much of the nested tensors to keep, which the loader then does."""
    quantization = getattr(config, "quantization_config", None)
    if not isinstance(quantization, dict) or quantization.get("quant_method") != "steelyard":
        raise UserError(f"{path} holds no nested tensor to cut by bits or budget_bytes; steelyard nest makes such")
    asked = {key: value for key, value in wanted.items() if value is not None}
    if len(asked) != 1:
        raise UserError("say either bits or budget_bytes, not both")
    quantization["load"] = asked
