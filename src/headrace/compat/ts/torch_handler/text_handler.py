"""What is common to handlers of text. torchtext is used where it is installed, and not missed elsewhere."""

from __future__ import annotations

import os
import re
import string
import unicodedata
from abc import ABC
from typing import Any

import torch
from ts.torch_handler.base_handler import BaseHandler
from ts.torch_handler.contractions import expanded
from ts.utils.util import CLEANUP_REGEX

_WORD = re.compile(r"\b[a-z]+(?:'[a-z]+)+\b", re.IGNORECASE)
_TOKENS = re.compile(r"[a-z0-9_]+(?:'[a-z]+)?|[.,!?();:\"']", re.IGNORECASE)


def _basic_english(text: str) -> list[str]:
    return _TOKENS.findall(text.lower())


class TextHandler(BaseHandler, ABC):
    def __init__(self) -> None:
        super().__init__()
        self.source_vocab: Any = None
        try:
            from torchtext.data.utils import get_tokenizer

            self.tokenizer = get_tokenizer("basic_english")
        except (ImportError, OSError):  # OSError: it was built for another torch
            self.tokenizer = _basic_english

    def initialize(self, context: Any) -> None:
        super().initialize(context)
        self.initialized = False
        named = self.manifest["model"].get("sourceVocab")
        self.source_vocab = torch.load(named or self.get_source_vocab_path(context), weights_only=False)
        self.initialized = True

    def get_source_vocab_path(self, ctx: Any) -> str:
        path = os.path.join(ctx.system_properties.get("model_dir"), "source_vocab.pt")
        if not os.path.isfile(path):
            raise FileNotFoundError(f"handlers of text need the words their model knows, in {path}, which is missing")
        return path

    def _expand_contractions(self, text: str) -> str:
        return _WORD.sub(lambda word: expanded(word.group()), text.replace("\u2019", "'")).replace("'", "")

    def _remove_accented_characters(self, text: str) -> str:
        return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()

    def _remove_html_tags(self, text: str) -> str:
        return str(CLEANUP_REGEX.sub("", text))

    def _remove_punctuation(self, text: str) -> str:
        return text.translate(str.maketrans("", "", string.punctuation))

    _remove_puncutation = _remove_punctuation  # as it was once written

    def _tokenize(self, text: str) -> Any:
        return self.tokenizer(text)
