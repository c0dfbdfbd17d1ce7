"""The release of TorchServe whose contract these names keep."""

from importlib import import_module

__version__: str = import_module("ts").__version__
