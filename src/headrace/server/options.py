"""What `headrace serve` can be told, each option written once; and what an address is."""

from __future__ import annotations

import ipaddress
import sys
from dataclasses import dataclass
from pathlib import Path

from headrace.config import Checked, option, settings_page
from headrace.engine.scheduler import Scheduler
from headrace.errors import InvalidOption
from headrace.log import FORMATS, LEVELS

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


def _scheduler(name: str) -> str:
    try:
        return Scheduler.from_str(name).value
    except InvalidOption as error:  # it names all there are, and a server has no use for the last one
        raise InvalidOption(str(error).removesuffix(", naive")) from None


@dataclass(frozen=True)
class ServeOptions(Checked):
    models: tuple[str, ...] = option(
        (),
        "what to serve: [NAME=]SOURCE, or `all` of the model store; without, all of the model store if there is one "
        "(under `--compat torchserve` and `mms` nothing of it), else the digits model",
    )
    model_store: str | None = option(None, "folder, or URL for fsspec, in which relative sources are looked for first")
    allowed_urls: tuple[str, ...] = option(
        (),
        "regular expression that the whole URL of a model may match to be fetched; several may be given; none: none is",
    )
    max_download_size: int = option(16 * GIB, "bytes of one model that is fetched", low=1)
    download_timeout: float = option(600.0, "seconds in which a model must have been fetched", low=0.01, high=86400)
    max_archive_size: int = option(16 * GIB, "bytes that one archive may be, unpacked", low=1)
    max_archive_files: int = option(10_000, "files and folders that one archive may have", low=1, high=10_000_000)
    max_archive_ratio: int = option(
        200, "times its packed size that an archive may be, unpacked, where that is over 64 MiB", low=1
    )
    cache_dir: str | None = option(
        None, "folder of your own for archives while they are served; none: one in the temporary folder"
    )
    inference_address: str = option("127.0.0.1:8080", "HOST:PORT of the inference API; port 0 takes a free one")
    management_address: str = option(
        "127.0.0.1:8081", "HOST:PORT of the management API, or `off`; as the inference API: both on one port"
    )
    compat: str = option(
        "headrace",
        "whose texts, statuses and shapes clients and managers get where the old servers differ",
        choices=("headrace", "torchserve", "mms", "triton"),
    )
    enable_model_api: bool = option(False, "accepted as TorchServe's: models may be registered and unregistered anyway")
    disable_model_api: bool = option(False, "registering and unregistering are told 405")
    model_control: str = option(
        "explicit",
        "how models come and go: as managers say (`explicit`), as files do in the store (`poll`), or not (`none`)",
        choices=("explicit", "poll", "none"),
    )
    model_poll_seconds: float = option(15.0, "seconds between two looks at the model store", low=0.01, high=86_400)
    snapshot: str | None = option(
        None,
        "file that says what is served, written after each change; where it exists at the start, what it says is "
        "served, and `--models` says nothing",
    )
    manage_callables: str = option(
        "no", "whether managers may register `module:function`, any code that can be imported", choices=("yes", "no")
    )
    enable_token_auth: bool = option(False, "each request needs a bearer token, as in TorchServe; keys: `--key-file`")
    disable_token_auth: bool = option(False, "accepted as TorchServe's: no tokens, whatever else is said")
    key_file: str = option("key_file.json", "file the tokens are written to, for its owner alone; removed at stop")
    token_expiration: float = option(3600.0, "seconds until a token expires", low=0.01, high=31_536_000)
    metrics_address: str = option("127.0.0.1:8082", "HOST:PORT of the metrics API, or `off`")
    grpc_address: str = option("127.0.0.1:8001", "HOST:PORT of the gRPC API, or `off`; comes later")
    ready_file: str | None = option(None, "file that says the addresses, once every model is ready; removed at stop")
    isolation: str = option(
        "auto",
        "where models run: in worker processes, which they may crash or block, or in the server's (`thread`); `auto`: "
        "callables in worker processes, ONNX models in the server's",
        choices=("auto", "process", "thread"),
    )
    workers: int = option(
        1, "worker processes of each model that runs in some, whatever minWorkers in its YAML says", low=1, high=256
    )
    share_weights: bool = option(
        False, "have the worker processes of an ONNX model use one copy of its weights; the log says what that costs"
    )
    response_timeout: float = option(
        120.0,
        "seconds a run in a worker may take (of an answer in parts: each part); longer, and the worker is replaced",
        low=0.01,
        high=1_000_000,
    )
    cancel_grace: float = option(
        5.0,
        "seconds a run in a worker may go on after it was cancelled; longer, and it is ended with its worker",
        low=0.01,
        high=1_000_000,
    )
    startup_timeout: float = option(
        120.0,
        "seconds in which a worker has to have loaded its model; the default of what managers register, too",
        low=0.01,
        high=1_000_000,
    )
    idempotent: str = option(
        "yes", "whether what a worker had begun when it died may be run once more", choices=("yes", "no")
    )
    memory_limit: int | None = option(
        None,
        "bytes of memory each worker may have (by a cgroup, or of address space where none may be made)",
        low=1 << 20,
    )
    concurrency: int = option(
        32, "runs of a coroutine function that go on at once in one worker process", low=1, high=256
    )
    service_envelope: str | None = option(
        None,
        "what clients put around the inputs of handlers: body, json, kserve or kservev2; none: nothing",
        choices=("body", "json", "kserve", "kservev2"),
    )
    decode_input_request: str = option(
        "yes", "whether handlers are given JSON and text as such (`no`: all bodies as bytes)", choices=("yes", "no")
    )
    sequence_id_header: str = option(
        "ts_request_sequence_id", "header that names the sequence a request belongs to, for models that have sequences"
    )
    sequence_start_header: str = option(
        "ts_request_sequence_start", "header that says `true` in the first request of a sequence"
    )
    sequence_end_header: str = option(
        "ts_request_sequence_end", "header that says `true` in the last request of a sequence"
    )
    python: tuple[str, ...] = option(
        (),
        "what workers run: [NAME=]PATH, an interpreter or a virtual environment's folder, for model NAME or for all; "
        "nothing: the server's own",
    )
    install_requirements: str = option(
        "no",
        "whether archives with a requirements.txt get an environment of their own, built by pip once and kept",
        choices=("no", "yes"),
    )
    install_timeout: float = option(600.0, "seconds building one environment may take", low=0.01, high=86400)
    environments: str | None = option(
        None, "folder in which environments built from requirements are kept; none: the user's cache folder"
    )
    allowed_environments: str | None = option(
        None, "folder of environments that the YAML of an archive may name; none: only what is in the archive"
    )
    scheduler: str = option(
        "single_stream",
        "how requests share a model's cores",
        choices=("single_stream", "multi_stream", "elastic"),
        read=lambda name: _scheduler(name),
    )
    num_cores: int | None = option(None, "cores each model may use; none: all", low=1)
    num_streams: int | None = option(
        None,
        "streams of each model; none: under multi_stream one for each core, under elastic one for each NUMA node or L3",
        low=1,
    )
    max_batch_size: int | None = option(
        None, "rows joined into one run; none: 32 where a batch gives what its members give alone, else 1", low=1
    )
    max_batch_delay: float = option(
        0.0, "seconds a free stream waits for company while another one runs", low=0, high=3600
    )
    max_requests: int = option(10_000, "requests inside at once; more are told 429", low=1)
    max_bytes: int | None = option(None, "bytes that requests inside may hold; none: a quarter of the memory", low=1)
    max_body_size: int = option(64 * MIB, "bytes of one request body; more is told 413", low=1)
    max_header_size: int = option(32 * KIB, "bytes of one request's headers; more is told 431", low=256)
    max_header_count: int = option(100, "headers of one request; more is told 431", low=1)
    max_url_length: int = option(8 * KIB, "bytes of a request's target; more is told 414", low=64)
    max_connections: int = option(10_000, "connections at once; one more is told 503 and closed", low=1)
    header_timeout: float = option(
        30.0, "seconds from a request's first byte to the end of its headers; later is told 408", low=0.01, high=86400
    )
    body_timeout: float = option(
        60.0,
        "seconds after its headers by which the body of a request must be here; later is told 408",
        low=0.01,
        high=86400,
    )
    idle_timeout: float = option(
        75.0, "seconds a connection without a request is kept open; longer, and it is closed", low=0.01, high=86400
    )
    write_timeout: float = option(
        60.0,
        "seconds a client may take nothing of its reply; longer, or while `--max-bytes` wait so, it is cut off",
        low=0.01,
        high=86400,
    )
    tls_cert: str | None = option(None, "PEM file of the certificate; with it, the inference API speaks https")
    tls_key: str | None = option(None, "PEM file of the certificate's private key; none: it is in the same file")
    drain_timeout: float = option(
        30.0, "seconds to answer what was accepted, after SIGTERM or Ctrl-C", low=0, high=86400
    )
    log_level: str = option("info", "least level that is logged to stderr", choices=LEVELS)
    log_format: str = option("text", "form of the lines of both logs; json: an object on each line", choices=FORMATS)
    access_log: str = option(
        "off", "a line for each request: `off`, `on` (to stdout), or a file; SIGHUP has the file opened again"
    )


