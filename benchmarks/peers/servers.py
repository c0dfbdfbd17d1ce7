"""How each server is started with a model that does nothing, and where it is asked.

To add one: a function from (folder, variant) to a `Spec`, and an entry in `PEERS`.

Variants:
  tuned    request logs off, queue limits raised so that nothing is refused, no batching
  default  out of the box: only host, port and one worker are set
  batch    tuned, and at most 32 requests joined, waiting 1 ms (2 ms for the JVM servers)
Ours alone: default has the metrics door open, as `headrace serve` has it; quiet has it closed; logs has an access log
to a file as well.
`NAME-resnet`: the same ResNet-18, raw float32 in and JSON out, instead of a no-op. wide is one worker with a thread for
each core, narrow a worker with one thread for each core; ours has one process, and a scheduler. None spins.
"""

from __future__ import annotations

import atexit
import functools
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from load import BODY, JSON, post
from machine import REPOSITORY
from processes import free_port

HANDLERS = Path(__file__).resolve().parent / "handlers"
VENVS = Path(os.environ.get("HEADRACE_PEERS") or REPOSITORY / ".peers").resolve()
QUIET_LOG4J = HANDLERS / "quiet-log4j2.xml"


@dataclass(frozen=True)
class Spec:
    """One server, ready to be started. Relative paths are in the folder of its run."""

    argv: list[str]
    url: str
    env: dict[str, str] = field(default_factory=dict)
    body: Path = BODY
    content_type: str = JSON
    must: bytes = b"ok!"  # what a good answer contains
    setup: Callable[[], bool] | None = None  # tried again until true, before the first request
    ready_within: float = 60.0
    grace: float = 6.0  # seconds it gets to stop by itself


@dataclass(frozen=True)
class Peer:
    build: Callable[[Path, str], Spec]
    variants: tuple[str, ...]  # the first is meant when none is said
    packages: tuple[str, ...]  # whose versions go with the numbers
    venv: str | None = None  # None: the Python this runs in
    java: bool = False


def missing(spec_name: str) -> str | None:
    """Why the server cannot be measured here, or None if it can. ValueError if there is no such server."""
    name, _ = split(spec_name)
    peer = PEERS[name]
    if shutil.which("wrk") is None:
        return "wrk is not installed (apt-get install wrk)"
    if peer.venv is None:
        installed = all(importlib.util.find_spec(package) for package in peer.packages)
        return None if installed else f"{name} is not installed for {sys.executable}"
    if not _bin(peer.venv, "python").exists():
        return f"no virtual environment (benchmarks/peers/install.sh {peer.venv})"
    if peer.java and shutil.which("java") is None:
        return "java is not installed (apt-get install openjdk-17-jre-headless)"
    return None


def split(spec_name: str) -> tuple[str, str]:
    """`NAME[:VARIANT]` as (name, variant)."""
    name, _, variant = spec_name.partition(":")
    if name not in PEERS:
        raise ValueError(f"{name!r} is not one of {', '.join(PEERS)}")
    if variant and variant not in PEERS[name].variants:
        raise ValueError(f"{name} has no {variant!r}, only {', '.join(PEERS[name].variants)}")
    return name, variant or PEERS[name].variants[0]


def headrace(folder: Path, variant: str) -> Spec:
    more = ["--isolation", "process" if variant == "process" else "thread"]
    if variant == "logs":
        more += ["--access-log", str(folder / "access.log")]
    return ours("noop=noop_model:noop", *more, metrics="off" if variant == "quiet" else "127.0.0.1:0")


def ours(model: str, *more: str, metrics: str = "127.0.0.1:0", **spec: Any) -> Spec:
    """`headrace serve NAME=SOURCE` as it starts by default, but for ports that are free."""
    port = free_port()
    argv = [
        *(sys.executable, "-m", "headrace", "serve", model, "--inference-address", f"127.0.0.1:{port}"),
        *("--management-address", "off", "--grpc-address", "off", "--metrics-address", metrics, *more),
    ]
    path = os.pathsep.join(filter(None, [str(HANDLERS), os.environ.get("PYTHONPATH")]))
    return Spec(
        argv, f"http://127.0.0.1:{port}/predictions/{model.partition('=')[0]}", env={"PYTHONPATH": path}, **spec
    )


