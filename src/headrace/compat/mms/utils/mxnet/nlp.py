"""Sentences as numbers."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any


def encode_sentences(
    sentences: list[list[str]],
    vocab: Any = None,
    invalid_label: int = -1,
    invalid_key: str = "\n",
    start_label: int = 0,
) -> Any:
    """(the numbers of the words of each sentence, the vocabulary). Without a vocabulary one is made."""
    grows = vocab is None
    known: dict[str, int] = {invalid_key: invalid_label} if vocab is None else vocab
    number = start_label
    encoded = []
    for sentence in sentences:
        row = []
        for word in sentence:
            if word not in known:
                if not grows:
                    raise ValueError(f"the word {word!r} is not in the vocabulary")
                number += number == invalid_label
                known[word] = number
                number += 1
            row.append(known[word])
        encoded.append(row)
    return encoded, known


def pad_sentence(
    sentence: list[int], buckets: list[int], invalid_label: int = -1, data_name: str = "data", layout: str = "NT"
) -> Any:
    """A batch of one, as long as the smallest bucket it fits into."""
    import mxnet as mx
    import numpy as np

    buckets = sorted(buckets)
    place = bisect_left(buckets, len(sentence))
    if place == len(buckets):
        raise ValueError(f"a sentence of {len(sentence)} words fits into no bucket of {buckets}")
    row = np.full((buckets[place],), invalid_label, dtype="float32")
    row[: len(sentence)] = sentence
    array = mx.nd.array([row])
    if layout == "TN":
        array = array.T
    return mx.io.DataBatch(
        [array], pad=0, bucket_key=buckets[place], provide_data=[mx.io.DataDesc(data_name, array.shape, layout=layout)]
    )
