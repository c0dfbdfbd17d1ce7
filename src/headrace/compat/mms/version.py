"""The release of Multi Model Server whose contract these names keep."""

__version__ = "1.1.11"
