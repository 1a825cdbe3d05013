"""What goes into a step beside the nodes whose facts are wanted: ancestors, which a worker may lack (law 6)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from shared.session.tree import Node
from shared.step import StepNode


def with_ancestors(nodes: Iterable[Node], end: Node) -> list[Node]:
    """The nodes and all between them and the end, parents first.

    Raises:
        ValueError: one of them does not hang from the end.
    """
    found: dict[int, Node] = {}
    for node in nodes:
        walk = node
        while walk.key not in found and walk is not end:
            found[walk.key] = walk
            if walk.parent is None:
                raise ValueError(f"{node} does not hang from the end")
            walk = walk.parent
    return sorted(found.values(), key=lambda node: node.key)


def step_nodes(ordered: Sequence[Node], wanted: Collection[int], end: Node) -> tuple[StepNode, ...]:
    """As a worker is told of them; `wanted`: keys of those whose facts are asked for."""
    index = {node.key: i for i, node in enumerate(ordered)}
    return tuple(
        StepNode(
            node.key,
            node.token,
            index[node.parent.key] if node.parent is not None and node.parent is not end else -1,
            node.key in wanted,
        )
        for node in ordered
    )
