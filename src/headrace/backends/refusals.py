"""What ONNX Runtime says of a model it does not take, put so that a reader knows what to do."""

from __future__ import annotations

import re

LONGEST = 300
_CODE = re.compile(r"^(\[ONNXRuntimeError\] : )?(\d+ : )?([A-Z_]+ : )?(Load model from .*? failed:)?")
# A source file, a line and a signature full of commas: nothing of it helps whoever has the model.
_SOURCE = re.compile(r"/onnxruntime_src/\S+:\d+ .*?\)(?: const)? |\b\w+\.cc:\d+ \w+ ")

_BEGINNINGS = (
    (b"version https://git-lfs", "this is a Git LFS pointer, not the model; fetch that with `git lfs pull`"),
    (b"PK\x03\x04", "this is a zip archive, as PyTorch saves; export the model to ONNX"),
    (b"\x80", "this is a pickle, as older PyTorch saves; export the model to ONNX"),
    (b"\x1f\x8b", "this is gzip; unpack it first"),
    (b"\x89HDF", "this is HDF5, as Keras saves; convert the model to ONNX"),
    (b"<", "this is a web page or XML, not a model; look at what was downloaded"),
)
_ADVICE = (
    (
        re.compile("external data", re.IGNORECASE),
        "its weights are in a file of their own, which must lie whole where the model says, beside it",
    ),
    (
        re.compile(r"\bIR version|Opset \d+ is under development"),
        "install a newer onnxruntime, or export the model for an older version",
    ),
    (
        re.compile("not a registered function/op|No Op registered|No opset import|find an implementation"),
        "export it without custom operators, or install a newer onnxruntime",
    ),
)


def explained(error: str, beginning: bytes) -> str:
    """What is wrong and what to do. `error`: the runtime's words; `beginning`: the first bytes of the model."""
    text = _SOURCE.sub("", _CODE.sub("", error)).strip().rstrip(".")
    if "rotobuf parsing failed" in text:
        for known, what in _BEGINNINGS:
            if beginning.lstrip().startswith(known):
                return what
        if _is_text(beginning):
            return f"this is text, not a model: it begins with {beginning[:40].decode()!r}"
        return f"{text}; it is damaged, cut short or no ONNX file: copy or export it again"
    advice = next((advice for pattern, advice in _ADVICE if pattern.search(text)), None)
    return text[:LONGEST] + (f"; {advice}" if advice else "")


def _is_text(beginning: bytes) -> bool:
    try:
        return bool(beginning) and beginning[:40].decode("ascii").isprintable()
    except UnicodeDecodeError:
        return False
