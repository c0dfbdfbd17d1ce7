"""What the headers of a request say, whoever received them. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from headrace.errors import InvalidInput

Headers = Iterable[tuple[bytes, bytes]]


class BadFraming(InvalidInput):
    """The body is not what the headers say. Where the next request begins is not known either."""


class Head:
    """Method, path (decoded), and what concerns us of the headers. InvalidInput for those that cannot be right.

    `content_length` None: the body comes in chunks, or there is none.
    """

    __slots__ = (
        "_headers", "_told", "authorization", "chunked", "coding", "content_length", "content_type", "expects", "hosts",
        "json_length", "method",
        "path", "upgrades",
    )  # fmt: skip

    def __init__(self, method: str, path: str, headers: Headers) -> None:
        self.method, self.path = method, path
        self.content_type: str | None = None
        self.content_length: int | None = None
        self.coding: str | None = None
        """`Content-Encoding`, where the body is packed: only handlers of a model's own are given such a body."""
        self.json_length: str | None = None
        """`Inference-Header-Content-Length`: the body is JSON of that length, then tensors as bytes."""
        self.expects: bytes | None = None
        """Empty once a client that waits to be asked for its body has been asked."""
        self.authorization: bytes | None = None
        self.chunked = self.upgrades = False
        self.hosts = 0
        self._headers = headers
        self._told: tuple[tuple[str, str], ...] | None = None
        for name, value in headers:
            name = name.lower()
            if name == b"host":
                self.hosts += 1
            elif name == b"content-length":
                value = value.strip()
                if not value.isdigit() or len(value) > 20:
                    raise BadFraming(f"Content-Length is a whole number, not {value!r:.40}")
                self.content_length = int(value)
            elif name == b"content-type":
                self.content_type = value.decode("latin-1")
            elif name == b"transfer-encoding":
                if value.strip().lower() != b"chunked":
                    raise BadFraming(f"Transfer-Encoding is chunked or left out, not {value.decode('latin-1')!r:.40}")
                self.chunked = True
            elif name == b"upgrade":
                self.upgrades = True
            elif name == b"expect":
                self.expects = value.strip().lower()
            elif name == b"authorization":
                self.authorization = value
            elif name == b"inference-header-content-length":
                self.json_length = value.decode("latin-1")
            elif name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
                self.coding = value.decode("latin-1")

    def check_coding(self) -> None:
        """For whoever reads the body. InvalidInput: it is packed."""
        if self.coding is not None:
            raise InvalidInput(
                f"Content-Encoding {self.coding!r:.40} is not read in this version, but by handlers of a model's own: "
                "send the body as it is"
            )

    def told(self, more: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        """The headers as they came, and `more`, for handlers: made once, also for a head that comes again."""
        told = self._told
        if told is None:
            came = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in self._headers]
            told = self._told = (*came, *more)
        return told

    def said(self, wanted: bytes) -> bytes | None:
        """Of a header that few look for: its value as it came, of several with one name the first."""
        return next((value for name, value in self._headers if name.lower() == wanted), None)

    @property
    def is_plain(self) -> bool:
        """Whether the body is simply there, as long as was said, and as it is."""
        odd = self.chunked or self.upgrades or self.expects is not None or self.coding is not None
        return not odd and self.content_length is not None

    @property
    def has_body(self) -> bool:
        return self.chunked or bool(self.content_length)
