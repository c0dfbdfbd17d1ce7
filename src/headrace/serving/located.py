"""What was wanted, found: it can be built, and what is built answers requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from headrace.archives.handlers.image_classifier import ImageClassifier
from headrace.model.model import Model
from headrace.serving.compile_options import CompileOptions
from headrace.workers.sequenced import SequenceHeaders


@dataclass(frozen=True)
class Built:
    """What answers requests."""

    model: Model
    handler: ImageClassifier | None = None
    custom: bool = False
    """Whether it runs handlers of the archive's own, which are given requests as they came."""
    sequence_headers: SequenceHeaders | None = None
    """What says of which sequence they are; None: each stands for itself."""


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Located:
    """What was wanted, found and looked at; nothing of it is running."""

    name: str
    version: str
    build: Callable[[str, CompileOptions], Built]
    """Have it run, under that name. More than once, if it goes in between."""
    close: Callable[[], object] = _nothing
    """It is not needed any more: what was made to look at it goes."""
    is_code: bool = False
    """It runs in worker processes, where those are wanted."""
    own: Mapping[str, Any] = field(default_factory=dict)
    """What it says itself of options (`model_yaml`)."""

    def with_own(self, options: CompileOptions) -> CompileOptions:
        """The options, and where nobody has asked for something else of this model, its own."""
        asked = {*options.asked, *(("queue",) if options.queue is not None else ())}
        own = {name: value for name, value in self.own.items() if name not in asked}
        return replace(options, **own) if own else options