def headrace_archive(folder: Path, variant: str) -> Spec:
    store = _our_archive(folder)
    return ours("noop=noop.mar", "--model-store", str(store))


def mms_archive(folder: Path, variant: str) -> Spec:
    """The archive of `headrace_archive`, as it is."""
    return mms(folder, variant, store=_our_archive(folder))


def mms(
    folder: Path, variant: str, handler: str = "noop_handler", workers: int = 1, *, store: Path | None = None
) -> Spec:
    options = ("--model-path", HANDLERS, "--handler", f"{handler}:handle")
    store = store or _archive(folder, "mms", "model-archiver", *options)
    port, management = free_port(), free_port()
    config = {
        "inference_address": f"http://127.0.0.1:{port}",
        "management_address": f"http://127.0.0.1:{management}",
        "default_workers_per_model": workers,
    }
    argv = [str(_bin("mms", "multi-model-server")), "--start", "--foreground", "--model-store", str(store)]
    if variant != "default":
        config |= {"job_queue_size": 4096, "async_logging": "true"}
        argv += ["--log-config", str(QUIET_LOG4J)]
    if variant != "batch":
        argv += ["--models", "noop=noop.mar"]
    argv += ["--mms-config", str(_properties(folder, config))]

    def register() -> bool:  # the batch size can only be given through the management API
        query = "url=noop.mar&model_name=noop&batch_size=32&max_batch_delay=2&initial_workers=1&synchronous=true"
        form = "application/x-www-form-urlencoded"  # as application/json it is refused
        return post(f"http://127.0.0.1:{management}/models?{query}", b"", content_type=form, timeout=30)[0] == 200

    return Spec(
        argv,
        f"http://127.0.0.1:{port}/predictions/noop",
        env=_path("mms") | {"TEMP": str(folder), "TMPDIR": str(folder)},
        setup=register if variant == "batch" else None,
    )


def torchserve(folder: Path, variant: str, handler: str = "noop_handler", workers: int = 1) -> Spec:
    files = ["--handler", HANDLERS / f"{handler}.py"]
    if handler == "resnet_handler":
        files += ["--extra-files", HANDLERS / "resnet_session.py"]
    store = _archive(folder, "torchserve", "torch-model-archiver", "--version", "1.0", *files)
    port = free_port()
    model = {
        "defaultVersion": True,
        "marName": "noop.mar",
        "minWorkers": workers,
        "maxWorkers": workers,
        "batchSize": 32 if variant == "batch" else 1,
        "maxBatchDelay": 2,
        "responseTimeout": 120,
    }
    config = {
        "inference_address": f"http://127.0.0.1:{port}",
        "management_address": f"http://127.0.0.1:{free_port()}",
        "metrics_address": f"http://127.0.0.1:{free_port()}",
        "grpc_inference_port": free_port(),
        "grpc_management_port": free_port(),
        "models": json.dumps({"noop": {"1.0": model}}),
        "model_store": store,
        "load_models": "noop.mar",
    }
    argv = [
        *(str(_bin("torchserve", "torchserve")), "--start", "--foreground", "--ncs", "--disable-token-auth"),
        *("--model-store", str(store)),
    ]
    if variant != "default":
        config |= {"job_queue_size": 4096, "async_logging": "true", "disable_system_metrics": "true"}
        argv += ["--log-config", str(QUIET_LOG4J)]
    argv += ["--ts-config", str(_properties(folder, config))]
    folders = dict.fromkeys(("TEMP", "TMPDIR", "LOG_LOCATION", "METRICS_LOCATION"), str(folder))
    return Spec(
        argv, f"http://127.0.0.1:{port}/predictions/noop", env=_path("torchserve") | folders, ready_within=120.0
    )


