"""Helpers of MXNet services. They need mxnet in the worker's environment, and import it when they are used."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)  # a server that is really installed has what is not here
