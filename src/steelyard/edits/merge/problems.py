"""Everything that stands in the way of a merge, told at once."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from steelyard.errors import UserError

# A merge of other architectures would name every tensor; the first few of a kind tell the story.
_SHOWN = 12


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        what: in words.
        way_out: what to do about it.
        tensor: name of the tensor it is about; "" if it is about none.
    """

    what: str
    way_out: str
    tensor: str = ""

    def __str__(self) -> str:
        return f"{self.tensor + ': ' if self.tensor else ''}{self.what}; {self.way_out}"


class PreflightError(UserError):
    """A merge that cannot be begun.

    Attributes:
        problems: all that is wrong.
    """

    def __init__(self, where: str, problems: tuple[Problem, ...]) -> None:
        self.problems = problems
        count = len(problems)
        if count == 1:
            super().__init__(f"{where}: {problems[0]}")
            return
        lines = [f"  - {problem}" for problem in problems[:_SHOWN]]
        if count > _SHOWN:
            lines.append(f"  - and {count - _SHOWN} more; --json lists them all")
        super().__init__("\n".join([f"{where}: {count} problems, nothing was written", *lines]))

    def to_dict(self) -> dict[str, object]:
        """Plain data."""
        return {"problems": [asdict(problem) for problem in self.problems]}


class Problems:
    """Collects problems, each once."""

    def __init__(self) -> None:
        self._found: dict[Problem, None] = {}

    def add(self, what: str, way_out: str, tensor: str = "") -> None:
        """Note a problem."""
        self._found[Problem(what, way_out, tensor)] = None

    def raise_any(self, where: str) -> None:
        """Raise if there are any.

        Raises:
            PreflightError: with all of them.
        """
        if self._found:
            raise PreflightError(where, tuple(self._found))

    def __bool__(self) -> bool:
        return bool(self._found)
