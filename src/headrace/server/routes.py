"""From a path to what answers it: a door, or something that is only told."""

from __future__ import annotations

from headrace.server import inference, v2_rest
from headrace.server.door import Route
from headrace.server.inference import Predictions
from headrace.server.reply import Reply
from headrace.server.status import MethodNotAllowed, NotFound
from headrace.server.v2_rest import Infer
from headrace.serving.service import Service

_predictions, _infer = Predictions(), Infer()
_READ = ("GET", "HEAD")
TOLD = frozenset(("/ping", "/v2/health/live", "/v2/health/ready"))
"""Paths that load balancers ask for again and again; `tell` answers them, and costs nothing worth a Task."""


def route(path: str) -> Route | None:
    """The door `path` leads to, or None."""
    match path.split("/")[1:]:
        case ["predictions", name] if name:
            return Route(_predictions, name, None)
        case ["predictions", name, version] if name and version:
            return Route(_predictions, name, version)
        case ["v2", "models", name, "infer"] if name:
            return Route(_infer, name, None)
        case ["v2", "models", name, "versions", version, "infer"] if name and version:
            return Route(_infer, name, version)
    return None


def tell(service: Service, method: str, path: str) -> Reply:
    """What needs no model's work. NotFound, MethodNotAllowed."""
    reply = _told(service, path.rstrip("/").split("/")[1:])
    if reply is None:
        raise NotFound(f"there is no {path!r:.200}; see the API document")
    if method not in _READ:
        raise MethodNotAllowed(method, path, "GET")
    return reply


def _told(service: Service, path: list[str]) -> Reply | None:
    match path:
        case ["ping"]:
            return inference.ping(service)
        case ["v2"]:
            return v2_rest.server_metadata()
        case ["v2", "health", "live"]:
            return v2_rest.live()
        case ["v2", "health", "ready"]:
            return v2_rest.ready(service)
        case ["v2", "models", name]:
            return v2_rest.model_metadata(service, name, None)
        case ["v2", "models", name, "ready"]:
            return v2_rest.model_ready(service, name, None)
        case ["v2", "models", name, "versions", version]:
            return v2_rest.model_metadata(service, name, version)
        case ["v2", "models", name, "versions", version, "ready"]:
            return v2_rest.model_ready(service, name, version)
    return None
