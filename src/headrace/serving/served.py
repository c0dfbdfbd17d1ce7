"""What answers a model's requests: a compiled model, and the built-in handler at its door, if it has one."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.archives.handlers.image_classifier import ImageClassifier
from headrace.model.model import Model


@dataclass(frozen=True)
class Served:
    name: str
    version: str
    model: Model
    handler: ImageClassifier | None = None
    """Trusted code of ours that turns a body into tensors and tensors into an answer; `/v2` goes around it."""
