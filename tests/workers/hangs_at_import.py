"""Is never loaded."""

import threading

threading.Event().wait()


def f(x):
    return x
