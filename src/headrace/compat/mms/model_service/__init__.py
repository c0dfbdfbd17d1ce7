"""The services of Multi Model Server 0.4, which archives made for it derive theirs from."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)  # a server that is really installed has what is not here
