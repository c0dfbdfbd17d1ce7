"""Texts to their classes, with probabilities."""

from __future__ import annotations

from typing import Any, Iterator

import torch
from ts.torch_handler.text_handler import TextHandler
from ts.utils.util import map_class_to_label


def ngrams_iterator(tokens: list[str], ngrams: int) -> Iterator[str]:
    """The words, then the pairs, and so on."""
    for size in range(1, ngrams + 1):
        for at in range(len(tokens) - size + 1):
            yield " ".join(tokens[at : at + size])


class TextClassifier(TextHandler):
    """The model takes the numbers of the words of all texts one after the other, and where each text begins."""

    ngrams = 2

    def preprocess(self, data: Any) -> Any:
        numbers: list[int] = []
        self._offsets = []
        for row in data:
            text = row.get("data") or row.get("body")
            if isinstance(text, (bytes, bytearray)):
                text = text.decode("utf-8")
            text = self._expand_contractions(self._remove_html_tags(text).lower())
            text = self._remove_punctuation(self._remove_accented_characters(text))
            self._offsets.append(len(numbers))
            numbers += [self.source_vocab[each] for each in ngrams_iterator(self._tokenize(text), self.ngrams)]
        return torch.as_tensor(numbers, device=self.device)

    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        return super().inference(data, torch.as_tensor(self._offsets, device=self.device))

    def postprocess(self, data: Any) -> Any:
        return map_class_to_label(torch.nn.functional.softmax(data, dim=1).tolist(), self.mapping)
