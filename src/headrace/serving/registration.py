"""How a version was registered, and what it is to be like."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.serving.compile_options import CompileOptions
from headrace.serving.located import Located
from headrace.serving.wanted import Wanted


@dataclass(frozen=True)
class Registration:
    """How a version was registered, and what it is to be like."""

    wanted: Wanted
    located: Located
    options: CompileOptions
    min_workers: int = 1
    max_workers: int = 1
    at_startup: bool = False
    url: str | None = None
    """What a manager called it, or how it is called in the store; None: `wanted` says."""
    is_complete: bool = False
    """Whether it was registered to the end: loaded, where it was to be."""
    by_options: bool = False
    """Nobody said how many workers: in this process as many streams as its options say."""
    parked: tuple[int, int] | None = None
    """The bounds it had before it was parked; None: it is not, or never had others."""

    @property
    def bounds(self) -> tuple[int, int]:
        """Of its number of workers."""
        return self.min_workers, self.max_workers

    @property
    def effective(self) -> CompileOptions:
        """With what its archive says of them."""
        return self.located.with_own(self.options)
