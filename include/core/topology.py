"""Topological order with a stable answer for cycles."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping


def ordered(
    nodes: Collection[int], predecessors: Mapping[int, Collection[int]]
) -> tuple[list[int], set[int]]:
    """Nodes with every predecessor before its successors, ties by number.

    Where cycles block all that is left, the lowest number of one of them goes next.

    Returns:
        the order, and the nodes that had to be placed before one of their predecessors.
    """
    members = set(nodes)
    waiting = {node: set(predecessors.get(node, ())) & members - {node} for node in members}
    followers: dict[int, set[int]] = {}
    for node, before in waiting.items():
        for earlier in before:
            followers.setdefault(earlier, set()).add(node)
    ready = [node for node, before in waiting.items() if not before]
    heapq.heapify(ready)
    order: list[int] = []
    forced: set[int] = set()
    while waiting:
        if ready:
            node = heapq.heappop(ready)
        else:
            node = min(_cycle(waiting))
            forced.add(node)
        del waiting[node]
        order.append(node)
        for follower in followers.get(node, ()):
            if follower in waiting:
                waiting[follower].discard(node)
                if not waiting[follower]:
                    heapq.heappush(ready, follower)
    return order, forced


def _cycle(waiting: Mapping[int, Collection[int]]) -> list[int]:
    """Nodes of one cycle, found by going backwards where every node has a predecessor."""
    path = [min(waiting)]
    seen = {path[0]: 0}
    while True:
        node = min(waiting[path[-1]])
        if node in seen:
            return path[seen[node] :]
        seen[node] = len(path)
        path.append(node)
