"""Callables whose processes wait for something at their end."""

import asyncio
import atexit
import threading
from concurrent.futures import ThreadPoolExecutor

for_ever = threading.Event()
POOL = ThreadPoolExecutor(2)


def polls(x):
    def poll():
        for_ever.wait()

    threading.Thread(target=poll, name="poller").start()
    return x


def saves(x):
    def save_all():
        for_ever.wait()

    atexit.register(save_all)
    return x


async def asks(x):
    asyncio.get_running_loop().run_in_executor(None, for_ever.wait)
    return x


def has_idle_threads(x):
    return POOL.submit(abs, x).result()
