"""Few edges that connect all nodes of a graph, of which no node has more than it has room for."""

from __future__ import annotations

import torch
from torch import Tensor

from tsscompat.kernels.ivf_lists import ranks


def spanning_edges(graph: Tensor, most: int) -> Tensor:
    """Neighbours in a tree of all nodes, at most `most` (2 or more) a node: (n, most), -1 beyond.

    The tree is made of a graph's edges (n, degree), those that stand first in their lists before others, as far as they connect and nodes
    have room; parts that are left apart are joined in pairs, by nodes that have few edges.
    """
    n = graph.shape[0]
    whole = torch.arange(n, device=graph.device)  # of each node, the part that it is in
    room = torch.full((n,), most, dtype=torch.int64, device=graph.device)
    found = [graph.new_empty(2, 0)]
    for column in graph.unbind(1):
        edges = torch.stack([torch.arange(n, device=graph.device), column])[:, column >= 0]
        while True:
            edges = edges[:, (whole[edges[0]] != whole[edges[1]]) & (room[edges] > 0).all(0)]
            if not edges.shape[1]:
                break
            chosen = _joined(edges, whole, room)
            found.append(edges[:, chosen])
        if bool((whole == whole[0]).all()):
            break
    while n and bool((whole != whole[0]).any()):
        pairs = _paired(whole, room)
        found.append(pairs[:, _joined(pairs, whole, room)])
    return _lists(torch.cat(found, 1), n, most)


def _joined(edges: Tensor, whole: Tensor, room: Tensor) -> Tensor:
    """Which of the edges (2, m) between parts join them, at most one for each part, with no circle; parts and room are updated.

    As in Borůvka's algorithm every part takes the first edge that it has. Of those that meet in a node without room for all, the first
    are kept; the very first edge always is.
    """
    n, m = room.shape[0], edges.shape[1]
    number, ends = torch.arange(m, device=edges.device), whole[edges]
    first = torch.full((n,), m, dtype=torch.int64, device=edges.device)
    first.scatter_reduce_(0, ends.reshape(-1), number.repeat(2), "amin")
    chosen = first[first < m].unique()
    nodes = edges[:, chosen].t().reshape(-1)  # both ends of the first edge, then of the second
    fits = (ranks(nodes, n)[0] < room[nodes]).view(-1, 2).all(1)
    chosen = chosen[fits]
    room -= torch.bincount(edges[:, chosen].reshape(-1), minlength=n)
    kept = torch.zeros(m + 1, dtype=torch.bool, device=edges.device)
    kept[chosen] = True
    # Each part points to the one at the other end of its edge; of two that point at each other the lesser stays.
    parts = torch.arange(n, device=edges.device)
    other = torch.cat([ends.sum(0), ends.new_zeros(1)])[first] - parts
    above = torch.where(kept[first], other, parts)
    above = torch.where((above[above] == parts) & (parts < above), parts, above)
    while True:
        higher = above[above]
        if bool((higher == above).all()):
            break
        above = higher
    whole.copy_(above[whole])
    return chosen


def _paired(whole: Tensor, room: Tensor) -> Tensor:
    """An edge between the first and the second part, one between the third and the fourth, and so on, at nodes with most room."""
    _, dense = whole.unique(return_inverse=True)
    order = torch.argsort(room, descending=True, stable=True)
    order = order[torch.argsort(dense[order], stable=True)]
    starts = (ranks(dense[order], int(dense.max()) + 1)[0] == 0).nonzero()[:, 0]
    nodes = order[starts]
    return nodes[: nodes.shape[0] // 2 * 2].view(-1, 2).t().contiguous()


def _lists(edges: Tensor, n: int, most: int) -> Tensor:
    """The neighbours of each node by edges (2, m): (n, most), -1 beyond."""
    source, target = torch.cat([edges, edges.flip(0)], 1)
    out = torch.full((n, most), -1, dtype=edges.dtype, device=edges.device)
    out[source, ranks(source, n)[0]] = target
    return out
