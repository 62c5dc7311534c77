"""What the columns of a run table are: the quantities laws read, their units and the ways of counting them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from steelyard.errors import UserError


@dataclass(frozen=True)
class Quantity:
    """One kind of number.

    Attributes:
        name: how laws and `--map` call it.
        title: in words.
        units: units or conventions by name, with the factor to the first of the same dimension; 0 where a unit
            cannot be converted into another.
        aliases: names of columns that are taken for it, in small letters and digits.
        lowest: smallest value allowed.
        above: whether the lowest value itself is refused.
    """

    name: str
    title: str
    units: Mapping[str, float] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    lowest: float = 0.0
    above: bool = True


_LN2 = math.log(2.0)
_COUNTS = {"total": 0, "non-embedding": 0, "active": 0, "non-zero": 0, "with-head": 0}
_DATA = {"tokens": 0, "characters": 0, "bytes": 0, "examples": 0}
_PIECES = ("token", "byte", "char")

QUANTITIES = {
    quantity.name: quantity
    for quantity in (
        Quantity(
            "N",
            "parameters",
            _COUNTS,
            ("n", "params", "parameters", "nparams", "numparams", "modelsize", "paramsactiveprecise", "size"),
        ),
        Quantity(
            "D", "training data", _DATA, ("d", "tokens", "trainingtokens", "numtokens", "datasize", "ntokens")
        ),
        Quantity("U", "unique data", _DATA, ("u", "uniquetokens", "unique")),
        Quantity(
            "C",
            "training operations",
            {"6ND": 0, "measured": 0},
            ("c", "flops", "trainingflop", "trainingflops", "compute", "budget", "flops6nd"),
        ),
        Quantity(
            "loss",
            "loss",
            {f"{name}/{piece}": factor for piece in _PIECES for name, factor in (("nats", 1.0), ("bits", _LN2))},
            ("loss", "valloss", "finalloss", "evalloss", "validationloss", "lossvalidation", "lmloss", "testloss"),
        ),
        Quantity("M", "tokens per parameter", {}, ("m", "tokenmultiplier")),
        Quantity("batch", "batch", {"tokens": 0, "sequences": 0}, ("batch", "batchsize", "bs", "bsz", "globalbs")),
        Quantity("lr", "learning rate", {}, ("lr", "learningrate", "peaklr")),
        Quantity("steps", "optimizer steps", {}, ("step", "steps", "iterations", "ti", "globalstep")),
        Quantity("V", "vocabulary", {}, ("v", "vocab", "vocabsize", "vocabulary")),
        Quantity("d", "embedding width", {}, ("embeddim", "dmodel", "hiddensize")),
        Quantity("width", "width", {}, ("width",)),
        Quantity("depth", "layers", {}, ("depth", "layers", "numlayers", "numl")),
        Quantity("E", "experts", {}, ("e", "experts", "numexperts", "nume"), lowest=1.0, above=False),
        Quantity("G", "granularity of experts", {}, ("granularity",), lowest=1.0, above=False),
        Quantity("S", "sparsity", {}, ("sparsity",), above=False),
        Quantity("P", "parallel streams", {}, ("parallelsize", "streams"), lowest=1.0, above=False),
        Quantity("bits", "bits of weights", {}, ("bits", "weightbits")),
        Quantity("bits_activation", "bits of activations", {}, ("activationbits",)),
        Quantity("bits_cache", "bits of the key-value cache", {}, ("kvbits", "cachebits")),
        Quantity("S1", "area under the learning rate", {}, ("s1",)),
        Quantity("S2", "annealed area of the learning rate", {}, ("s2",), above=False),
        Quantity("teacher", "loss of the teacher", {}, ("teacherloss",)),
        Quantity("alone", "loss of the same model without a teacher", {}, ("aloneloss", "supervisedloss")),
        Quantity("rank", "words kept in the data", {}, ("rank", "cut", "vocabularykept")),
        Quantity("months", "months since some day", {}, ("months",), lowest=-math.inf),
        Quantity("density", "size of an equally good reference model over the size", {}, ("density",)),
        Quantity("knowledge", "bits of facts", {}, ("knowledge", "knowledgebits")),
        Quantity("D2", "data of the second training", _DATA, ("d2", "upcycledtokens", "finetunetokens")),
        Quantity("Nv", "parameters of the vocabulary", {}, ("vocabularyparameters", "nv")),
        Quantity("unigram_loss", "loss less that of unigrams", {}, ("lossu",), lowest=-math.inf),
        Quantity("degradation", "loss added by rounding", {}, ("degradation", "deltaloss")),
        Quantity("group", "weights that share a scale", {}, ("groupsize",), lowest=1.0, above=False),
        Quantity("error", "downstream error", {}, ("error", "err"), above=False),
        Quantity("score", "downstream score", {}, ("score", "accuracy", "acc"), lowest=-math.inf),
    )
}


def get(name: str) -> Quantity:
    """Return a quantity by name.

    Raises:
        UserError: if there is none.
    """
    if name not in QUANTITIES:
        raise UserError(f"--map: there is no quantity {name!r}; known: {', '.join(QUANTITIES)}")
    return QUANTITIES[name]


def unit_of(quantity: Quantity, word: str) -> str:
    """Return a unit of a quantity.

    Raises:
        UserError: naming the units that there are.
    """
    for unit in quantity.units:
        if unit.lower() == word.lower():
            return unit
    known = ", ".join(quantity.units) or "none"
    raise UserError(f"--map {quantity.name}: there is no unit {word!r} of {quantity.title}; known: {known}")


def factor(quantity: Quantity, unit: str, wanted: str) -> float:
    """Return what a number in one unit is multiplied by to be in another.

    Raises:
        UserError: if they count different things.
    """
    if unit == wanted:
        return 1.0
    first, second = quantity.units[unit], quantity.units[wanted]
    if not first or not second or unit.partition("/")[2] != wanted.partition("/")[2]:
        raise UserError(
            f"{quantity.name} in {unit} cannot be turned into {wanted} without the model or its tokenizer; "
            "fit and predict in one of them"
        )
    return first / second


_SUFFIXES = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}
_NUMBER = re.compile(
    r"\s*([-+]?(?:\d[\d_,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|[-+]?(?:nan|inf(?:inity)?))\s*([kKmMbBgGtT]?)\s*"
)


def number(text: str) -> float | None:
    """Return the number in a cell: "1.3B", "2e9", "1,024"; nan where it is empty, None where it is words."""
    if not text.strip():
        return math.nan
    match = _NUMBER.fullmatch(text.strip() if text.strip()[:1] not in "NI" else text.strip().lower())
    if match is None:
        return None
    return float(match[1].replace("_", "").replace(",", "")) * _SUFFIXES[match[2].lower()]


def plain(name: str) -> str:
    """Return a column's name in small letters and digits, for comparing."""
    return re.sub(r"[^a-z0-9]", "", name.lower())
