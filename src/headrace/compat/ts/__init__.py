"""The names that handlers import of TorchServe, inside a worker."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)  # a server that is really installed has what is not here

__version__ = "0.12.0"
"""The release whose contract these names keep."""
