"""WebSocket frames (RFC 6455 section 5): the payload in them."""

from __future__ import annotations

_CONTROL = 0x08
_RESERVED = 0x70
_MASKED = 0x80


class Unframe:
    """Takes the frames of one direction off and gives the data that they carry, unmasked.

    Control frames are dropped, and frames of an extension, such as compressed ones (RFC 7692).
    """

    __slots__ = ("_drop", "_head", "_left", "_mask")

    def __init__(self) -> None:
        self._head = b""
        self._left = 0
        self._mask = b""
        self._drop = False

    def __call__(self, data: bytes) -> bytes:
        out = []
        while data:
            if not self._left:
                data = self._read_head(data)
                continue
            piece, data = data[: self._left], data[self._left :]
            self._left -= len(piece)
            if not self._drop:
                out.append(self._unmask(piece))
        return b"".join(out)

    def _read_head(self, data: bytes) -> bytes:
        """Takes what the frame's header needs and gives the rest."""
        head = self._head
        size = 2 if len(head) < 2 else _head_size(head)
        wanted = size - len(head)
        head += data[:wanted]
        data = data[wanted:]
        if len(head) < 2 or len(head) < _head_size(head):
            self._head = head
            return data
        self._head = b""
        length = head[1] & 0x7F
        if length == 126:
            length = int.from_bytes(head[2:4], "big")
        elif length == 127:
            length = int.from_bytes(head[2:10], "big")
        self._left = length
        self._mask = head[-4:] if head[1] & _MASKED else b""
        self._drop = bool(head[0] & (_CONTROL | _RESERVED))
        return data

    def _unmask(self, piece: bytes) -> bytes:
        if not self._mask:
            return piece
        size = len(piece)
        key = (self._mask * (size // 4 + 1))[:size]
        turn = size % 4
        self._mask = self._mask[turn:] + self._mask[:turn]
        return (int.from_bytes(piece, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")


def _head_size(head: bytes) -> int:
    length = head[1] & 0x7F
    return 2 + (2 if length == 126 else 8 if length == 127 else 0) + (4 if head[1] & _MASKED else 0)
