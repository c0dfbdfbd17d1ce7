"""What a handler is told beside its data: the `context` of both old servers. Loaded by its path in workers.

Rule 1: every name handlers of either server use is here, with the meaning it had there.
Rule 2: what a handler sets holds for the batch that runs, and for no other.
Rule 3: a header's name is looked up as it was received: handlers were written against that.
"""

from __future__ import annotations

from typing import Any, List

SEQUENCE_HEADERS = ("ts_request_sequence_id", "ts_request_sequence_start", "ts_request_sequence_end")


class PredictionException(Exception):
    """Raised by handlers: this message, with this status."""

    def __init__(self, message: Any, error_code: int = 500) -> None:
        self.message, self.error_code = message, error_code
        super().__init__(message)

    def __str__(self) -> str:
        return f"{self.message} : {self.error_code}"


class RequestProcessor:
    """The headers of one request, and what is to be said in those of its answer. Their names are the old ones."""

    def __init__(self, request_header: dict[str, Any]) -> None:
        self._request_header = request_header
        self._response_header: dict[str, Any] = {}
        self._status_code: Any = 200
        self._reason_phrase: Any = None

    def get_request_property(self, key: str) -> Any:
        return self._request_header.get(key)

    def get_request_properties(self) -> dict[str, Any]:
        return self._request_header

    def report_status(self, code: int, reason_phrase: str | None = None) -> None:
        self._status_code, self._reason_phrase = code, reason_phrase

    def get_response_status_code(self) -> Any:
        return self._status_code

    def get_response_status_phrase(self) -> Any:
        return self._reason_phrase

    def add_response_property(self, key: str, value: Any) -> None:
        self._response_header[key] = value

    def get_response_headers(self) -> dict[str, Any]:
        return self._response_header

    def get_response_header(self, key: str | None = None) -> Any:
        """TorchServe's asks for one; Multi Model Server's for all."""
        return self._response_header if key is None else self._response_header.get(key)


class RequestProcessors(List[RequestProcessor]):
    """One for each request of a batch. The service templates of Multi Model Server call the list as if it were the one
    it had been before there were batches: `report_status` is then for all of them, what is read is of the first."""

    def report_status(self, code: int, reason_phrase: str | None = None) -> None:
        for each in self:
            each.report_status(code, reason_phrase)

    def add_response_property(self, key: str, value: Any) -> None:
        for each in self:
            each.add_response_property(key, value)

    def __getattr__(self, name: str) -> Any:
        if self and not name.startswith("__"):
            return getattr(self[0], name)
        raise AttributeError(f"request_processor is a list with one object per request; it has no {name!r}")


class Context:
    """Of a worker. The positions of its arguments are TorchServe's, whose first six are Multi Model Server's."""

    def __init__(
        self,
        model_name: str | None = None,
        model_dir: str | None = None,
        manifest: dict[str, Any] | None = None,
        batch_size: int | None = 1,
        gpu: int | None = None,
        mms_version: str | None = None,
        limit_max_image_pixels: bool = True,
        metrics: Any = None,
        model_yaml_config: dict[str, Any] | None = None,
    ) -> None:
        self.model_name, self.manifest = model_name, manifest
        self._system_properties = {
            "model_dir": model_dir,
            "gpu_id": gpu,
            "batch_size": batch_size,
            "server_name": "MMS",
            "server_version": mms_version,
            "limit_max_image_pixels": limit_max_image_pixels,
        }
        self.request_ids: dict[int, str] | None = None
        self._request_processor: Any = None
        self._metrics = metrics
        self._model_yaml_config = {} if model_yaml_config is None else model_yaml_config
        self.stopping_criteria: Any = None
        self.cl_socket: Any = None
        self.cache: Any = {}
        self.owners: Any = None
        """In an envelope, where a request may be several rows of data: which request each row is of. Ours alone."""
        self.header_key_sequence_id, self.header_key_sequence_start, self.header_key_sequence_end = SEQUENCE_HEADERS

    @property
    def system_properties(self) -> dict[str, Any]:
        return self._system_properties

    @property
    def request_processor(self) -> Any:
        """None while the model is loaded; then a list with one RequestProcessor for each request."""
        return self._request_processor

    @request_processor.setter
    def request_processor(self, value: Any) -> None:
        self._request_processor = value

    @property
    def metrics(self) -> Any:
        return self._metrics

    @metrics.setter
    def metrics(self, value: Any) -> None:
        self._metrics = value

    @property
    def model_yaml_config(self) -> dict[str, Any]:
        return self._model_yaml_config

    @model_yaml_config.setter
    def model_yaml_config(self, value: dict[str, Any]) -> None:
        self._model_yaml_config = value

    def get_request_id(self, idx: int = 0) -> str | None:
        return None if self.request_ids is None else self.request_ids.get(idx)

    def get_request_header(self, idx: int, key: str) -> Any:
        """None without it. Of a form field: `{"content-type": ...}`."""
        return self._request_processor[idx].get_request_property(key)

    def get_all_request_header(self, idx: int) -> Any:
        return self._request_processor[idx].get_request_properties()

    def get_sequence_id(self, idx: int) -> str:
        """ "" for a request that is in no sequence."""
        headers = self._request_processor[idx].get_request_properties()
        wanted = self.header_key_sequence_id
        if wanted in headers:
            return str(headers[wanted])
        return next((str(value) for name, value in headers.items() if name.lower() == wanted.lower()), "")

    def set_response_content_type(self, idx: int, value: str) -> None:
        self._request_processor[idx].add_response_property("content-type", value)

    def get_response_content_type(self, idx: int) -> Any:
        return self.get_response_headers(idx).get("content-type")

    def set_response_header(self, idx: int, key: str, value: Any) -> None:
        self._request_processor[idx].add_response_property(key, value)

    def get_response_headers(self, idx: int) -> Any:
        return self._request_processor[idx].get_response_headers()

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        """Before there is a request, nothing."""
        if self._request_processor is not None and self._request_processor[idx] is not None:
            self._request_processor[idx].report_status(code, reason_phrase=phrase)

    def set_all_response_status(self, code: int = 200, phrase: str = "") -> None:
        for each in self._request_processor:
            each.report_status(code, reason_phrase=phrase)

    def get_response_status(self, idx: int) -> tuple[Any, Any]:
        each = self._request_processor[idx]
        return each.get_response_status_code(), each.get_response_status_phrase()

    # Multi Model Server's names of the last two

    def set_http_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        self.set_response_status(code, phrase, idx)

    def get_http_response_status(self, idx: int) -> tuple[Any, Any]:
        return self.get_response_status(idx)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Context) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]
