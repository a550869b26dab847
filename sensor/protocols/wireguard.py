"""WireGuard by its handshake (Donenfeld, "WireGuard: Next Generation Kernel Network Tunnel", section 5.4)."""

from __future__ import annotations

from sensor.protocols.finding import Finding

_INITIATION = 148
_RESPONSE = 92


def handshake(datagram: bytes, from_peer: bool) -> Finding | None:
    """An initiation (5.4.2), or the response to one (5.4.3), whose sender is the one that accepted.

    Type, reserved zeros and exact length could be another protocol's; what must be keys and ciphertext has to look
    random as well: of n random bytes about 256 * (1 - (255/256)^n) are distinct, 88 of 108 and 43.7 of 48.
    """
    if len(datagram) == _INITIATION and datagram.startswith(b"\1\0\0\0"):
        if len(set(datagram[8:116])) >= 72:
            return Finding(protocol="wireguard", from_peer=from_peer)
    elif len(datagram) == _RESPONSE and datagram.startswith(b"\2\0\0\0") and len(set(datagram[12:60])) >= 34:
        return Finding(protocol="wireguard", from_peer=not from_peer)
    return None
