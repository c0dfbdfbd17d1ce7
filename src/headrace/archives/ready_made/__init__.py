"""Handlers that need no code, for workers: each file with a class is a handler like anybody's.

They are loaded by their paths in other people's environments, as `workers/child` loads its neighbours: Python 3.8, the
standard library and NumPy (1.22) at import; a runtime and Pillow when a model needs them.
"""
