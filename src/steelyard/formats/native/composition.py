"""Two models in one folder, joined by maps between their blocks: what the config says of it. No torch here.

A composition of kind `stitch` runs the first blocks of one model, a linear map, and the last blocks of the other;
the folder holds many such ways, and which is run can be changed at any time. One of kind `bridge` runs both models
side by side and lets the first attend to what the second makes of the same tokens.

Embeddings, last norms and heads keep their names under `first.` and `second.`. Everything that is run in between is
one list, `layers.N.`, in the order it is run: blocks of both models, and what joins them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from steelyard.errors import UserError

MODEL_TYPE = "steelyard_composed"
CLASS_NAME = "SteelyardComposedForCausalLM"
VERSION = 1

Kind = Literal["stitch", "bridge"]
Side = Literal["first", "second"]
LayerKind = Literal["first", "second", "stitch", "bridge"]
Joint = tuple[int, int]
"""So many blocks of the first model and so many of the second: after these they are joined."""

FAMILIES = ("llama",)
"""Model types that can be composed."""

PARENTS: tuple[Side, Side] = ("first", "second")
BRIDGE_PARTS = ("project", "query", "key", "value", "out")


@dataclass(frozen=True)
class Layer:
    """One entry of the list that is run.

    Attributes:
        kind: a block of a model, or what joins them.
        number: of the block in its model, or of the joint.
    """

    kind: LayerKind
    number: int

    def __str__(self) -> str:
        return f"{self.kind}.{self.number}"


@dataclass(frozen=True)
class Way:
    """One way through a stitched folder.

    Attributes:
        name: "first" and "second" for a parent alone, "2:3" for a stitch.
        flops: operations for each token of a prompt of `tokens` tokens.
        loss: nats per token on the text it was measured on, None if it was not.
    """

    name: str
    flops: int
    loss: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"at": self.name, "flops": self.flops, "loss": self.loss}


def joint_name(joint: Joint) -> str:
    """Return how a joint is written: "2:3"."""
    return f"{joint[0]}:{joint[1]}"


def parse_joint(text: str) -> Joint:
    """Return a joint from how it is written.

    Raises:
        UserError: if it is not two numbers and a colon.
    """
    first, colon, second = text.strip().partition(":")
    if not colon or not first.isdigit() or not second.isdigit():
        raise UserError(
            f"{text!r} is no joint; write blocks of the first model, a colon, blocks of the second: 2:3"
        )
    return int(first), int(second)


@dataclass(frozen=True)
class Composition:
    """What a folder is composed of.

    Attributes:
        kind: stitch or bridge.
        configs: config.json of the first and the second model.
        origins: of both, their location and identity.
        joints: where they are joined, in the order of their numbers.
        heads: of attention in a bridge.
        ways: of a stitch, what can be run; empty for a bridge.
        way: which of them is run.
        tokens: length of the prompt that operations are counted for.
    """

    kind: Kind
    configs: tuple[Mapping[str, Any], Mapping[str, Any]]
    origins: tuple[Mapping[str, str], Mapping[str, str]]
    joints: tuple[Joint, ...]
    heads: int = 1
    ways: tuple[Way, ...] = ()
    way: str = ""
    tokens: int = field(default=256)

    @property
    def depths(self) -> tuple[int, int]:
        """Blocks of each model."""
        first, second = (int(config["num_hidden_layers"]) for config in self.configs)
        return first, second

    @property
    def widths(self) -> tuple[int, int]:
        """Channels of each model's residual stream."""
        first, second = (int(config["hidden_size"]) for config in self.configs)
        return first, second

    @property
    def layers(self) -> tuple[Layer, ...]:
        """What is run, in order; of a stitch only some of it at a time."""
        if self.kind == "stitch":
            joins = [Layer("stitch", number) for number in range(len(self.joints))]
            first, second = self.depths
            return (
                *(Layer("first", block) for block in range(first)),
                *joins,
                *(Layer("second", block) for block in range(second)),
            )
        found: list[Layer] = []
        done = [0, 0]
        for number, joint in enumerate(self.joints):
            for side in (1, 0):
                found += [Layer(PARENTS[side], block) for block in range(done[side], joint[side])]
                done[side] = max(done[side], joint[side])
            found.append(Layer("bridge", number))
        return (*found, *(Layer("first", block) for block in range(done[0], self.depths[0])))

    def running(self, way: str) -> tuple[bool, ...]:
        """Tell of every layer whether a way runs it.

        Raises:
            UserError: if there is no such way.
        """
        if self.kind == "bridge":
            return (True,) * len(self.layers)
        if way in PARENTS:
            return tuple(layer.kind == way for layer in self.layers)
        joint = parse_joint(way)
        if joint not in self.joints:
            known = ", ".join([*PARENTS, *map(joint_name, self.joints)])
            raise UserError(f"there is no way {way!r} through this model; it has {known}")
        number = self.joints.index(joint)
        runs: dict[str, Callable[[int], bool]] = {
            "first": lambda block: block < joint[0],
            "stitch": lambda other: other == number,
            "second": lambda block: block >= joint[1],
        }
        return tuple(runs[layer.kind](layer.number) for layer in self.layers)

    def within(self, flops: float) -> str:
        """Return the way of least measured loss that takes at most so many operations a token.

        Raises:
            UserError: if all take more, or none was measured.
        """
        cheap = [way for way in self.ways if way.flops <= flops]
        if not cheap:
            least = min((way.flops for way in self.ways), default=0)
            raise UserError(f"no way takes at most {flops:,.0f} operations a token; the cheapest takes {least:,}")
        measured = [(way.loss, way.flops, way.name) for way in cheap if way.loss is not None]
        if not measured:
            raise UserError("the ways of this model were never measured; name one instead")
        return min(measured)[2]

    def tied(self, side: int) -> bool:
        """Tell whether a model's head is its embeddings."""
        return bool(self.configs[side].get("tie_word_embeddings", False))

    def blocks_of(self, side: int) -> int:
        """Return how many of a model's blocks there are: all, but for what no bridge of the second needs."""
        return max((n.number + 1 for n in self.layers if n.kind == PARENTS[side]), default=0)

    def has_head(self, side: int) -> bool:
        """Tell whether a model's last norm and head are there: all but those of a bridge's second model."""
        return self.kind == "stitch" or side == 0

    def added(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield name and shape of every tensor that no parent has."""
        first, second = self.widths
        for place, layer in enumerate(self.layers):
            if layer.kind == "stitch":
                yield f"layers.{place}.weight", (second, first)
                yield f"layers.{place}.bias", (second,)
            elif layer.kind == "bridge":
                yield f"layers.{place}.project.weight", (first, second)
                yield f"layers.{place}.project.bias", (first,)
                for part in BRIDGE_PARTS[1:]:
                    yield f"layers.{place}.{part}.weight", (first, first)

    def place(self, kind: LayerKind, number: int) -> int:
        """Return where in the list a block or a joint is run."""
        return self.layers.index(Layer(kind, number))

    def config(self) -> dict[str, Any]:
        """Return the content of config.json."""
        last = self.configs[0 if self.kind == "bridge" else 1]
        limits = [int(config.get("max_position_embeddings", 0)) for config in self.configs]
        found: dict[str, Any] = {
            "architectures": [CLASS_NAME],
            "model_type": MODEL_TYPE,
            "vocab_size": int(last["vocab_size"]),
            "hidden_size": int(last["hidden_size"]),
            "num_hidden_layers": len(self.layers),
            "tie_word_embeddings": any(self.tied(side) for side in (0, 1)),
        }
        if all(limits):
            found["max_position_embeddings"] = min(limits)
        for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
            if key in last:
                found[key] = last[key]
        found["composition"] = {
            "version": VERSION,
            "kind": self.kind,
            **{
                side: {**origin, "config": dict(config)}
                for side, origin, config in zip(PARENTS, self.origins, self.configs, strict=True)
            },
            "joints": [joint_name(joint) for joint in self.joints],
            "heads": self.heads,
            "ways": [way.to_dict() for way in self.ways],
            "way": self.way,
            "tokens": self.tokens,
        }
        return found

    @classmethod
    def from_dict(cls, data: Any) -> Composition:
        """Return what `config` put under `composition`.

        Raises:
            UserError: if it is damaged, or written by a later program.
        """
        try:
            if data["version"] != VERSION:
                raise UserError(
                    f"version {data['version']!r} of composed models; this program reads version {VERSION}, update "
                    "steelyard"
                )
            sides = [dict(data[side]) for side in PARENTS]
            configs = [side.pop("config") for side in sides]
            return cls(
                kind=data["kind"],
                configs=(configs[0], configs[1]),
                origins=(sides[0], sides[1]),
                joints=tuple(parse_joint(joint) for joint in data["joints"]),
                heads=int(data["heads"]),
                ways=tuple(Way(way["at"], int(way["flops"]), way["loss"]) for way in data["ways"]),
                way=str(data["way"]),
                tokens=int(data["tokens"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise UserError(f"config.json has no sound composition ({reason}); make the folder again") from None

    def switched(self, way: str) -> Composition:
        """Return the same with another way to run.

        Raises:
            UserError: if there is no such way.
        """
        self.running(way)
        return replace(self, way=way)


def bridges_in_order(joints: Sequence[Joint]) -> tuple[Joint, ...]:
    """Return bridges in the order they are run.

    Raises:
        UserError: if two leave from one block, or cross.
    """
    found = tuple(sorted(joints))
    for (anchor, augment), (later, other) in itertools.pairwise(found):
        if anchor == later:
            raise UserError(f"two bridges after block {anchor} of the anchor; one is enough, leave one out")
        if other < augment:
            raise UserError(
                f"the bridges {anchor}:{augment} and {later}:{other} cross; a later block of the anchor attends "
                "to a later or the same block of the other"
            )
    return found
