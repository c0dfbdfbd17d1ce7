"""The release of TorchServe whose contract these names keep."""

__version__ = "0.12.0"
