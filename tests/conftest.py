import gc

import pytest


@pytest.fixture(autouse=True, scope="module")
def light_collections() -> None:
    """What all the modules before have left is not looked at again and again: many tests call the collector, and with
    a large heap, which runtimes and Hypothesis bring, one call takes a third of a second of every thread."""
    gc.collect()
    gc.freeze()
