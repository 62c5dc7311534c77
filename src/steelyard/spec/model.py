"""A model: a spec of what its tensors are, from its config and the names and shapes in its files."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from steelyard.errors import UserError
from steelyard.spec.architecture import Architecture, class_name, task_of
from steelyard.spec.conventions import may_be_encoded
from steelyard.spec.kept import kept_elements
from steelyard.spec.known import read_known
from steelyard.spec.ledger import Ledger, make_ledger
from steelyard.spec.reading import Shapes
from steelyard.spec.registry import architectures, find_architecture
from steelyard.spec.tensor import BUFFER, ROUTER, FusedGroup, Task, TensorSpec
from steelyard.spec.unknown import read_unknown

_DTYPES = {
    "bfloat16": "BF16",
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
}


def _element_type(config: Mapping[str, Any], dtype: str | None) -> str:
    """Return the safetensors type asked for, or that of a config that names one; F32 if neither does."""
    if dtype is not None:
        if dtype.upper() not in _DTYPES.values():
            raise UserError(f"dtype must be one of {', '.join(_DTYPES.values())}, got {dtype!r}")
        return dtype.upper()
    named = config.get("dtype") or config.get("torch_dtype")
    if named is None:
        return "F32"
    name = str(named).removeprefix("torch.")
    if name not in _DTYPES:
        raise UserError(f"config.json: dtype must be one of {', '.join(_DTYPES)}, got {named!r}")
    return _DTYPES[name]


@dataclass(frozen=True)
class ModelSpec:
    """What a checkpoint holds and how its parts belong together.

    Attributes:
        model_type: as the config says, "" if it does not.
        architecture: the table that describes it; None if there is none.
        config: as read from config.json.
        tensors: every stored tensor by name, in the order given; tied ones once.
        ties: names that are another tensor by the config's declaration, and that tensor's name.
        stored_aliases: those of them that the files hold all the same. They are left out of `tensors`: whoever
            can read should check that their values are equal, and if not build again with `untied`.
        groups: linears that must share one codec.
        n_layers: number of blocks.
        block_prefixes: what the names of each block start with.
        task: what the model is for.
        notes: everything that was guessed or found odd, one sentence each.
        input_keys: see `input_key`.
    """

    model_type: str
    architecture: Architecture | None
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorSpec]
    ties: Mapping[str, str]
    stored_aliases: tuple[str, ...]
    groups: tuple[FusedGroup, ...]
    n_layers: int
    block_prefixes: tuple[str, ...]
    task: Task
    notes: tuple[str, ...]
    input_keys: Mapping[str, str] = field(repr=False)

    @classmethod
    def build(cls, config: Mapping[str, Any], shapes: Shapes, untied: Collection[str] = ()) -> ModelSpec:
        """Return the spec of a checkpoint.

        Args:
            config: as read from config.json; {} if there is none.
            shapes: shape and safetensors element type of every stored tensor.
            untied: aliases whose values were found to differ from the tensor the config ties them to. They are
                kept as tensors of their own, as transformers keeps them.

        Raises:
            UserError: if a shape is at odds with the config or a tensor that the config asks for is missing.
        """
        architecture = find_architecture(config)
        if architecture is None:
            reading = read_unknown(config, shapes)
            task = task_of(class_name(config))
        else:
            reading = read_known(architecture, config, shapes, untied)
            task = task_of(architecture.class_of(config))
        return cls(
            model_type=str(config.get("model_type") or ""),
            architecture=architecture,
            config=config,
            tensors=reading.tensors,
            ties=reading.ties,
            stored_aliases=reading.stored_aliases,
            groups=reading.groups,
            n_layers=reading.n_layers,
            block_prefixes=reading.block_prefixes,
            task=task,
            notes=reading.notes,
            input_keys=reading.input_keys,
        )

    @classmethod
    def from_config(cls, config: Mapping[str, Any], dtype: str | None = None) -> ModelSpec:
        """Return the spec of the model a config describes, without any weights.

        Args:
            config: as read from config.json; change it and call again to weigh another model.
            dtype: element type of every tensor, such as "BF16"; that of the config if absent, F32 if it has none.

        Raises:
            UserError: if no table describes the architecture, or the config gives an axis no usable length.
        """
        architecture = find_architecture(config)
        if architecture is None:
            known = ", ".join(architectures())
            raise UserError(
                f"no table describes architecture {config.get('model_type')!r} (there are tables for {known}), so "
                "its shapes follow from weights alone; give a folder that holds some"
            )
        element = _element_type(config, dtype)
        shapes = {name: (shape, element) for name, shape in architecture.expected_shapes(config).items()}
        return cls.build(config, shapes)

    def quantizable(self) -> tuple[str, ...]:
        """Return the names of the matrices that methods may encode.

        These are linear maps, token embeddings and heads, not norms, not embeddings of positions or types and not
        routers of experts.
        Without a table: every matrix with both sides of at least 16 whose name says it is a weight.
        """
        if self.architecture is None:
            return tuple(name for name, tensor in self.tensors.items() if may_be_encoded(tensor))
        return tuple(
            name
            for name, tensor in self.tensors.items()
            if tensor.role is not None
            and ((tensor.kind == "linear" and not tensor.role.startswith(ROUTER)) or tensor.role == "embed.token")
            and tensor.is_plain_float
        )

    def buffers(self) -> tuple[str, ...]:
        """Return the names of stored tensors that the model computes by itself and ignores when loaded."""
        return tuple(name for name, tensor in self.tensors.items() if tensor.role == BUFFER)

    def input_key(self, name: str) -> str:
        """Return the module whose input a linear reads: one name for all that read the same input.

        Args:
            name: of a tensor or of a tied alias; a tied head reads another input than the embedding does.

        Raises:
            KeyError: if the model has no such tensor.
        """
        return self.input_keys[name]

    def kv_cache_bytes(self, context: int, batch: int, bytes_per_element: int = 2) -> int:
        """Return the bytes of all that is kept of a full context; 0 for models that do not generate.

        Multi-head latent attention is taken to keep its latents; `weigh.cache` tells its other forms.

        Args:
            context: tokens of each sequence.
            batch: sequences.
            bytes_per_element: of the cache.

        Raises:
            UserError: if no table describes the architecture.
        """
        architecture = self.require_axes("the size of the key-value cache")
        if not self.generates:
            return 0
        kept = kept_elements(architecture, self.config, context)
        return batch * sum(part.elements for part in kept) * bytes_per_element

    @property
    def generates(self) -> bool:
        """Whether it writes text token by token, so that it keeps a cache."""
        owner = class_name(self.config) if self.architecture is None else self.architecture.class_of(self.config)
        return self.task == "causal" or owner.endswith("ForConditionalGeneration")

    def ledger(self) -> Ledger:
        """Return where parameters and bytes are, by role and by layer, in the order of the table."""
        rules = () if self.architecture is None else self.architecture.rules
        return make_ledger(self.tensors.values(), [rule.role for rule in rules])

    def parameter_count(self) -> int:
        """Return the number of parameters, tied ones once, buffers left out."""
        return self.ledger().total.parameters

    def require_axes(self, method: str) -> Architecture:
        """Return the architecture's table.

        Args:
            method: what needs it, for the error.

        Raises:
            UserError: if there is none.
        """
        if self.architecture is None:
            known = ", ".join(architectures())
            raise UserError(
                f"{method} needs the named axes of architecture {self.model_type!r}, which has no table (there are "
                f"tables for {known}); write spec/architectures/{self.model_type or 'NAME'}.py, as CONTRIBUTING.md "
                "shows under 'Add an architecture'"
            )
        return self.architecture
