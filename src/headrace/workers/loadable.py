"""What workers can load, as the pool sees it: a callable (`naming`), an ONNX model (`onnx_model`), a handler
(`served_handler`)."""

from __future__ import annotations

from typing import Any

from headrace.errors import HeadraceError, InvalidModel
from headrace.workers.sequenced import Sequencing


class Loadable:
    """Its text is what it is called in messages."""

    descriptors: tuple[int, ...] = ()
    """Files each worker is given, under the same numbers."""
    in_lists: bool = False
    """Whether it is given lists of requests, however few may be joined."""
    joins_rows: bool = False
    """Whether requests come as arrays by input, which it joins itself."""
    shared_bytes: int = 0
    """Of memory that each worker maps, and shares with others."""
    sequences: Sequencing | None = None
    """How its requests come in sequences; None: each stands for itself."""
    outputs_given: int | None = None
    """How many tensors a run gives; None: it is a callable, which gives anything."""

    @property
    def name(self) -> str:
        """Its own, for a model that is given none."""
        raise NotImplementedError

    def told(self) -> dict[str, Any]:
        """What a worker is told of it, as JSON: which `loader` of `child.LOADERS`, and what that one wants to know.
        With a `folder` of its own it is run there."""
        raise NotImplementedError

    def told_of_batches(self, max_batch_size: int) -> dict[str, Any]:
        """What of `told` is another where so many are joined by now."""
        return {}

    def loaded(self, about: dict[str, Any]) -> None:
        """A worker has loaded it, and says this of it. On that worker's thread. SetupError where that cannot be."""

    def refusal(self, about: dict[str, Any]) -> HeadraceError:
        """Why a worker could not: `type`, `message` and `traceback` of what it raised."""
        if about["type"] == "Refused":
            return InvalidModel(str(about["message"]))
        return InvalidModel(f"{self} cannot be loaded in a worker: {about['type']}: {about['message']}")

    def close(self) -> None:
        """No worker will load it any more."""
