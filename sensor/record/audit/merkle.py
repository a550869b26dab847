"""The Merkle tree over the trail's records: RFC 6962 section 2.1, RFC 9162 section 2.1.

A tree is held as its compact range, the roots of the perfect subtrees that make it up, the largest first: one hash
for each bit that is set in its size. Appending costs one hash on average.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from hashlib import sha256

HASH_BYTES = 32
EMPTY_ROOT = sha256(b"").digest()


def leaf_hash(data: bytes) -> bytes:
    return sha256(b"\0" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(b"\1" + left + right).digest()


class Tree:
    """A tree that grows; ValueError where `nodes` cannot be the compact range of `size` leaves."""

    def __init__(self, size: int = 0, nodes: Sequence[bytes] = ()) -> None:
        if size < 0 or len(nodes) != size.bit_count() or any(len(node) != HASH_BYTES for node in nodes):
            raise ValueError(f"{len(nodes)} nodes make no tree of {size} leaves")
        self.size = size
        self.nodes = list(nodes)

    def append(self, leaf: bytes) -> None:
        """`leaf` is a `leaf_hash`."""
        node, size = leaf, self.size
        while size & 1:
            node = node_hash(self.nodes.pop(), node)
            size >>= 1
        self.nodes.append(node)
        self.size += 1

    def root(self) -> bytes:
        if not self.nodes:
            return EMPTY_ROOT
        node = self.nodes[-1]
        for left in self.nodes[-2::-1]:
            node = node_hash(left, node)
        return node

    def copy(self) -> Tree:
        return Tree(self.size, self.nodes)


class Prover:
    """Inclusion proofs of a few leaves in one pass over all: memory for the proofs alone."""

    def __init__(self, targets: Iterable[int]) -> None:
        self._targets = sorted(set(targets))
        self._proofs: dict[int, list[bytes]] = {target: [] for target in self._targets}
        self._ranges: list[tuple[int, bytes]] = []
        """Of each perfect subtree its first leaf and its root."""
        self.size = 0

    def append(self, leaf: bytes) -> None:
        node, start, bits = leaf, self.size, self.size
        self.size += 1
        while bits & 1:
            left_start, left = self._ranges.pop()
            node = self._merge(left_start, left, start, node, self.size)
            start = left_start
            bits >>= 1
        self._ranges.append((start, node))

    def finish(self) -> tuple[bytes, dict[int, list[bytes]]]:
        """The root, and for each target its proof, the lowest sibling first; nothing can be appended after that."""
        if not self._ranges:
            return EMPTY_ROOT, {}
        start, node = self._ranges.pop()
        while self._ranges:
            left_start, left = self._ranges.pop()
            node = self._merge(left_start, left, start, node, self.size)
            start = left_start
        return node, self._proofs

    def _merge(self, left_start: int, left: bytes, start: int, node: bytes, end: int) -> bytes:
        first = bisect_left(self._targets, left_start)
        for target in self._targets[first : bisect_left(self._targets, end)]:
            self._proofs[target].append(node if target < start else left)
        return node_hash(left, node)


def proves_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Does `proof` show that `leaf` is leaf number `index` of the tree with this size and root? RFC 9162, 2.1.3.2."""
    if not 0 <= index < size:
        return False
    number, last, node = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return False
        if number & 1 or number == last:
            node = node_hash(sibling, node)
            while number and not number & 1:
                number >>= 1
                last >>= 1
        else:
            node = node_hash(node, sibling)
        number >>= 1
        last >>= 1
    return last == 0 and node == root
