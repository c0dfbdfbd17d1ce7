"""`model.rebatch`: other bounds on what is joined, while requests come, wait and run.

Rule 1: it is one step under the engine's lock: the next batch is pulled by the new bounds. No request is touched.
Rule 2: who waits for company by an old bound is told, so that a shorter delay holds for what waits already.
Rule 3: what a callable is called with does not change under it: a list, or one request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace.errors import InvalidOption
from headrace.model.compile import check_batching

if TYPE_CHECKING:
    from headrace.model.model import Model


def check_rebatch(model: Model, max_batch_size: int | None, max_batch_delay: float | None) -> tuple[int, float]:
    """The bounds it would have; None leaves one as it is. InvalidOption for what cannot be."""
    size = model.max_batch_size if max_batch_size is None else max_batch_size
    delay = model.max_batch_delay if max_batch_delay is None else max_batch_delay
    check_batching(size, delay)
    if size > 1 and not model.may_join:
        if model.inputs is not None:
            raise InvalidOption(
                f"max_batch_size={size}, but requests to {model.name} are not joined ({model.batching}); load it with "
                "another max_batch_size"
            )
        raise InvalidOption(
            f"max_batch_size={size}, but {model.name} is called with one request, and above 1 it would be given a list "
            "of them: load it with another max_batch_size"
        )
    if size == 1 and model.inputs is None and model.may_join and not model.always_in_lists:
        raise InvalidOption(
            f"max_batch_size=1, but {model.name} is given lists of requests, and with 1 it would be given one: load "
            "it with another max_batch_size"
        )
    return size, delay


def rebatch(model: Model, max_batch_size: int | None, max_batch_delay: float | None) -> None:
    size, delay = check_rebatch(model, max_batch_size, max_batch_delay)
    batcher, port = model.batcher, model.port
    with model.guard.lock:
        batcher.max_batch_size, batcher.max_batch_delay = size, delay
        streams = port.streams if port is not None else ()
    model.batching = "as asked" if max_batch_size is not None else model.batching
    for stream in streams:
        stream.ring()
