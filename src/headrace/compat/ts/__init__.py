"""The names that handlers import of TorchServe, inside a worker."""

from pkgutil import extend_path

from .version import __version__ as __version__

__path__ = extend_path(__path__, __name__)  # a server that is really installed has what is not here
