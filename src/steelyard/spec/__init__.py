"""What a model is: roles, named axes, ties and fused groups, from names, shapes and config alone.

Nothing here reads a file or imports torch. `ModelSpec.build` takes a config and the shapes of a checkpoint and
matches them with the table of the architecture, one file each in `steelyard.spec.architectures`. The package is
also the function `steelyard.spec(config)`.
"""

from steelyard.packages import make_verb
from steelyard.spec.architecture import Architecture
from steelyard.spec.cache import KeyValueCache, State
from steelyard.spec.compute import Attention, Work
from steelyard.spec.ledger import Ledger, LedgerRow
from steelyard.spec.model import ModelSpec
from steelyard.spec.registry import architectures, find_architecture
from steelyard.spec.rules import Rule, Shape, Shared, bias, buffer, embedding, linear, norm, rules
from steelyard.spec.settings import Settings
from steelyard.spec.tensor import FusedGroup, Kind, Task, TensorSpec, element_bits

__all__ = [
    "Architecture",
    "Attention",
    "FusedGroup",
    "KeyValueCache",
    "Kind",
    "Ledger",
    "LedgerRow",
    "ModelSpec",
    "Rule",
    "Settings",
    "Shape",
    "Shared",
    "State",
    "Task",
    "TensorSpec",
    "Work",
    "architectures",
    "bias",
    "buffer",
    "element_bits",
    "embedding",
    "find_architecture",
    "linear",
    "norm",
    "rules",
]

make_verb(__name__)
