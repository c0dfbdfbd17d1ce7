"""Texts of several requests as `transformers` generates them: what a handler sends in parts.

`transformers` is needed where one is made, not to import this.
"""

from __future__ import annotations

import sys
from typing import Any

try:
    from transformers.generation.streamers import BaseStreamer, TextIteratorStreamer
except ImportError as _error:
    BaseStreamer, TextIteratorStreamer, _missing = object, None, _error


class TextIteratorStreamerBatch(BaseStreamer):
    """The `streamer` of `model.generate(...)`, for a batch of `batch_size` rows. Iterated from another thread, it gives
    a list for each step, with the piece of text that each row has got; it ends when generating ends, and may then be
    used for the next batch.

    `skip_prompt`: the tokens that come first are the prompt, and are no part of the texts. `timeout`: seconds that the
    next piece may take; then it is `queue.Empty`. `decode_kwargs`: for `tokenizer.decode`. ImportError without
    `transformers`.
    """

    def __init__(
        self,
        tokenizer: Any,
        batch_size: int,
        skip_prompt: bool = False,
        timeout: float | None = None,
        **decode_kwargs: Any,
    ) -> None:
        if TextIteratorStreamer is None:
            raise ImportError(
                f"TextIteratorStreamerBatch needs transformers, which is not in the environment of {sys.executable} "
                f"({_missing}): install it there, name an environment that has it (--python NAME=PATH), or put "
                "transformers into the archive's requirements"
            ) from _missing
        self.batch_size = batch_size
        self.streamers = [
            TextIteratorStreamer(tokenizer, skip_prompt=skip_prompt, timeout=timeout, **decode_kwargs)
            for _ in range(batch_size)
        ]

    def put(self, value: Any) -> None:
        """A row of tokens, or one token, of each. ValueError for another number of rows."""
        if len(value) != self.batch_size:
            raise ValueError(
                f"batch_size of TextIteratorStreamerBatch is {self.batch_size}: so many rows are expected, "
                f"{len(value)} came"
            )
        for row, streamer in enumerate(self.streamers):
            streamer.put(value[row : row + 1])

    def end(self) -> None:
        for streamer in self.streamers:
            streamer.end()

    def __iter__(self) -> TextIteratorStreamerBatch:
        return self

    def __next__(self) -> list[str]:
        # All rows have as many pieces: a row that is done goes on with empty ones. So they end together.
        pieces = [next(streamer, None) for streamer in self.streamers]
        texts = [piece for piece in pieces if piece is not None]
        if len(texts) != len(pieces):
            raise StopIteration
        return texts
