"""What goes to handlers of a model's own, in their workers, and comes from them. Pure.

A request is `(id, headers, body)`: the id is that of `x-request-id`; headers are pairs of text, as they came; the body
is the bytes, or fields `(name, content type or None, bytes)`. An answer is bytes; or `(body, content type or None,
status, reason or None, headers)`; or `(status, type, message)`, a refusal.

Rule 1: a body is not looked into here, but for forms: what it means is found out in the worker. One that is packed
        (`Content-Encoding`) goes as it came, as it did in the old servers.
Rule 2: of a model whose requests come in sequences each names one: a client that has named none has begun one, and
        finds its name in the reply.
Rule 3: an answer is somebody's code's: nothing in it breaks out of its place in a reply.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import orjson

from headrace.codecs import torchserve
from headrace.codecs.forms import Fields, form_kind, parse_form
from headrace.errors import BackendError, InvalidInput
from headrace.server.door import HEAVY, Route
from headrace.server.head import Head
from headrace.server.reply import ALWAYS, Reply, has_no_body, request_id
from headrace.serving.served import Served
from headrace.workers.sequenced import SequenceHeaders, made_up, turn_of

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+\Z")
_OURS = frozenset(
    ("content-length", "transfer-encoding", "connection", "keep-alive", "upgrade", "trailer", "te", "x-request-id",
     *(name.decode() for name, _ in ALWAYS))
)  # fmt: skip
"""Headers that the server says, whatever a handler has said."""
LONGEST_ID = 256
"""Characters of the name of a sequence."""
LONGEST_HEADER = 8192
"""Characters of a header's name and value together: more is what proxies and clients refuse."""
LONGEST_HEADERS = 64 << 10
"""Bytes of all of them together, as they are sent."""
LONGEST_REASON = 1024
"""Characters of a reason phrase."""
_UNUSUAL = re.compile(r"[^\x20-\x7e\x80-\xff]")


def is_name(text: str) -> bool:
    """Whether a header can be called so."""
    return _TOKEN.match(text) is not None


def is_heavy(head: Head, nbytes: int) -> bool:
    """A form is taken apart; all else goes as it came."""
    return nbytes > HEAVY and form_kind(head.content_type) is not None


def request_of(body: bytes, head: Head, route: Route, number: int) -> Any:
    """What the handlers of a model are given. InvalidInput for what is no form."""
    came: Any = body
    if form_kind(head.content_type) is not None:
        head.check_coding()
        came = (*route.query, *_plain(parse_form(body, head.content_type)))
    elif route.query:
        came = (*route.query, ("body", head.content_type, body))
    return request_id(number), head.told(route.headers), came


def decoded(
    served: Served, body: bytes, head: Head, route: Route, number: int
) -> tuple[tuple[Any, ...], None, tuple[str, str] | None]:
    """For a door's `decode`: the request, and what header the reply has beside the handler's, for `reply_of`."""
    request, names = request_of(body, head, route, number), served.sequence_headers
    if names is None:
        return (request,), None, None
    id, headers, came = request
    headers, sequence = in_sequence(headers, names)
    return ((id, headers, came),), None, (names.id, sequence)


def in_sequence(
    headers: tuple[tuple[str, str], ...], names: SequenceHeaders
) -> tuple[tuple[tuple[str, str], ...], str]:
    """The headers, which name a sequence from now on, and its id. InvalidInput for one that cannot be sent back."""
    turn = turn_of(headers, names)
    if turn is not None:
        if len(turn.id) > LONGEST_ID or _UNUSUAL.search(turn.id):
            raise InvalidInput(
                f"{names.id} is at most {LONGEST_ID} printable characters, not {len(turn.id)}: {turn.id!r:.80}"
            )
        return headers, turn.id
    ours = {names.id.lower(), names.start.lower()}
    id = made_up()
    kept = (header for header in headers if header[0].lower() not in ours)
    return (*kept, (names.id, id), (names.start, "true")), id


def _plain(fields: Fields) -> list[tuple[str, str | None, bytes]]:
    """Workers know tuples alone."""
    return [(name, field.content_type, field.value) for name, field in fields.items()]


_WITH_REASONS = ("Invalid model predict output", "number of batch response mismatched",
                 "Unsupported model output data type.")  # fmt: skip
"""What is said of answers that are none (`archives/calling`, `archives/wire`), before the reason."""


