"""What answers a model's requests: a compiled model, and the built-in handler at its door, if it has one.

There are three kinds: tensors or a callable, a built-in handler before tensors, and handlers of the model's own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from time import monotonic, time

from headrace.archives.handlers.image_classifier import ImageClassifier
from headrace.engine.permit import Group
from headrace.model.model import Model
from headrace.serving.measures import Measures
from headrace.serving.priorities import Priorities
from headrace.workers.sequenced import SequenceHeaders


@dataclass(eq=False)
class Served:
    name: str
    version: str
    model: Model
    handler: ImageClassifier | None = None
    """Trusted code of ours that turns a body into tensors and tensors into an answer; `/v2` goes around it."""
    measures: Measures | None = None
    """What the doors keep of its requests, where somebody wants to know."""
    since: float = field(default_factory=time)
    """When it was loaded, in seconds since 1970."""
    group: Group = field(default_factory=Group)
    """Its requests, from their headers to their outcome."""
    custom: bool = False
    """Handlers of its own, in worker processes: its one input is a request as it came, its outcome an answer
    (`server.custom`)."""
    sequence_headers: SequenceHeaders | None = None
    """What says of which sequence a request is, where they come in sequences."""
    reasons: bool = True
    """Whether clients are told why an answer of its handlers was none."""
    priorities: Priorities | None = field(default=None, init=False)
    special: bool = field(default=False, init=False)
    """Whether a request must be looked at before it is run: it is `custom`, or there are `priorities`. Of most models
    it is not so, and then this is all that a request pays."""

    def __post_init__(self) -> None:
        self.special = self.custom

    def use(self, priorities: Priorities | None) -> None:
        """For requests that come from now on."""
        self.priorities = priorities
        self.special = self.custom or priorities is not None

    def has_decoded(self, began: float) -> None:
        """One of its bodies has become inputs; `began`: monotonic."""
        if self.measures is not None:
            self.measures.decode_seconds.observe(monotonic() - began)

    def has_encoded(self, began: float) -> None:
        """Outputs of its model have become the body of an answer."""
        if self.measures is not None:
            self.measures.encode_seconds.observe(monotonic() - began)
