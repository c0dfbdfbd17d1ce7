"""What the YAML of an archive says of sequences: TorchServe's keys, in its units."""

from __future__ import annotations

import logging
from collections.abc import Callable

from headrace.model.sequences import SequenceOptions
from headrace.workers.sequenced import SequenceHeaders, Sequencing

_log = logging.getLogger("headrace.serving")


def sequencing_of(
    config: dict[str, object], name: str, headers: SequenceHeaders, number: Callable[[str, float], float]
) -> Sequencing | None:
    """None where its requests stand each for itself. `number`: of a key of the YAML, or what is to be taken instead."""
    asked = config.get("sequenceBatching")
    if asked is not None and not isinstance(asked, bool):
        _log.warning("model %s: sequenceBatching: %r in its YAML is ignored: true or false is expected", name, asked)
        asked = None
    idle = number("sequenceMaxIdleMSec", 0) / 1000
    if not (asked or (asked is None and idle)):
        return None
    timeout = number("sequenceTimeoutMSec", 0) / 1000
    usual = SequenceOptions()
    options = SequenceOptions(
        max_idle=idle or usual.max_idle,
        timeout=timeout or None,
        max_sequences=int(number("maxNumSequence", 0)) or usual.max_sequences,
        max_queue=int(number("maxSequenceJobQueueSize", 0)) or usual.max_queue,
    )
    if config.get("maxBatchDelay"):
        _log.info("model %s: requests of sequences do not wait for company: maxBatchDelay says nothing of it", name)
    return Sequencing(options, headers)