def mosec(folder: Path, variant: str, server: str = "mosec_noop.py") -> Spec:
    port = free_port()
    argv = [
        *(str(_bin("mosec", "python")), str(HANDLERS / server), "--address", "127.0.0.1", "--port", str(port)),
        *("--path", str(folder), "--timeout", "60000", "--capacity", "8192"),
    ]
    if variant != "default":
        argv += ["--log-level", "error"]
    return Spec(argv, f"http://127.0.0.1:{port}/inference", env={"BATCH": _batch(variant)})


def litserve(folder: Path, variant: str) -> Spec:
    port = free_port()
    env = {"PORT": str(port), "BATCH": _batch(variant)}
    if variant != "default":
        env["LOG_LEVEL"] = "error"
    if variant == "fastq":  # the queue between its processes is zmq
        env["FAST_QUEUE"] = "1"
    argv = [str(_bin("litserve", "python")), str(HANDLERS / "litserve_noop.py")]
    return Spec(argv, f"http://127.0.0.1:{port}/predict", env=env)


def bentoml(folder: Path, variant: str) -> Spec:
    port = free_port()
    env = _path("bentoml") | {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(folder)}
    argv = [str(_bin("bentoml", "bentoml")), "serve", "bentoml_noop:Noop", "--working-dir", str(HANDLERS)]
    argv += ["--host", "127.0.0.1", "--port", str(port)]
    if variant != "default":
        env["QUIET"] = "1"
        argv.append("-q")
    body = BODY
    if variant == "batch":
        body = folder / "body.json"
        body.write_bytes(b'{"items":[%b]}' % BODY.read_bytes())
    endpoint = {"batch": "predict_batch", "async": "predict_async"}.get(variant, "predict")
    return Spec(argv, f"http://127.0.0.1:{port}/{endpoint}", env=env, body=body)


def mlserver(folder: Path, variant: str) -> Spec:
    port = free_port()
    settings = {
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": free_port(),
        "metrics_port": free_port(),
        "parallel_workers": 0 if variant == "inproc" else 1,  # 0: the model is in the server's process
    }
    if variant != "default":
        (folder / "log.conf").write_text(MLSERVER_LOGGING)
        settings |= {"debug": False, "logging_settings": str(folder / "log.conf"), "metrics_endpoint": None}
    (folder / "settings.json").write_text(json.dumps(settings))
    model: dict[str, object] = {"name": "noop", "implementation": "mlserver_noop.Noop"}
    if variant == "batch":
        model |= {"max_batch_size": 32, "max_batch_time": 0.001}
    (folder / "model-settings.json").write_text(json.dumps(model))
    return Spec(
        [str(_bin("mlserver", "mlserver")), "start", str(folder)],
        f"http://127.0.0.1:{port}/v2/models/noop/infer",
        env=_path("mlserver") | {"PYTHONPATH": str(HANDLERS)},
        body=_v2_body(folder, [1, 8]),
        must=b"outputs",
    )


def pytriton(folder: Path, variant: str) -> Spec:
    port = free_port()
    env = {
        "PORT": str(port),
        "GRPC_PORT": str(free_port()),
        "METRICS_PORT": str(free_port()),
        "BATCH": _batch(variant),
        "PYTRITON_HOME": str(folder),
        "PYTRITON_NO_WORKSPACE_CLEANUP": "0",
        "PYTRITON_TRACE_LEVEL": "OFF",
    }
    return Spec(
        [str(_bin("pytriton", "python")), str(HANDLERS / "pytriton_noop.py")],
        f"http://127.0.0.1:{port}/v2/models/noop/infer",
        env=_path("pytriton") | env,
        body=_v2_body(folder, [1, 8] if variant == "batch" else [8]),
        must=b"outputs",
        ready_within=90.0,
        grace=15.0,
    )


