"""What English draws together, at length: "don't" is "do not". A word may be drawn together twice."""

from __future__ import annotations

_WHOLE = {
    "won't": "will not", "can't": "cannot", "shan't": "shall not", "ain't": "is not", "let's": "let us",
    "y'all": "you all", "ma'am": "madam", "o'clock": "of the clock", "'cause": "because", "'tis": "it is",
    "'twas": "it was",
}  # fmt: skip
_ENDINGS = (
    ("n't", " not"), ("'re", " are"), ("'ve", " have"), ("'ll", " will"), ("'d", " would"), ("'m", " am"),
)  # fmt: skip
_IS = ("it", "he", "she", "that", "what", "where", "who", "there", "here", "how", "when", "why")
_ARE = ("you", "we", "they", "what", "who", "there")
_WILL = ("i", "you", "we", "they", *_IS)
_HAVE = ("i", "you", "we", "they", "what", "who")
_CAN_BE = ("could", "should", "would", "might", "must")
_NOT = (
    *_CAN_BE, "are", "is", "was", "were", "do", "does", "did", "have", "has", "had", "need", "ought", "dare", "may",
)  # fmt: skip


def expanded(word: str) -> str:
    """A word at length, its first letter as it was. One that is not drawn together, or belongs to someone
    ("Ann's"), comes back as it is."""
    low = word.lower()
    full = _WHOLE.get(low)
    if full is None and low.endswith("'s") and low[:-2] in _IS:
        full = low[:-2] + " is"
    if full is None:
        ending = next((each for each in _ENDINGS if low.endswith(each[0])), None)
        if ending is None:
            return word
        full = expanded(low[: -len(ending[0])]) + ending[1]
    return full if word.startswith("'") else word[0] + full[1:]


def _words() -> list[str]:
    nots = [f"{each}n't" for each in _NOT] + ["can't", "won't", "shan't"]
    woulds = [f"{each}'d" for each in _WILL]
    wills = [f"{each}'ll" for each in _WILL]
    twice = [f"{each}'ve" for each in (*nots, *woulds, *wills)]
    others = ["i'm", *(f"{each}'s" for each in _IS), *(f"{each}'re" for each in _ARE)]
    have = [f"{each}'ve" for each in (*_HAVE, *_CAN_BE)]
    return [*_WHOLE, *nots, *woulds, *wills, *others, *have, *twice]


CONTRACTION_MAP = {word: expanded(word) for word in _words()}
"""As handlers look them up, in small letters; those of "I" in both."""
CONTRACTION_MAP.update({f"I{word[1:]}": f"I{full[1:]}" for word, full in CONTRACTION_MAP.items() if word[:2] == "i'"})
