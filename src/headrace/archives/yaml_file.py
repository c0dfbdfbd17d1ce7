"""The text of a model's YAML, and what it says.

Rule 1: it was written by whoever made the archive: reading it takes a bounded time, and so does whatever is done with
        what it says. So it is not long, not deep, and what its aliases repeat counts each time.
"""

from __future__ import annotations

from typing import Any

import yaml

MAX_BYTES = 256 << 10
"""Reading takes about 10 us for each."""
DEEPEST = 100
MAX_VALUES = 1_000_000
"""Scalars, lists and mappings, each as often as aliases repeat it."""


def parse_yaml(text: bytes) -> Any:
    """Plain values, as YAML's safe schema has them. ValueError says, on one line, why there are none."""
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from error


class _Loader(yaml.SafeLoader):
    def __init__(self, stream: bytes) -> None:
        super().__init__(stream)
        self._depth = 0
        self._made: dict[yaml.Node, tuple[int, int]] = {}
        """Of each that is whole: how many values it is, and how deep."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._depth += 1
        self._check_depth(self._depth)
        is_alias = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is None:
            return None
        if is_alias:
            if node not in self._made:
                raise yaml.YAMLError("an alias of what it is part of")
            self._check_depth(self._depth + self._made[node][1])
        else:
            self._made[node] = self._size_of(node)
        return node

    def _size_of(self, node: yaml.Node) -> tuple[int, int]:
        inside = () if isinstance(node, yaml.ScalarNode) else node.value
        parts = [self._made[each] for of in inside for each in (of if isinstance(of, tuple) else (of,))]
        count = 1 + sum(count for count, _ in parts)
        if count > MAX_VALUES:
            raise yaml.YAMLError(f"its aliases make more than {MAX_VALUES:,} values of it")
        return count, 1 + max((depth for _, depth in parts), default=0)

    def _check_depth(self, depth: int) -> None:
        if depth > DEEPEST:
            raise yaml.YAMLError(f"nested more than {DEEPEST} deep")
