"""DNS queries, by UDP and by TCP (RFC 1035 section 4, RFC 7766)."""

from __future__ import annotations

import struct

from sensor.protocols.finding import Finding
from sensor.protocols.stream import Dialogue, State

_HEADER = struct.Struct(">HHHHHH")
_TAIL = struct.Struct(">HH")
_RECORD = struct.Struct(">HHIH")
_UNASKED = 0xFE4F
"""QR, opcode, AA, TC, RA, the Z bit and RCODE: zero in a query; RD, AD and CD may be set."""
_CLASSES = (1, 3, 4, 255)
_TYPES = {
    1: "A", 2: "NS", 5: "CNAME", 6: "SOA", 10: "NULL", 12: "PTR", 13: "HINFO", 15: "MX", 16: "TXT", 25: "KEY",
    28: "AAAA", 29: "LOC", 33: "SRV", 35: "NAPTR", 36: "KX", 37: "CERT", 39: "DNAME", 41: "OPT", 43: "DS",
    44: "SSHFP", 46: "RRSIG", 47: "NSEC", 48: "DNSKEY", 50: "NSEC3", 51: "NSEC3PARAM", 52: "TLSA", 53: "SMIMEA",
    59: "CDS", 60: "CDNSKEY", 61: "OPENPGPKEY", 62: "CSYNC", 63: "ZONEMD", 64: "SVCB", 65: "HTTPS", 99: "SPF",
    249: "TKEY", 250: "TSIG", 251: "IXFR", 252: "AXFR", 255: "ANY", 256: "URI", 257: "CAA",
}  # fmt: skip
_NETBIOS = 32
_SHORTEST = 17
"""Header, root name, type and class."""


def query(message: bytes, from_peer: bool, leftover: bool = False) -> Finding | None:
    """What a whole message asks, if it is a query with one question, and without `leftover` nothing after it."""
    if len(message) < _SHORTEST:
        return None
    _, flags, questions, answers, authorities, additional = _HEADER.unpack_from(message)
    if flags & _UNASKED or questions != 1 or answers or authorities > 1 or additional > 2:
        return None
    name, at = _name(message, _HEADER.size)
    if name is None or at + _TAIL.size > len(message):
        return None
    kind, in_class = _TAIL.unpack_from(message, at)
    if kind in (0, _NETBIOS) or in_class not in _CLASSES:
        return None
    if not leftover and _skip_records(message, at + _TAIL.size, authorities + additional) != len(message):
        return None
    return Finding(protocol="dns", query_name=name, query_type=_TYPES.get(kind, f"TYPE{kind}"), from_peer=from_peer)


def _name(message: bytes, at: int) -> tuple[str | None, int]:
    """A name without compression, which a question has no use for, and where it ends."""
    labels: list[str] = []
    end = at + 255
    while at < len(message) and at < end:
        length = message[at]
        at += 1
        if length == 0:
            return ".".join(labels) or ".", at
        label = message[at : at + length]
        if length > 63 or len(label) < length:
            break
        labels.append(_label(label))
        at += length
    return None, at


def _label(label: bytes) -> str:
    plain = label.decode("latin-1").lower()
    if plain.isascii() and plain.replace("-", "").replace("_", "").isalnum():
        return plain
    return "".join(
        char if "!" <= char <= "~" and char not in '.\\"' else f"\\{char}" if char in '.\\"' else f"\\{ord(char):03d}"
        for char in plain
    )


def _skip_records(message: bytes, at: int, count: int) -> int:
    """Where `count` resource records end, or -1."""
    for _ in range(count):
        while at < len(message) and 0 < message[at] < 64:
            at += 1 + message[at]
        if at >= len(message):
            return -1
        at += 1 if message[at] == 0 else 2
        if at + _RECORD.size > len(message):
            return -1
        at += _RECORD.size + _RECORD.unpack_from(message, at)[3]
    return at


class DnsOverTcp(Dialogue):
    """The first message of a stream, behind its length."""

    __slots__ = ()

    def look(self, last: bool) -> Finding | None:
        data = self.client.data
        if len(data) < 2:
            return None
        length = int.from_bytes(data[:2], "big")
        finding = query(data[2 : 2 + length], self.from_peer) if 2 + length <= len(data) else None
        if finding is not None:
            self.state = State.COMPLETE
        elif _hopeless(data, length):
            self.state = State.MISS
        return finding


def _hopeless(data: bytes, length: int) -> bool:
    header = data[4:14]
    return (
        length < _SHORTEST
        or len(data) >= 2 + length
        or (len(header) >= 2 and bool(int.from_bytes(header[:2], "big") & _UNASKED))
        or (len(header) >= 4 and header[2:4] != b"\0\1")
    )
