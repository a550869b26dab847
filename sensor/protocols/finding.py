"""What the first bytes of a flow say."""

from __future__ import annotations

from typing import Any

import msgspec

TEXT_LIMIT = 256
"""Longest text that a finding keeps, in characters."""


class Finding(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A protocol and what its opening says; None where the bytes say nothing.

    Never a password, a query string, or a header that carries credentials.
    """

    protocol: str
    """ssh, stratum, http, http2, http-connect, websocket, socks4, socks5, dns, wireguard, tls or quic."""
    certain: bool = True
    """False where the protocol hides its bytes and only their lengths and order speak: Stratum V2."""
    from_peer: bool = False
    """The side that accepted the flow speaks as the client in it, as in a reverse tunnel."""
    carried_by: str | None = None
    """The protocol around this one: http-connect, socks4, socks5, websocket, http."""

    ssh_banner: str | None = None
    """The identification string (RFC 4253 section 4.2) of the side that opened the flow."""
    ssh_peer_banner: str | None = None
    """That of the side that accepted it."""

    stratum_dialect: str | None = None
    """bitcoin, monero, ethereum, getwork or v2."""
    stratum_method: str | None = None
    """The first method that showed it; "result" for an answer to one."""
    stratum_user: str | None = None
    """Wallet, account or worker that the miner logs in with."""
    stratum_agent: str | None = None
    """How the miner names its program."""

    http_method: str | None = None
    http_host: str | None = None
    """Lower case, without port: from the target where it is absolute, else from Host or :authority."""
    http_path: str | None = None
    """Without query and fragment."""
    http_upgrade: str | None = None
    http_connect_target: str | None = None
    """host:port"""

    socks_destination: str | None = None
    """host:port"""

    tls_server_name: str | None = None
    tls_alpn: list[str] | None = None
    tls_ech: bool | None = None
    """ClientHello carries encrypted_client_hello; GREASE looks the same (RFC 9849)."""
    tls_ja4: str | None = None

    query_name: str | None = None
    """Lower case, without the root's dot; "." for the root itself; bytes out of place as in RFC 1035 section 5.1."""
    query_type: str | None = None


_FIELDS = Finding.__struct_fields__


def within(inner: Finding, carrier: Finding) -> Finding:
    """`inner` as said inside `carrier`, whose words it keeps where it has none of its own."""
    fields: dict[str, Any] = {name: getattr(carrier, name) for name in _FIELDS}
    fields.update((name, value) for name in _FIELDS if (value := getattr(inner, name)) is not None)
    fields["carried_by"] = carrier.protocol
    return Finding(**fields)


def text(raw: bytes) -> str:
    """Bytes of the wire as text of at most TEXT_LIMIT characters."""
    return raw[:TEXT_LIMIT].decode("utf-8", "backslashreplace")[:TEXT_LIMIT]
