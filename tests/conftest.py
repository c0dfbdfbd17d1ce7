import gc

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs other environments comes last: they are being made meanwhile (`other_environments`)."""
    items.sort(key=lambda item: bool({"torch_python", "mxnet_python"} & set(getattr(item, "fixturenames", ()))))


@pytest.fixture(autouse=True, scope="module")
def light_collections() -> None:
    """What all the modules before have left is not looked at again and again: many tests call the collector, and with
    a large heap, which runtimes and Hypothesis bring, one call takes a third of a second of every thread."""
    gc.collect()
    gc.freeze()
