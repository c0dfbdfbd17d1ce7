"""What `context.metrics` is, and its metrics from a YAML file."""

from __future__ import annotations

from typing import Any

from _headrace_shared import load

_ours = load("measures")
_Metrics: Any = _ours.Metrics


class MetricsCacheYamlImpl(_Metrics):
    def __init__(self, config_file_path: Any = None) -> None:
        super().__init__()
        self.config_file_path = config_file_path

    def initialize_cache(self) -> None:
        """The metrics of its file's `model_metrics`. Needs PyYAML, as TorchServe did."""
        import yaml

        with open(self.config_file_path, encoding="utf-8") as file:
            sections = (yaml.safe_load(file) or {}).get("model_metrics")
        if not sections:
            raise _ours.MetricsCacheValueError(f"{self.config_file_path} has no `model_metrics`")
        for kind, metrics in sections.items():
            for each in metrics:
                self.add_metric_to_cache(each["name"], each["unit"], each["dimensions"], _ours.MetricTypes(kind))
