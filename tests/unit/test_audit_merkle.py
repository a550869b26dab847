"""The Merkle tree against the roots that RFC 6962's reference implementation gives, and proofs against RFC 9162."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.record.audit.merkle import EMPTY_ROOT, Prover, Tree, leaf_hash, node_hash, proves_inclusion

LEAVES = [
    bytes.fromhex(leaf)
    for leaf in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
"""By size; from the tests of the certificate-transparency project."""


def mth(leaves: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, by its own words."""
    if len(leaves) < 2:
        return leaf_hash(leaves[0]) if leaves else EMPTY_ROOT
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return node_hash(mth(leaves[:k]), mth(leaves[k:]))


def path(index: int, leaves: list[bytes]) -> list[bytes]:
    """RFC 6962 section 2.1.1, by its own words."""
    if len(leaves) == 1:
        return []
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    if index < k:
        return [*path(index, leaves[:k]), mth(leaves[k:])]
    return [*path(index - k, leaves[k:]), mth(leaves[:k])]


def test_known_roots() -> None:
    tree = Tree()
    for size, root in enumerate(ROOTS):
        assert (tree.size, tree.root().hex()) == (size, root)
        if size < len(LEAVES):
            tree.append(leaf_hash(LEAVES[size]))


@given(st.lists(st.binary(max_size=4), max_size=70), st.integers(0, 70))
def test_roots_proofs_and_going_on(leaves: list[bytes], cut: int) -> None:
    tree, prover = Tree(), Prover(range(0, len(leaves), 3))
    for number, leaf in enumerate(leaves):
        if number == cut:
            tree = Tree(tree.size, tree.nodes)  # as after a restart
        tree.append(leaf_hash(leaf))
        prover.append(leaf_hash(leaf))
    root, proofs = prover.finish()
    assert tree.root() == root == mth(leaves)
    assert list(proofs) == list(range(0, len(leaves), 3))
    for index, proof in proofs.items():
        assert proof == path(index, leaves)
        assert proves_inclusion(leaf_hash(leaves[index]), index, len(leaves), proof, root)


@given(st.integers(1, 40), st.data())
def test_no_other_proof_is_accepted(size: int, data: st.DataObject) -> None:
    leaves = [bytes([number]) for number in range(size)]
    index = data.draw(st.integers(0, size - 1))
    proof, root = path(index, leaves), mth(leaves)
    other = data.draw(st.integers(-1, size + 3).filter(lambda other: other != index))
    leaf = leaf_hash(leaves[index])
    assert not proves_inclusion(leaf, other, size, proof, root)
    assert not proves_inclusion(leaf_hash(b"other"), index, size, proof, root)
    assert not proves_inclusion(leaf, index, size, [*proof, root], root)
    assert not proves_inclusion(leaf, index, size, proof, leaf_hash(b"root"))
    if proof:
        assert not proves_inclusion(leaf, index, size, proof[:-1], root)
        assert not proves_inclusion(leaf, index, size, [bytes(32), *proof[1:]], root)


def test_nodes_that_make_no_tree() -> None:
    for size, nodes in ((1, []), (2, [bytes(32)] * 2), (1, [b"short"]), (-1, [])):
        with pytest.raises(ValueError, match="make no tree"):
            Tree(size, nodes)
