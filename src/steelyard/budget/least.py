"""The smallest result there is, known before any calibration.

What entropy-coded weights take is known only once they are coded, and how they are rounded depends on the
calibration. So the coarsest grid on offer is also rounded without one: its bytes follow from the weights alone, and
the menu keeps it wherever what the calibration makes of that grid takes more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from steelyard.budget.candidates import Choice, Offer
from steelyard.budget.execute import matrix_of
from steelyard.codecs import Codec, EntropyCodec, GridCodec, require_finite
from steelyard.formats.base import tensor_of
from steelyard.parallel import map_threads
from steelyard.progress import SILENT, Progress
from steelyard.spec import ModelSpec
from steelyard.weights import Checkpoint

# Under a step of four root mean squares codes have a mean square of at most 1/4, hence 1.07 bits at most. The
# coder's tables come on top.
_COARSE, _COARSE_BITS, _TABLES = 4.0, 1.25, 128


def coarsest(codecs: Iterable[Codec | None]) -> EntropyCodec | None:
    """Return the entropy-coded grid of the largest step, None if there is none."""
    grids = [codec for codec in codecs if isinstance(codec, EntropyCodec) and isinstance(codec.base, GridCodec)]
    return max(grids, key=_step, default=None)


def _step(codec: EntropyCodec) -> float:
    assert isinstance(codec.base, GridCodec)
    return codec.base.step


def offered(offer: Offer, name: str) -> list[Codec | None]:
    """Return every codec on offer for a tensor."""
    return [codec for choice in offer.choices for other, codec in choice if other == name]


def sure_payloads(spec: ModelSpec, menu: Sequence[Offer]) -> dict[str, int]:
    """Return, by tensor, bytes that the codes of the coarsest grid are sure not to exceed."""
    return {
        name: int(tensor_of(spec, name).elements * (_COARSE_BITS if _step(grid) >= _COARSE else 8) / 8) + _TABLES
        for name, grid in _coarsest_of(menu).items()
    }


def least_payloads(
    checkpoint: Checkpoint, spec: ModelSpec, menu: Sequence[Offer], progress: Progress = SILENT
) -> dict[str, int]:
    """Return, by tensor, the bytes of its codes on the coarsest grid, rounded without a calibration.

    Raises:
        UserError: if a tensor on offer is not finite.
    """
    wanted = _coarsest_of(menu)
    progress.start("weighing the smallest size", sum(tensor_of(spec, name).elements for name in wanted))

    def weigh(name: str) -> int:
        source = spec.ties.get(name, name)
        matrix = matrix_of(checkpoint, spec, source)
        require_finite(source, matrix)
        payload = wanted[name].fitted(wanted[name].base.encode(matrix, source), matrix.shape).payload
        progress.advance(tensor_of(spec, name).elements)
        assert payload is not None
        return payload

    found = dict(zip(wanted, map_threads(weigh, list(wanted)), strict=True))
    progress.finish()
    return found


def _coarsest_of(menu: Sequence[Offer]) -> dict[str, EntropyCodec]:
    found = {name: coarsest(offered(offer, name)) for offer in menu for name in offer.names()}
    return {name: codec for name, codec in found.items() if codec is not None}


def with_payloads(offer: Offer, payloads: Mapping[str, int]) -> list[Choice]:
    """Return the choices of an offer, grids that have not been coded yet at the bytes of the coarsest one."""

    def at_least(name: str, codec: Codec | None) -> Codec | None:
        if (
            not isinstance(codec, EntropyCodec)
            or not isinstance(codec.base, GridCodec)
            or codec.payload is not None
        ):
            return codec
        # One byte more, so that it is the coarsest that is the smallest.
        return replace(codec, payload=payloads[name] + (codec != coarsest(offered(offer, name))))

    return [tuple((name, at_least(name, codec)) for name, codec in choice) for choice in offer.choices]


__all__ = ["coarsest", "least_payloads", "offered", "sure_payloads", "with_payloads"]
