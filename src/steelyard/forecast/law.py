"""What a law is: a form with its analytic gradient, where its fit starts, and what was published about it.

A law is one file under `laws/` with one decorated function `(parameters, columns) -> (loss, derivatives)`. It works
on a whole batch of fits at once: each parameter is an array of shape [fits, 1], each column one of shape [rows],
the loss and each derivative one that broadcasts to [fits, rows].

Fits do not work on the published constants but on coordinates that are independent of each other near the data: the
logarithm of a whole term at the centre of the rows instead of its prefactor. That alone takes the condition number
of a Chinchilla fit from millions to thousands. `Parameter` says which constant belongs to which exponent, and
`Law.coordinates` and `Law.constants` go from one to the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from steelyard.errors import UserError

Array = npt.NDArray[Any]
Form = Callable[[Any, Any], tuple[Array, Sequence[Array]]]
Scale = Literal["log", "ln", "raw"]
"""How a form sees a column: as centred natural logarithms, as plain ones, or as it is."""


@dataclass(frozen=True)
class Parameter:
    """One constant of a law.

    Attributes:
        name: as published.
        low: start of the box that fits begin in, in coordinates.
        high: its end.
        positive: the coordinate is the logarithm of the constant.
        along: (exponent, column) pairs: the constant multiplies column ** -exponent. A "-" before the exponent's
            name says that it multiplies column ** exponent; the exponent may also be a number.
        linear: the loss is linear in the coordinate's exponential (or in the coordinate itself where the constant
            may be negative), so that starts can be solved for it.
        root: the name of an exponent that the constant is under: (constant / column) ** root.
    """

    name: str
    low: float
    high: float
    positive: bool = False
    along: tuple[tuple[str | float, str], ...] = ()
    linear: bool = False
    root: str = ""


def exponent(name: str, low: float = 0.05, high: float = 1.0) -> Parameter:
    """Return a parameter that is its own coordinate."""
    return Parameter(name, low, high)


def scale(name: str, *along: tuple[str | float, str], low: float = -3.0, high: float = 2.0) -> Parameter:
    """Return the positive prefactor of a term that the loss adds; the box holds the term's size at the centre."""
    return Parameter(name, low, high, positive=True, along=along, linear=True)


def origin(name: str, column: str, root: str, low: float = -3.0, high: float = 2.0) -> Parameter:
    """Return the constant of a term (constant / column) ** root; the box holds the term's size at the centre."""
    return Parameter(name, low, high, positive=True, along=((1.0, column),), linear=True, root=root)


def signed(name: str, *along: tuple[str | float, str], low: float = -1.0, high: float = 1.0) -> Parameter:
    """Return the prefactor of a term that may be negative; the box holds the term's size at the centre."""
    return Parameter(name, low, high, along=along, linear=True)


def inner(name: str, *along: tuple[str | float, str], low: float = -3.0, high: float = 3.0) -> Parameter:
    """Return a positive constant that the loss is not linear in."""
    return Parameter(name, low, high, positive=True, along=along)


@dataclass(frozen=True)
class Published:
    """Constants somebody published for a law.

    Attributes:
        label: what they were fitted to.
        constants: at full precision where it is known.
        source: paper, table or notebook.
        units: what one unit of a column is in the published formula, where it is not 1.
        ranges: where the authors fitted, by column.
        loss_unit: unit of the loss.
        note: what to know before using them.
    """

    label: str
    constants: Mapping[str, float]
    source: str
    units: Mapping[str, float] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    loss_unit: str = "nats/token"
    note: str = ""


