"""A batch in small pieces that overlap: while one is run, the next is preprocessed.

Rule 1: put in the place of a handler's `handle`; it calls `preprocess`, `inference` and `postprocess` of that handler.
Rule 2: each step has threads of its own (`parallelism`), which end with `shutdown`, or with the process.
Rule 3: answers are in the order of the requests, and the first failure of a piece is the batch's.
"""

from __future__ import annotations

import queue
import threading
import time
from typing import Any

HANDLER_METHODS = ["preprocess", "inference", "postprocess"]


class MicroBatching:
    def __init__(
        self, parent_handler: Any, micro_batch_size: int = 1, parallelism: dict[str, int] | None = None
    ) -> None:
        self.handler, self.micro_batch_size = parent_handler, micro_batch_size
        self._queues: list[Any] = [queue.Queue() for _ in range(len(HANDLER_METHODS) + 1)]
        self._threads: dict[str, list[threading.Thread]] = {name: [] for name in HANDLER_METHODS}
        self._parallelism = dict.fromkeys(HANDLER_METHODS, 1)
        self._batch = threading.Lock()
        self.parallelism = parallelism or {}

    @property
    def parallelism(self) -> dict[str, int]:
        """Threads of each step."""
        return dict(self._parallelism)

    @parallelism.setter
    def parallelism(self, value: dict[str, int]) -> None:
        unknown = [name for name in value if name not in HANDLER_METHODS]
        if unknown:
            raise ValueError(f"the steps are {', '.join(HANDLER_METHODS)}; there is no {unknown[0]!r}")
        self._parallelism.update(value)
        for step, name in enumerate(HANDLER_METHODS):
            threads = self._threads[name]
            while len(threads) < self._parallelism[name]:
                threads.append(
                    threading.Thread(target=self._work, args=(step,), daemon=True, name=f"{name}-{len(threads)}")
                )
                threads[-1].start()
            while len(threads) > self._parallelism[name]:
                threads.pop()
                self._queues[step].put(None)  # whichever comes for it ends

    def shutdown(self) -> None:
        for step, name in enumerate(HANDLER_METHODS):
            threads, self._threads[name] = self._threads[name], []
            for _ in threads:
                self._queues[step].put(None)
            for thread in threads:
                thread.join()

    def _work(self, step: int) -> None:
        taken, given = self._queues[step], self._queues[step + 1]
        while True:
            piece = taken.get()
            if piece is None:
                return
            index, data, failure = piece
            if failure is None:
                try:
                    data = getattr(self.handler, HANDLER_METHODS[step])(data)
                except BaseException as error:
                    data, failure = None, error
            given.put((index, data, failure))

    def handle(self, data: list[Any]) -> list[Any]:
        with self._batch:
            starts = range(0, len(data), self.micro_batch_size)
            for index, at in enumerate(starts):
                self._queues[0].put((index, data[at : at + self.micro_batch_size], None))
            pieces = sorted((self._queues[-1].get() for _ in starts), key=lambda piece: piece[0])
        for _, _, failure in pieces:
            if failure is not None:
                raise failure
        return [each for _, answers, _ in pieces for each in answers]

    def __call__(self, data: Any, context: Any) -> Any:
        began = time.perf_counter()
        handler = self.handler
        handler.context = context
        if handler._is_describe():
            output = [handler.describe_handle()]
        elif handler._is_explain():
            output = handler.explain_handle(handler.preprocess(data), data)
        else:
            output = self.handle(data)
        context.metrics.add_time("HandlerTime", round((time.perf_counter() - began) * 1000, 2), None, "ms")
        return output
