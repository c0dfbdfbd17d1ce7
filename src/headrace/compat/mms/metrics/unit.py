"""Units of measurements, under their old names."""

from __future__ import annotations

from typing import ClassVar


class Units:
    spaces: ClassVar = {"GB": "Gigabytes", "MB": "Megabytes", "KB": "Kilobytes", "B": "Bytes"}
    time: ClassVar = {"ms": "Milliseconds", "s": "Seconds"}
    percent = "Percent"
    count = "Count"
