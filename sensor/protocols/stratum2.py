"""Stratum V2 by the lengths of its Noise handshake (Stratum V2 specification, section 4.5).

Every byte of it is random or encrypted, so only the turns of the talk tell: the miner sends its ephemeral key and
waits, the pool answers with 2 keys, 2 MACs and a certificate and waits, the miner sends an encrypted SetupConnection.
With ElligatorSwift keys (since January 2024) these are 64 and 64 + 64 + 16 + 74 + 16 = 234 bytes; section 4.5.2 also
prints 170, which is the sum for the 32-byte keys before that. No other protocol known to us has these turns, but a
private one may: a finding says that it is not certain.
"""

from __future__ import annotations

import re

_ANSWER = {64: 234, 32: 170}
_SETUP = 22 + 16 + 16
"""The least an encrypted SetupConnection takes: header with its MAC (section 4.6), empty texts (3.5), MAC."""
_PRIME = 2**256 - 2**32 - 977
"""Of secp256k1's field (SEC 2 section 2.4.1)."""

_TEXT = re.compile(rb"[\t\r\n\x20-\x7e]{16}")
"""As random bytes begin once in six million times."""


class Turns:
    """How many bytes each side sent before the other spoke; the first speaker may be either."""

    __slots__ = ("_lengths", "_speaker", "possible")

    def __init__(self) -> None:
        self._lengths: list[int] = []
        self._speaker: bool | None = None
        self.possible = True

    def add(self, ours: bool, count: int) -> None:
        """`count` more bytes from one side."""
        if ours is self._speaker:
            self._lengths[-1] += count
        else:
            self._lengths.append(count)
            self._speaker = ours
        lengths = self._lengths
        answer = _ANSWER.get(lengths[0], 0)
        self.possible = (
            (len(lengths) == 1 and lengths[0] <= max(_ANSWER))
            or (len(lengths) == 2 and lengths[1] <= answer)
            or (len(lengths) == 3 and lengths[1] == answer)
        )

    def handshake(self, ours: bytes, theirs: bytes) -> bool:
        """Whether the turns so far, with these bytes, are the handshake; clears `possible` if they can't be."""
        if not self.possible:
            return False
        if len(self._lengths) < 3 or self._lengths[2] < _SETUP:
            self.possible = not (_TEXT.match(ours) or _TEXT.match(theirs))
            return False
        self.possible = False
        key = self._lengths[0]
        initiator, responder = (ours, theirs) if self._speaker else (theirs, ours)
        said = initiator[:key], responder[: _ANSWER[key]], initiator[key : key + _SETUP]
        if not all(_random(part) for part in said):
            return False
        return key == 64 or (_on_curve(said[0]) and _on_curve(said[1][:32]))

    @property
    def from_peer(self) -> bool:
        """Of a handshake: who speaks third spoke first."""
        return not self._speaker


def _random(data: bytes) -> bool:
    """Whether as many bytes are distinct as of random ones, less about five standard deviations."""
    expected = 256 * (1 - (255 / 256) ** len(data))
    return len(set(data)) >= expected * 0.8


def _on_curve(key: bytes) -> bool:
    """Whether it is the x coordinate of a point of secp256k1, as half of all numbers are."""
    x = int.from_bytes(key, "big")
    return x < _PRIME and pow(x**3 + 7, (_PRIME - 1) // 2, _PRIME) == 1