def ray(folder: Path, variant: str) -> Spec:
    port = free_port()
    env = {
        "PORT": str(port),
        "BATCH": _batch(variant),
        "RAY_TMP": str(folder),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DISABLE_IMPORT_WARNING": "1",
        "RAY_AUTH_MODE": "disabled",
    }
    if variant != "default":
        env["TUNED"] = "1"
    argv = [str(_bin("ray", "python")), str(HANDLERS / "ray_noop.py")]
    return Spec(argv, f"http://127.0.0.1:{port}/predictions/noop", env=env, ready_within=120.0, grace=15.0)


def uvicorn_raw(folder: Path, variant: str) -> Spec:
    port = free_port()
    argv = [
        *(sys.executable, "-m", "uvicorn", "asgi_raw:app", "--app-dir", str(HANDLERS)),
        *("--host", "127.0.0.1", "--port", str(port), "--backlog", "4096", "--workers", "1"),
        *("--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"),
    ]
    return Spec(argv, f"http://127.0.0.1:{port}/predictions/noop")


def proto_raw(folder: Path, variant: str) -> Spec:
    port = free_port()
    argv = [sys.executable, str(HANDLERS / "proto_raw.py")]
    return Spec(argv, f"http://127.0.0.1:{port}/predictions/noop", env={"PORT": str(port)})


def resnet(peer: Callable[..., Spec], folder: Path, variant: str) -> Spec:
    """The server with ResNet-18 in it."""
    cores = len(os.sched_getaffinity(0))
    workers, threads = (1, cores) if variant == "wide" else (cores, 1)
    if peer is mosec:
        spec = mosec(folder, variant, "mosec_resnet.py")
    else:
        spec = peer(folder, variant, "resnet_handler", workers)
    env = {**spec.env, "WORKERS": str(workers), "THREADS": str(threads), "ONNX": str(resnet_file())}
    return replace(spec, env=env, **resnet_request(folder))


def headrace_resnet(folder: Path, variant: str) -> Spec:
    return ours(f"resnet={resnet_file()}", "--scheduler", variant, **resnet_request(folder))


def resnet_request(folder: Path) -> dict[str, Any]:
    body = folder / "tensor"
    body.write_bytes(resnet_input().tobytes())
    return {"body": body, "content_type": "application/octet-stream", "must": b"["}


def resnet_input() -> Any:
    import numpy

    return numpy.random.default_rng(0).normal(size=(1, 3, RESNET_SIZE, RESNET_SIZE)).astype(numpy.float32)


@functools.cache
def resnet_file() -> Path:
    """Written once, and removed when this process ends."""
    import onnx
    from make_resnet18 import resnet18

    made = tempfile.TemporaryDirectory(prefix="resnet-")
    atexit.register(made.cleanup)
    path = Path(made.name) / "resnet18.onnx"
    onnx.save(resnet18(RESNET_SIZE), str(path))
    return path


