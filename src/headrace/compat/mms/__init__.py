"""The names that handlers import of Multi Model Server, inside a worker."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)  # a server that is really installed has what is not here

__version__ = "1.1.11"
"""The release whose contract these names keep."""