@dataclass(frozen=True)
class Address:
    """Where a door listens."""

    host: str
    port: int

    @classmethod
    def parse(cls, flag: str, text: str, *, encrypted: bool | None = None) -> Address | None:
        """`HOST:PORT`, `[IPV6]:PORT`, and what TorchServe's files have, `http://HOST:PORT`; None for `off`.

        `encrypted`: whether TLS is spoken there; None: it never is. InvalidOption says what was expected.
        """
        if text == "off":
            return None
        scheme, _, rest = text.partition("://")
        if scheme.lower() in ("http", "https"):
            rest = rest.removesuffix("/")
            _check_scheme(flag, text, rest, scheme.lower() == "https", encrypted)
        else:
            rest = text
        host, colon, port = rest.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif _is_ipv6(host):
            raise InvalidOption(f"{flag}: an IPv6 address is written [{host}]:{port}")
        elif _is_ipv6(rest):
            raise InvalidOption(f"{flag}: an IPv6 address is written [{rest}]:PORT")
        elif set(host) & set(":/@"):
            port = ""  # it is no name of a host
        # Its length first: Python refuses to read a number of thousands of digits.
        if not colon or not host or not port.isascii() or not port.isdigit() or len(port) > 5 or int(port) > 65535:
            raise InvalidOption(
                f"{flag} is HOST:PORT with a port from 0 to 65535, as 127.0.0.1:8080 (or http://HOST:PORT), or off, "
                f"not {text!r}"
            )
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _check_scheme(flag: str, text: str, rest: str, is_https: bool, encrypted: bool | None) -> None:
    """InvalidOption where that is not what will be spoken there. `rest`: without the scheme."""
    if is_https and encrypted is None:
        raise InvalidOption(f"{flag} {text}: that API has no TLS; write {rest}, or put a proxy that has in front of it")
    if is_https and not encrypted:
        raise InvalidOption(f"{flag} {text}: https needs a certificate (--tls-cert FILE); without TLS write {rest}")
    if not is_https and encrypted:
        raise InvalidOption(f"{flag} {text}: with --tls-cert that API speaks https; write https://{rest} or {rest}")


BUNDLED_DIGITS = str(Path(__file__).resolve().parent.parent / "bundled" / "digits")
"""Served when nothing else is asked for."""


def page() -> str:
    """docs/settings.md, which `make settings` writes."""
    return settings_page("Settings of `headrace serve`", ServeOptions)


if __name__ == "__main__":
    sys.stdout.write(page())