def reply_of(answer: Any, *, v2: bool = False, reasons: bool = True, more: tuple[str, str] | None = None) -> Reply:
    """BackendError for what is no answer. `v2`: refusals are told in that protocol's form; `reasons`: with why. `more`:
    a header that it has unless the handler has said another value of it."""
    reply = _reply_of(answer, v2, reasons)
    if more is not None:
        name = more[0].encode("latin-1")
        if not any(said.lower() == name.lower() for said, _ in reply.headers):
            reply.headers = (*reply.headers, (name, more[1].encode("latin-1")))
    return reply


def _reply_of(answer: Any, v2: bool, reasons: bool) -> Reply:
    if type(answer) is bytes:
        return Reply(answer, None)
    if isinstance(answer, tuple):
        if len(answer) == 5:
            return _told(*answer)
        if len(answer) == 3:
            status, kind, message = answer
            if not reasons:
                message = next((each for each in _WITH_REASONS if str(message).startswith(each)), message)
            return _refusal(status, kind, message, v2=v2)
    if isinstance(answer, (bytes, bytearray)):
        return Reply(bytes(answer), None)
    raise BackendError(f"the model's handler answered with a {type(answer).__name__}, which is no answer of a handler")


def _told(body: Any, content_type: Any, status: Any, reason: Any, headers: Any) -> Reply:
    if not isinstance(body, (bytes, bytearray)):
        raise BackendError(f"the body of a handler's answer is bytes, not a {type(body).__name__}")
    if type(content_type) is str and type(status) is int and reason is None and headers == ():
        kind = _plain_head(content_type, status) if len(content_type) < 200 else None
        if kind is not None:
            return Reply(bytes(body), kind, status)
    says, length = [], 0
    for name, value in headers:
        name, value = str(name), str(value)
        lower = name.lower()
        if not _TOKEN.match(name) or _UNUSUAL.search(value.replace("\t", " ")):
            raise BackendError(f"a handler's answer has the header {name!r:.100}: {value!r:.100}, which cannot be sent")
        if len(name) + len(value) > LONGEST_HEADER:
            raise _too_long(f"the header {name!r:.100}", len(name) + len(value), LONGEST_HEADER)
        length += len(name) + len(value) + len(": \r\n")
        if length > LONGEST_HEADERS:
            raise BackendError(
                f"a handler's answer has {len(headers):,} headers, of more than {LONGEST_HEADERS:,} bytes together: "
                "what is so long goes in the body"
            )
        if lower == "content-type":
            content_type = content_type or value
        elif lower not in _OURS:
            says.append((name.encode("latin-1"), value.encode("latin-1")))
    kind = None
    if content_type:
        kind = _content_type(str(content_type))
    phrase = None
    if reason:
        reason = str(reason)
        if len(reason) > LONGEST_REASON:
            raise _too_long("a reason phrase", len(reason), LONGEST_REASON)
        phrase = _UNUSUAL.sub(" ", reason).encode("latin-1", "replace")
    status = _status(status)
    return Reply(b"" if has_no_body(status) else bytes(body), kind, status, tuple(says), phrase)


@lru_cache(256)
def _plain_head(content_type: str, status: int) -> bytes | None:
    """The content type as it is sent, where that is all there is to say: what handlers tell again and again."""
    return None if not content_type or has_no_body(_status(status)) else _content_type(content_type)


def _refusal(status: Any, type: Any, message: Any, *, v2: bool) -> Reply:
    status = _status(status)
    if v2:
        body = orjson.dumps({"error": str(message).encode(errors="replace").decode()})
    else:
        body = torchserve.error_body(status, str(type), str(message))
    return Reply(b"" if has_no_body(status) else body, status=status)


def _status(status: Any) -> int:
    """Of a whole reply: 1xx is none. BackendError."""
    if isinstance(status, bool) or not isinstance(status, int) or not 200 <= status <= 999:
        raise BackendError(f"a handler's answer has the status {status!r:.40}; one from 200 to 999 was expected")
    return status


def _content_type(text: str) -> bytes:
    """BackendError for one that cannot be sent."""
    if _UNUSUAL.search(text.replace("\t", " ")):
        raise BackendError(f"a handler's answer has the content type {text!r:.100}, which cannot be sent")
    if len(text) > LONGEST_HEADER:
        raise _too_long("a content type", len(text), LONGEST_HEADER)
    return text.encode("latin-1")


def _too_long(what: str, length: int, most: int) -> BackendError:
    return BackendError(
        f"a handler's answer has {what} of {length:,} characters; clients read at most {most:,}: it goes in the body"
    )
