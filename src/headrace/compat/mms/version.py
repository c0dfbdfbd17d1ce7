"""The release of Multi Model Server whose contract these names keep."""

from importlib import import_module

__version__: str = import_module("mms").__version__
