"""What can be changed of a model while it serves: how it is said, checked, and told of. Pure.

Rule 1: it is strict: a name that is not known, a value of another type, one thing said twice under two names are
        refused with what was expected. What is changed live must not be changed by a slip.
Rule 2: what is not said stays as it is. `null` takes back what was set, where a setting may be not set.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from headrace.errors import InvalidInput

MOST_SECONDS = 1_000_000.0
MOST_COUNT = 2**31 - 1
LEAST_TIMEOUT = 1e-3
"""Seconds of a `response_timeout`."""


@dataclass(frozen=True)
class Settings:
    """None: as it is. Seconds, and counts. `reset`: what is to be as if it had never been set, by its name here."""

    max_batch_size: int | None = None
    max_batch_delay: float | None = None
    queue: int | None = None
    """Requests the model may have inside."""
    response_timeout: float | None = None
    priority_levels: int | None = None
    default_priority_level: int | None = None
    min_workers: int | None = None
    max_workers: int | None = None
    reset: frozenset[str] = frozenset()

    @property
    def _values(self) -> dict[str, Any]:
        there = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "reset"}
        return {name: value for name, value in there.items() if value is not None}

    @property
    def of_options(self) -> dict[str, Any]:
        """Those that are options of the model and get a value, by their names there."""
        return {name: value for name, value in self._values.items() if not name.endswith("_workers")}

    @property
    def asked(self) -> str:
        """For the log: what was said, where nothing came of it."""
        said = [f"{_SAID_OF[name]} {_shown(_in_unit(name, value))}" for name, value in self._values.items()]
        return ", ".join([*said, *(f"{_SAID_OF[name]} not set" for name in sorted(self.reset))])

    def says(self, name: str) -> bool:
        """Whether it is to have another value, or none."""
        return getattr(self, name) is not None or name in self.reset

    @property
    def scales(self) -> bool:
        return self.min_workers is not None or self.max_workers is not None


@dataclass(frozen=True)
class Setting:
    """How one is said. `low`: the least; `scale`: seconds in its unit, where it is a time. `may_be_null`: then it is as
    if it had never been set."""

    name: str
    """In `Settings`."""
    low: int
    unit: str
    scale: float | None = None
    high: float = MOST_COUNT
    may_be_null: bool = False


SAID: dict[str, Setting] = {
    "batch_size": Setting("max_batch_size", 1, "rows joined into one run"),
    "max_batch_delay": Setting("max_batch_delay", 0, "milliseconds", 1e-3, 3_600_000.0),
    "queue": Setting("queue", 1, "requests inside at once", may_be_null=True),
    "response_timeout": Setting("response_timeout", 0, "seconds", 1.0, MOST_SECONDS),
    "priority_levels": Setting("priority_levels", 0, "levels", may_be_null=True),
    "default_priority_level": Setting("default_priority_level", 1, "a level", may_be_null=True),
    "min_workers": Setting("min_workers", 0, "workers"),
    "max_workers": Setting("max_workers", 0, "workers"),
}
OTHER_NAMES = {
    "job_queue_size": "queue",
    "priorities": "priority_levels",
    "priority": "default_priority_level",
    "min_worker": "min_workers",
    "max_worker": "max_workers",
}
"""The old servers', and short ones."""
_SAID_OF = {setting.name: said for said, setting in SAID.items()}


def bounds_of(name: str) -> tuple[float, float]:
    """From where to where one may be, by its name in `Settings`; seconds, where it is a time."""
    setting = SAID.get(_SAID_OF.get(name, ""))
    if setting is None:  # of the start alone
        return 0.0, MOST_SECONDS
    low = LEAST_TIMEOUT if name == "response_timeout" else setting.low
    return low, setting.high * (1.0 if setting.scale is None else setting.scale)


def read(said: Mapping[str, object]) -> Settings:
    """InvalidInput for what is not said so, or says nothing."""
    found: dict[str, Any] = {}
    reset = set()
    for name, value in said.items():
        known = OTHER_NAMES.get(name, name)
        setting = SAID.get(known)
        if setting is None:
            raise InvalidInput(f"there is no setting {name!r:.60}; there are {', '.join(SAID)}")
        if setting.name in found or setting.name in reset:
            raise InvalidInput(f"{known} came twice: {name} is another name for it")
        if value is None and setting.may_be_null:
            reset.add(setting.name)
        else:
            found[setting.name] = _value(name, setting, value)
    if not found and not reset:
        raise InvalidInput(f"nothing is to be changed; what can be: {', '.join(SAID)}")
    return Settings(**found, reset=frozenset(reset))


def _value(name: str, setting: Setting, value: object) -> int | float:
    whole = setting.scale is None
    wanted = f"{name} is a {'whole number' if whole else 'number'} ({setting.unit})"
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        null = "; null is for what may be not set" if value is None else ""
        raise InvalidInput(f"{wanted}; {'null' if value is None else repr(value):.60} came{null}")
    assert isinstance(value, int | float)
    if (
        not math.isfinite(value)
        or not setting.low <= value <= setting.high
        or (name == "response_timeout" and value < LEAST_TIMEOUT)
    ):
        least = LEAST_TIMEOUT if name == "response_timeout" else setting.low
        raise InvalidInput(f"{wanted} from {least:g} to {setting.high:,.0f}; {value!r:.60} came")
    return value if setting.scale is None else float(value * setting.scale)


def told(changed: Mapping[str, tuple[Any, Any]]) -> dict[str, dict[str, Any]]:
    """From what, to what, of each, under the names and in the units in which it is said. What did not change is left
    out."""
    found = {}
    for name, (before, after) in changed.items():
        if before != after:
            found[_SAID_OF[name]] = {"from": _in_unit(name, before), "to": _in_unit(name, after)}
    return found


def line(changed: Mapping[str, tuple[Any, Any]]) -> str:
    """The same, for the log."""
    said = [f"{name} {_shown(each['from'])} -> {_shown(each['to'])}" for name, each in told(changed).items()]
    return ", ".join(said) or "all was so already"


def _shown(value: Any) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _in_unit(name: str, value: Any) -> Any:
    scale = SAID[_SAID_OF[name]].scale
    if value is None or scale is None:
        return value
    value = round(value / scale, 6)
    return int(value) if float(value).is_integer() else value
