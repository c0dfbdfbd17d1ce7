"""What was wanted, found: it can be built, and what is built answers requests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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
