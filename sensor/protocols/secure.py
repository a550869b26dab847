"""TLS and QUIC by their ClientHello, as findings."""

from __future__ import annotations

from sensor.protocols import tls
from sensor.protocols.finding import Finding, text
from sensor.protocols.ja4 import ja4
from sensor.protocols.stream import Dialogue, State


class Tls(Dialogue):
    """A ClientHello, also in several records and segments."""

    __slots__ = ()

    def look(self, last: bool) -> Finding | None:
        hello = tls.client_hello(self.client.data, final=last)
        if hello is None:
            self.state = State.MISS
        elif isinstance(hello, tls.ClientHello):
            self.state = State.COMPLETE
            return _found("tls", hello, ja4(hello), self.from_peer)
        return None


def quic(datagrams: list[bytes], last: bool, from_peer: bool) -> Finding | State:
    """What a client's first datagrams say; READING where the next ones may add to it, MISS where it is no QUIC."""
    from sensor.protocols.quic import QuicInitial, initial  # noqa: PLC0415 (its ciphers take long to import)

    answer = initial(*datagrams, final=last)
    if answer is None:
        return State.MISS
    if not isinstance(answer, QuicInitial):
        return State.READING
    hello = answer.hello
    if hello is None:
        return Finding(protocol="quic", from_peer=from_peer)
    return _found("quic", hello, ja4(hello, "q"), from_peer)


def _found(protocol: str, hello: tls.ClientHello, fingerprint: str | None, from_peer: bool) -> Finding:
    return Finding(
        protocol=protocol,
        tls_server_name=hello.server_name and hello.server_name.lower(),
        tls_alpn=[text(name) for name in hello.alpn] or None,
        tls_ech=hello.ech,
        tls_ja4=fingerprint,
        from_peer=from_peer,
    )