RESNET_SIZE = 128
USUAL = ("tuned", "default", "batch")
PEERS = {
    "headrace": Peer(headrace, ("default", "process", "quiet", "logs"), ("headrace",)),
    "headrace-archive": Peer(headrace_archive, ("default",), ("headrace",)),
    "mms-archive": Peer(mms_archive, USUAL, ("multi-model-server",), venv="mms", java=True),
    "mms": Peer(mms, USUAL, ("multi-model-server",), venv="mms", java=True),
    "torchserve": Peer(torchserve, USUAL, ("torchserve", "torch"), venv="torchserve", java=True),
    "mosec": Peer(mosec, USUAL, ("mosec",), venv="mosec"),
    "litserve": Peer(litserve, (*USUAL, "fastq"), ("litserve", "uvicorn"), venv="litserve"),
    "bentoml": Peer(bentoml, (*USUAL, "async"), ("bentoml", "uvicorn"), venv="bentoml"),
    "mlserver": Peer(mlserver, (*USUAL, "inproc"), ("mlserver", "uvicorn", "uvloop"), venv="mlserver"),
    "pytriton": Peer(pytriton, USUAL, ("nvidia-pytriton",), venv="pytriton"),
    "ray": Peer(ray, USUAL, ("ray",), venv="ray"),
    "headrace-resnet": Peer(headrace_resnet, ("single_stream", "multi_stream"), ("headrace", "onnxruntime")),
    **{
        f"{name}-resnet": Peer(functools.partial(resnet, build), ("wide", "narrow"), packages, venv=name, java=java)
        for name, build, packages, java in (
            ("mms", mms, ("multi-model-server", "onnxruntime"), True),
            ("torchserve", torchserve, ("torchserve", "onnxruntime"), True),
            ("mosec", mosec, ("mosec", "onnxruntime"), False),
        )
    },
    # Not model servers: the floor under anything that speaks HTTP in Python; with the very packages Headrace uses.
    "uvicorn-raw": Peer(uvicorn_raw, ("default",), ("uvicorn", "uvloop", "httptools")),
    "proto-raw": Peer(proto_raw, ("default",), ("uvloop", "httptools")),
}

MLSERVER_LOGGING = """\
[loggers]
keys=root,mlserver
[handlers]
keys=stderr
[formatters]
keys=plain
[logger_root]
level=ERROR
handlers=stderr
[logger_mlserver]
level=ERROR
handlers=stderr
qualname=mlserver
propagate=0
[handler_stderr]
class=StreamHandler
args=(sys.stderr,)
[formatter_plain]
format=%(message)s
"""


def _bin(venv: str, program: str) -> Path:
    return VENVS / f"venv-{venv}" / "bin" / program


def _path(venv: str) -> dict[str, str]:
    """For servers that start their workers with whatever `python` is first."""
    return {"PATH": os.pathsep.join([str(_bin(venv, "")), os.environ["PATH"]])}


def _batch(variant: str) -> str:
    return "32" if variant == "batch" else "1"


def _properties(folder: Path, config: dict[str, object]) -> Path:
    path = folder / "config.properties"
    path.write_text("".join(f"{key}={value}\n" for key, value in config.items()))
    return path


def _v2_body(folder: Path, shape: list[int]) -> Path:
    """The floats of body.json as a KServe v2 request."""
    small = json.loads(BODY.read_bytes())
    tensor = {"name": "x", "shape": shape, "datatype": "FP32", "data": small["inputs"]}
    path = folder / "v2.json"
    path.write_text(json.dumps({"id": small["id"], "inputs": [tensor]}, separators=(",", ":")))
    return path


def _our_archive(folder: Path) -> Path:
    """A model store with noop.mar in it, made by `headrace archive`: a service of Multi Model Server's kind."""
    store, model = folder / "store", folder / "model"
    model.mkdir()
    shutil.copy(HANDLERS / "noop_service.py", model)
    argv = [
        *(sys.executable, "-m", "headrace", "archive", "--model-name", "noop", "--model-path", str(model)),
        *("--handler", "noop_service:handle", "--export-path", str(store)),
    ]
    store.mkdir()
    ran = subprocess.run(argv, capture_output=True, text=True)
    if ran.returncode:
        raise RuntimeError(f"headrace archive ended with {ran.returncode}: {ran.stderr[-400:]}")
    return store


def _archive(folder: Path, venv: str, archiver: str, *options: object) -> Path:
    """A model store with noop.mar in it."""
    store = folder / "store"
    store.mkdir()
    argv = [_bin(venv, archiver), "--model-name", "noop", "--export-path", store, *options]
    ran = subprocess.run([str(part) for part in argv], capture_output=True, text=True)
    if ran.returncode:
        raise RuntimeError(f"{archiver} ended with {ran.returncode}: {ran.stderr[-400:]}")
    return store
