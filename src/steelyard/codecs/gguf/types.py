"""GGUF's element types as data: the bytes of every block, and the numbers that a block of each can hold.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; blocks of the types: ggml's `ggml-common.h`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BlockType:
    """One type of GGUF: `numbers` weights in a block of `codes`, `scales` and `minima` bytes."""

    name: str
    numbers: int
    codes: int
    scales: int = 0
    minima: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of one block."""
        return self.codes + self.scales + self.minima


# Where scales and minima share packed bytes (the 12 of Q4_K and Q5_K), half of them count for each.
TYPES: dict[int, BlockType] = {
    0: BlockType("F32", 1, 4),
    1: BlockType("F16", 1, 2),
    2: BlockType("Q4_0", 32, 16, 2),
    3: BlockType("Q4_1", 32, 16, 2, 2),
    6: BlockType("Q5_0", 32, 20, 2),
    7: BlockType("Q5_1", 32, 20, 2, 2),
    8: BlockType("Q8_0", 32, 32, 2),
    9: BlockType("Q8_1", 32, 32, 2, 2),
    10: BlockType("Q2_K", 256, 64, 10, 10),
    11: BlockType("Q3_K", 256, 96, 14),
    12: BlockType("Q4_K", 256, 128, 8, 8),
    13: BlockType("Q5_K", 256, 160, 8, 8),
    14: BlockType("Q6_K", 256, 192, 18),
    15: BlockType("Q8_K", 256, 256, 4, 32),
    16: BlockType("IQ2_XXS", 256, 64, 2),
    17: BlockType("IQ2_XS", 256, 64, 10),
    18: BlockType("IQ3_XXS", 256, 96, 2),
    19: BlockType("IQ1_S", 256, 48, 2),
    20: BlockType("IQ4_NL", 32, 16, 2),
    21: BlockType("IQ3_S", 256, 104, 6),
    22: BlockType("IQ2_S", 256, 72, 10),
    23: BlockType("IQ4_XS", 256, 128, 8),
    24: BlockType("I8", 1, 1),
    25: BlockType("I16", 1, 2),
    26: BlockType("I32", 1, 4),
    27: BlockType("I64", 1, 8),
    28: BlockType("F64", 1, 8),
    29: BlockType("IQ1_M", 256, 48, 8),
    30: BlockType("BF16", 1, 2),
    34: BlockType("TQ1_0", 256, 52, 2),
    35: BlockType("TQ2_0", 256, 64, 2),
    39: BlockType("MXFP4", 32, 16, 1),
}
NUMBERS: dict[str, int] = {kind.name: number for number, kind in TYPES.items()}
"""GGUF's number of each type."""


@dataclass(frozen=True, slots=True)
class Levels:
    """The numbers a type can hold: level * scale, less a minimum where there is one.

    Attributes:
        each: weights that share a scale.
        low: smallest level, what code 0 stands for.
        high: largest level.
        minimum: "" for none, "below" for one that is 0 or less, "any" for one of any sign.
        scale_low: smallest whole number that multiplies the block's float to make a scale; 0 where the float is it.
        scale_high: the largest; whole numbers from 0 to it multiply the second float to make the minima.
        table: the levels where they are not all whole numbers from low to high.
        power: the scale is a power of two.
    """

    each: int
    low: int
    high: int
    minimum: str = ""
    scale_low: int = 0
    scale_high: int = 0
    table: tuple[int, ...] = ()
    power: bool = False


_IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
_FP4 = (-12, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 12)

LEVELS: dict[str, Levels] = {
    "Q4_0": Levels(32, -8, 7),
    "Q4_1": Levels(32, 0, 15, "any"),
    "Q5_0": Levels(32, -16, 15),
    "Q5_1": Levels(32, 0, 31, "any"),
    "Q8_0": Levels(32, -127, 127),
    "Q2_K": Levels(16, 0, 3, "below", 0, 15),
    "Q3_K": Levels(16, -4, 3, "", -32, 31),
    "Q4_K": Levels(32, 0, 15, "below", 0, 63),
    "Q5_K": Levels(32, 0, 31, "below", 0, 63),
    "Q6_K": Levels(16, -32, 31, "", -128, 127),
    "IQ4_NL": Levels(32, -127, 113, table=_IQ4),
    "IQ4_XS": Levels(32, -127, 113, "", -32, 31, table=_IQ4),
    "TQ1_0": Levels(256, -1, 1),
    "TQ2_0": Levels(256, -1, 1),
    "MXFP4": Levels(32, -12, 12, table=_FP4, power=True),
}
"""The types that can be written."""
