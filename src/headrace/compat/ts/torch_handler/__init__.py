"""TorchServe's base and built-in handlers."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)  # a server that is really installed has what is not here
