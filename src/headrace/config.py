"""Options are declared once: a frozen dataclass whose fields say default, meaning and bounds.

The command line, the environment (`HEADRACE_<NAME>`) and the settings page are made from these declarations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from headrace.errors import InvalidOption

PREFIX = "HEADRACE_"


def option(
    default: Any,
    meaning: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[str] | None = None,
    read: Callable[[Any], str] | None = None,
) -> Any:
    """A field of an options class. `low`, `high`: the bounds; `choices`: the only values. A default of None passes.
    `read`: makes one of the choices of what people call it; raises InvalidOption."""
    return dataclasses.field(
        default=default, metadata={"meaning": meaning, "low": low, "high": high, "choices": choices, "read": read}
    )


@dataclasses.dataclass(frozen=True)
class Declared:
    """One option, as the command line and the settings page need it."""

    name: str
    type: str
    default: Any
    meaning: str
    low: float | None
    high: float | None
    choices: tuple[str, ...] | None
    read: Callable[[Any], str] | None = None

    @property
    def bounds(self) -> str:
        """What values it can have, in sentences; empty where it does not matter."""
        said = []
        if self.low is not None:
            said.append(f"At least {self.low:g}.")
        if self.high is not None:
            said.append(f"At most {self.high:g}.")
        if self.choices:
            said.append(f"One of: {', '.join(self.choices)}.")
        return " ".join(said)

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return PREFIX + self.name.upper()


def declared(options: type[Any]) -> Iterator[Declared]:
    """The options an options class declares, in order."""
    for field in dataclasses.fields(options):
        meta = field.metadata
        choices = tuple(meta["choices"]) if meta["choices"] else None
        bounds = (meta["low"], meta["high"], choices)
        yield Declared(field.name, str(field.type), field.default, meta["meaning"], *bounds, meta["read"])


class Checked:
    """Base of options classes: a value that is out of bounds stops the construction, with the option's name."""

    def __post_init__(self) -> None:
        for one in declared(type(self)):
            value = getattr(self, one.name)
            if value is None and one.default is None:
                continue
            if one.read is not None:
                try:
                    value = one.read(value)
                except InvalidOption as error:
                    raise InvalidOption(f"{one.flag}: {error}") from error
                object.__setattr__(self, one.name, value)  # it is frozen from now on
            if one.choices is not None and value not in one.choices:
                raise InvalidOption(f"{one.flag} is one of {', '.join(one.choices)}, not {value!r}")
            if one.low is not None and not value >= one.low:
                raise InvalidOption(f"{one.flag} is at least {one.low:g}, not {value!r}")
            if one.high is not None and not value <= one.high:
                raise InvalidOption(f"{one.flag} is at most {one.high:g}, not {value!r}")


def settings_page(title: str, options: type[Any]) -> str:
    """The Markdown table of an options class."""
    rows = [f"# {title}", "", "| flag | environment | default | meaning |", "|---|---|---|---|"]
    for one in declared(options):
        default = "off" if one.default is False else "none" if one.default in (None, ()) else f"`{one.default}`"
        rows.append(f"| `{one.flag}` | `{one.variable}` | {default} | {f'{one.meaning}. {one.bounds}'.strip()} |")
    return "\n".join(rows) + "\n"
