from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.context import routes as module
from sensor.context.netlink import messages
from sensor.context.routes import METADATA, Routes

SCOPES = {"loopback", "local", "private", "external", "metadata"}


@pytest.fixture(scope="module")
def routes() -> Iterator[Routes]:
    routes = Routes()
    yield routes
    routes.close()


@pytest.mark.parametrize(
    ("address", "scope"),
    [
        ("127.0.0.1", "loopback"),
        ("127.255.255.254", "loopback"),
        ("::1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("0.0.0.0", "loopback"),
        ("::", "loopback"),
        ("0.0.0.1", "external"),
        ("10.255.255.255", "private"),
        ("11.0.0.0", "external"),
        ("172.15.255.255", "external"),
        ("172.16.0.0", "private"),
        ("172.31.255.255", "private"),
        ("172.32.0.0", "external"),
        ("192.168.0.1", "private"),
        ("192.169.0.1", "external"),
        ("100.63.255.255", "external"),
        ("100.64.0.0", "private"),
        ("100.127.255.255", "private"),
        ("100.128.0.0", "external"),
        ("::ffff:10.254.254.253", "private"),
        ("fc00::1", "private"),
        ("fdff:ffff::1", "private"),
        ("fe00::1", "external"),
        ("2001:db8::1", "external"),
        ("1.1.1.1", "external"),
        ("169.254.169.254", "metadata"),
        ("::ffff:169.254.169.254", "metadata"),
        ("169.254.169.253", "external"),
        ("100.100.100.200", "metadata"),
        ("100.100.100.201", "private"),
        ("FD00:EC2:0::254", "metadata"),
        ("fd00:ec2::255", "private"),
        ("fe80::1", "external"),
        ("224.0.0.251", "external"),
        ("ff02::1", "external"),
        ("255.255.255.255", "external"),
        ("", "external"),
        ("127.0.0.1\n", "external"),
        ("localhost", "external"),
    ],
)
def test_scope(routes: Routes, address: str, scope: str) -> None:
    assert routes.scope(address) == scope
    assert routes.scope(address) == scope, "the second time, from the cache"


@pytest.mark.parametrize("address", METADATA)
def test_every_metadata_service(routes: Routes, address: str) -> None:
    assert routes.scope(address) == "metadata"


@given(st.text() | st.ip_addresses().map(str))
def test_any_text_has_a_scope(routes: Routes, address: str) -> None:
    assert routes.scope(address) in SCOPES


def test_cache_is_bounded(routes: Routes) -> None:
    for number in range(40_000):
        routes.scope(socket.inet_ntoa(struct.pack("!I", 0x01000000 + number)))
    assert len(routes._scopes) <= module._CACHE_LIMIT


@given(st.binary(max_size=200))
def test_malformed_netlink_is_no_route(data: bytes) -> None:
    for kind, body in messages(data):
        module._is_local_route(kind, body)
    module._route(data)
