"""The ways of training on offer: each is one file beside this one with one decorated function.

A tuner is a function `(start, options) -> Trainable`. It turns the stored codes of one matrix into something that
a gradient can change and that can be stored again under the same codec, in the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pydantic import BaseModel

from steelyard.codecs import Codec
from steelyard.edits.catalogue import Catalogue, Function, Registered
from steelyard.validation import assignments


@dataclass(frozen=True)
class Tuner(Registered):
    """One registered way of training, `(start, options) -> Trainable`.

    Attributes:
        codecs: the codec classes whose tensors it can train.
    """

    codecs: tuple[type[Codec], ...]

    def takes(self, codec: Codec | None) -> bool:
        """Tell whether tensors of a codec can be trained this way."""
        return isinstance(codec, self.codecs)

    def settings(self, words: tuple[str, ...]) -> BaseModel:
        """Return validated options from texts such as "rank=8".

        Raises:
            UserError: naming the option, what was given, and what is accepted.
        """
        return self.build(assignments(words, self.name, self.options))


_CATALOGUE: Catalogue[Tuner] = Catalogue("steelyard.edits.tune", "way of training")


def tuner(
    *, name: str, summary: str, paper: str, options: type[BaseModel], codecs: tuple[type[Codec], ...]
) -> Callable[[Function], Function]:
    """Return the decorator that registers a function as a way of training; arguments as in `Tuner`."""
    return _CATALOGUE.register(lambda function: Tuner(name, summary, paper, options, function, codecs))


def tuners() -> Mapping[str, Tuner]:
    """Return every way of training by name; none of their modules imports torch before it works."""
    return _CATALOGUE.entries


def get(name: str) -> Tuner:
    """Return a way of training by name.

    Raises:
        UserError: if there is none, with the nearest name and all names.
    """
    return _CATALOGUE.get(name)