@dataclass(frozen=True)
class Law:
    """A form of loss, see the head of this file.

    Attributes:
        name: how it is called.
        formula: in plain text.
        paper: authors, year, identifier and equation.
        columns: what it reads and how.
        parameters: in the order of the derivatives.
        form: loss and derivatives with respect to the coordinates.
        published: constants to compare with.
        data: folder of public runs that tests it.
        target: the column it predicts.
        logarithmic: compared with the data by its logarithm, as losses are.
        references: where a column read as it is has its centre, for coordinates; known to the form.
    """

    name: str
    formula: str
    paper: str
    columns: Mapping[str, Scale]
    parameters: tuple[Parameter, ...]
    form: Form
    published: tuple[Published, ...] = ()
    data: str = ""
    target: str = "loss"
    logarithmic: bool = True
    references: Mapping[str, float] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the parameters."""
        return tuple(parameter.name for parameter in self.parameters)

    def index(self, name: str) -> int:
        """Return the place of a parameter.

        Raises:
            UserError: if the law has none of that name.
        """
        if name not in self.names:
            raise UserError(f"law {self.name} has no parameter {name!r}; it has {', '.join(self.names)}")
        return self.names.index(name)

    def positive(self, name: str) -> bool:
        """Return whether a parameter's coordinate is a logarithm."""
        return self.parameters[self.index(name)].positive

    def evaluate(self, coordinates: Array, columns: Any) -> tuple[Array, Sequence[Array]]:
        """Return losses and derivatives for coordinates [fits, parameters]."""
        values = SimpleNamespace(**{p.name: coordinates[:, i, None] for i, p in enumerate(self.parameters)})
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            return self.form(values, columns)

    def coordinates(
        self, constants: Mapping[str, float], centres: Mapping[str, float], units: Mapping[str, float] | None = None
    ) -> Array:
        """Return the coordinates of constants.

        Args:
            constants: as published.
            centres: mean logarithm of every centred column.
            units: of the columns in the published formula.

        Raises:
            UserError: if a constant is missing or not positive where it has to be.
        """
        missing = [name for name in self.names if name not in constants]
        if missing:
            raise UserError(f"law {self.name}: no value for {', '.join(missing)}")
        found = np.empty(len(self.parameters))
        for place, parameter in enumerate(self.parameters):
            value, shift = float(constants[parameter.name]), _shift(parameter, constants, centres, units or {})
            power = float(constants[parameter.root]) if parameter.root else 1.0
            if not parameter.positive:
                found[place] = value * np.exp(shift)
            elif value > 0:
                found[place] = power * (np.log(value) + shift)
            elif value == 0:
                found[place] = NOTHING
            else:
                raise UserError(f"law {self.name}: {parameter.name} must be above zero, not {value:g}")
        return found

    def constants(
        self, coordinates: Array, centres: Mapping[str, float], units: Mapping[str, float] | None = None
    ) -> dict[str, Any]:
        """Return the constants of coordinates [..., parameters]; the inverse of `coordinates`."""
        found: dict[str, Any] = {}
        for place, parameter in enumerate(self.parameters):
            if not parameter.along:
                value = coordinates[..., place]
                found[parameter.name] = np.exp(value) if parameter.positive else value
        for place, parameter in enumerate(self.parameters):
            if parameter.along:
                value, shift = coordinates[..., place], _shift(parameter, found, centres, units or {})
                with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
                    if parameter.root:
                        value = value / found[parameter.root]
                    found[parameter.name] = np.exp(value - shift) if parameter.positive else value * np.exp(-shift)
        return {name: found[name] for name in self.names}


NOTHING = -40.0
"""The coordinate of a positive constant that is zero."""


def law(
    *,
    name: str,
    formula: str,
    paper: str,
    columns: Mapping[str, Scale],
    parameters: Sequence[Parameter],
    published: Sequence[Published] = (),
    data: str = "",
    target: str = "loss",
    logarithmic: bool = True,
    references: Mapping[str, float] | None = None,
) -> Callable[[Form], Law]:
    """Return the decorator that makes a law of a form; arguments as in `Law`."""

    def make(form: Form) -> Law:
        return Law(
            name,
            formula,
            paper,
            columns,
            tuple(parameters),
            form,
            tuple(published),
            data,
            target,
            logarithmic,
            references or {},
        )

    return make


def _shift(
    parameter: Parameter, constants: Mapping[str, Any], centres: Mapping[str, float], units: Mapping[str, float]
) -> Any:
    """Logarithm of the product of column ** -exponent at the centre of the rows."""
    total: Any = 0.0
    for named, column in parameter.along:
        sign = 1.0
        if isinstance(named, str) and named.startswith("-"):
            sign, named = -1.0, named[1:]
        value = constants[named] if isinstance(named, str) else named
        total = total - sign * value * (centres[column] - np.log(units.get(column, 1.0)))
    return total
