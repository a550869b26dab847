"""What the first bytes of flows look like, by protocol, and what must be said of them; and what must not be.

A transcript is turns: ">" what the side that opened the flow sends, "<" what the other answers.
"""

from __future__ import annotations

import base64
import json
import random
import ssl
from typing import Any, NamedTuple

import hpack

WALLET = "48edfHu7V9Z84YzzMa6fUueoELZ9ZRXq9VetWzYGzKt52XU5xvqgzYnDK9URnRoJMk1j8nLwEVsaSWJ4fhdUyZijBGUicoD"
SECRET = "hunter2-never-kept"
"""Stands wherever a transcript has a password or token; no finding may contain it."""


class Transcript(NamedTuple):
    turns: list[tuple[str, bytes]]
    says: dict[str, Any]
    """Fields of the last finding that are not at their default; empty: no finding at all."""
    transport: str = "tcp"
    port: int = 4444


def client_hello(name: str) -> bytes:
    """A real one, of this machine's OpenSSL."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2", "http/1.1"])
    try:
        context.wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a handshake with nobody")


def lines(*messages: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(message).encode() + b"\n" for message in messages)


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def masked(payload: bytes, opcode: int = 1) -> bytes:
    """A client's WebSocket frame."""
    key = b"\x11\xa2\x33\x04"
    size = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + len(payload).to_bytes(2, "big")
    return bytes([0x80 | opcode]) + size + key + bytes(byte ^ key[at % 4] for at, byte in enumerate(payload))


def frame(payload: bytes, opcode: int = 1) -> bytes:
    """A server's."""
    size = bytes([len(payload)]) if len(payload) < 126 else b"\x7e" + len(payload).to_bytes(2, "big")
    return bytes([0x80 | opcode]) + size + payload


def http2(*headers: tuple[str, str], flags: int = 4, before: bytes = b"") -> bytes:
    block = before + hpack.Encoder().encode(list(headers))
    settings = b"\0\0\6\4\0\0\0\0\0" + b"\0\4\0\x10\0\0"
    window = b"\0\0\4\x08\0\0\0\0\0" + b"\0\x0f\0\1"
    start = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings + window
    return start + len(block).to_bytes(3, "big") + bytes([1, flags]) + b"\0\0\0\1" + block


def dns(name: bytes, kind: int = 1, extra: bytes = b"", additional: int = 0) -> bytes:
    header = b"\xab\xcd\1\0\0\1\0\0\0\0" + additional.to_bytes(2, "big")
    labels = b"".join(bytes([len(label)]) + label for label in name.split(b".") if label)
    return header + labels + b"\0" + kind.to_bytes(2, "big") + b"\0\1" + extra


EDNS = b"\0\0\x29\x10\0\0\0\0\0\0\x0c\0\x0a\0\x08" + noise(5, 8)
SUBSCRIBE = {"id": 1, "method": "mining.subscribe", "params": ["cgminer/4.11.1"]}
SUBSCRIBED = {
    "id": 1,
    "result": [[["mining.set_difficulty", "b4b6693b"], ["mining.notify", "ae6812eb"]], "08000002", 4],
    "error": None,
}
AUTHORIZE = {"id": 2, "method": "mining.authorize", "params": ["slush.miner1", SECRET]}
NOTIFY = {
    "id": None,
    "method": "mining.notify",
    "params": ["bf", "4d16" * 16, "0100", "072f", [], "2", "1c2", "504", True],
}
LOGIN = {
    "id": 1,
    "jsonrpc": "2.0",
    "method": "login",
    "params": {"login": WALLET, "pass": SECRET, "agent": "XMRig/6.21.0 (Linux x86_64)", "algo": ["rx/0", "cn/r"]},
}
JOB = {"blob": "0707" * 38, "job_id": "q7PLUPL25UV0", "target": "b88d0600", "height": 3, "seed_hash": "ab" * 32}
BITCOIN = {"protocol": "stratum", "stratum_dialect": "bitcoin", "stratum_method": "mining.subscribe"}
CGMINER = {**BITCOIN, "stratum_user": "slush.miner1", "stratum_agent": "cgminer/4.11.1"}
MONERO = {"protocol": "stratum", "stratum_dialect": "monero"}
XMRIG = {**MONERO, "stratum_method": "login", "stratum_user": WALLET, "stratum_agent": "XMRig/6.21.0 (Linux x86_64)"}
ETHEREUM = {"protocol": "stratum", "stratum_dialect": "ethereum"}
PRETTY = json.dumps(LOGIN, indent=4).replace("\n", "\r\n").encode()

HTTP_REQUEST = (
    b"GET /v1/users?token=" + SECRET.encode() + b" HTTP/1.1\r\nHost: API.example.com:8080\r\n"
    b"Authorization: Bearer " + SECRET.encode() + b"\r\nCookie: id=" + SECRET.encode() + b"\r\nAccept: */*\r\n\r\n"
)
HTTP_SAYS = {"protocol": "http", "http_method": "GET", "http_host": "api.example.com", "http_path": "/v1/users"}
PROXY_LOGIN = b"Proxy-Authorization: Basic " + base64.b64encode(SECRET.encode()) + b"\r\n"
CONNECT = b"CONNECT Git.Example.com:443 HTTP/1.1\r\nHost: git.example.com:443\r\n" + PROXY_LOGIN + b"\r\n"
CONNECT_SAYS = {
    "protocol": "http-connect",
    "http_method": "CONNECT",
    "http_host": "git.example.com",
    "http_connect_target": "git.example.com:443",
}
ESTABLISHED = b"HTTP/1.1 200 Connection established\r\nVia: 1.1 squid\r\n\r\n"
UPGRADE = (
    b"GET /ws?key=x HTTP/1.1\r\nHost: relay.example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
SWITCHING = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
UPGRADE_SAYS = {"http_method": "GET", "http_host": "relay.example.com", "http_path": "/ws", "http_upgrade": "websocket"}
OPENSSH, DROPBEAR = b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n", b"SSH-2.0-dropbear_2022.83\r\n"
SSH_SAYS = {"protocol": "ssh", "ssh_banner": OPENSSH.decode().strip(), "ssh_peer_banner": DROPBEAR.decode().strip()}
KEXINIT = b"\0\0\5\xdc\7\x14" + noise(1, 16) + b"\0\0\1\x09sntrup761x25519-sha512@openssh.com,curve25519-sha256"
SOCKS_NAME = b"\5\1\0\3\x0bexample.com\x01\xbb"
SOCKS_DONE = b"\5\0\0\1\0\0\0\0\0\0"
SOCKS_SAYS = {"protocol": "socks5", "socks_destination": "example.com:443"}


def post(body: bytes, *headers: bytes) -> bytes:
    size = b"Content-Length: %d" % len(body)
    head = b"\r\n".join([b"POST / HTTP/1.1", b"Host: pool.example:8332", *(headers or [size])])
    return head + b"\r\nAuthorization: Basic " + base64.b64encode(SECRET.encode()) + b"\r\n\r\n" + body


POSTED = {"carried_by": "http", "http_method": "POST", "http_host": "pool.example", "http_path": "/"}
GETWORK = b'{"method": "getwork", "params": [], "id":0}\r\n'

KNOWN: dict[str, Transcript] = {
    # SSH
    "ssh": Transcript([(">", OPENSSH), ("<", DROPBEAR), (">", KEXINIT), ("<", KEXINIT)], SSH_SAYS),
    "ssh server first": Transcript([("<", DROPBEAR), (">", OPENSSH + KEXINIT)], SSH_SAYS),
    "ssh after lines": Transcript([(">", OPENSSH), ("<", b"Welcome!\r\nKeep out.\n" + DROPBEAR)], SSH_SAYS),
    "ssh after lines, server first": Transcript([("<", b"Keep out.\r\n" + DROPBEAR), (">", OPENSSH)], SSH_SAYS),
    "ssh server alone": Transcript(
        [("<", b"SSH-1.99-Cisco-1.25\n")], {"protocol": "ssh", "ssh_peer_banner": "SSH-1.99-Cisco-1.25"}
    ),
    "ssh hostile banner": Transcript(
        [(">", b"SSH-2.0-a\xff\x00\x1b[2J\r\n")], {"protocol": "ssh", "ssh_banner": "SSH-2.0-a\\xff\x00\x1b[2J"}
    ),
    "ssh endless banner": Transcript(
        [(">", b"SSH-2.0-" + b"x" * 5000)], {"protocol": "ssh", "ssh_banner": "SSH-2.0-" + "x" * 247}
    ),
    # Stratum V1
    "stratum": Transcript(
        [(">", lines(SUBSCRIBE)), ("<", lines(SUBSCRIBED)), (">", lines(AUTHORIZE)), ("<", lines(NOTIFY))], CGMINER
    ),
    "stratum in one segment": Transcript([(">", lines(SUBSCRIBE, AUTHORIZE))], CGMINER),
    "stratum configure first": Transcript(
        [
            (
                ">",
                b'{"id":0,"method":"mining.configure","params":[["version-rolling"],{"version-rolling.mask":"1"}]}\n',
            ),
            ("<", b'{"error": null, "id": 0, "result": {"version-rolling": true}}\n'),
            (">", lines(AUTHORIZE)),
        ],
        {**BITCOIN, "stratum_method": "mining.configure", "stratum_user": "slush.miner1"},
    ),
    "stratum escaped": Transcript([(">", b'{"params":[],"\\u006dethod":"mining\\u002esubscribe","id":1}')], BITCOIN),
    "stratum after a blank, a mark and another call": Transcript(
        [(">", b'\xef\xbb\xbf \r\n{"id":0,"method":"hello","params":[]}\n' + lines(SUBSCRIBE))],
        {**BITCOIN, "stratum_agent": "cgminer/4.11.1"},
    ),
    "stratum after a broken line": Transcript(
        [(">", b'{"id":0,"method":nope}\n' + lines(SUBSCRIBE))], {**BITCOIN, "stratum_agent": "cgminer/4.11.1"}
    ),
    "stratum batch": Transcript([(">", json.dumps([SUBSCRIBE, AUTHORIZE]).encode())], CGMINER),
    "stratum server first": Transcript(
        [("<", b'{"id":null,"method":"mining.set_difficulty","params":[512]}\n')],
        {**BITCOIN, "stratum_method": "mining.set_difficulty"},
    ),
    "stratum answer alone": Transcript([("<", lines(SUBSCRIBED))], {**BITCOIN, "stratum_method": "result"}),
    "stratum miner behind the peer": Transcript(
        [("<", lines(SUBSCRIBE)), (">", lines(SUBSCRIBED)), ("<", lines(AUTHORIZE))], {**CGMINER, "from_peer": True}
    ),
    "stratum name in bytes that are no text": Transcript(
        [(">", b'{"id":1,"method":"mining.authorize","params":["a\xff\\ud800\\n","x"]}\n')],
        {**BITCOIN, "stratum_method": "mining.authorize", "stratum_user": "a\ufffd\\ud800\n"},
    ),
    "stratum cut off": Transcript(
        [(">", lines(AUTHORIZE)[:-20])],
        {**BITCOIN, "stratum_method": "mining.authorize", "stratum_user": "slush.miner1"},
    ),
    "stratum longer than what is kept": Transcript(
        [(">", b'{"id":1,"method":"mining.authorize","params":["w","' + b"x" * 5000 + b'"]}\n')],
        {**BITCOIN, "stratum_method": "mining.authorize", "stratum_user": "w"},
    ),
    "monero": Transcript(
        [(">", lines(LOGIN)), ("<", lines({"id": 1, "result": {"id": "x", "job": JOB, "status": "OK"}}))], XMRIG
    ),
    "monero pretty-printed": Transcript([(">", PRETTY)], XMRIG),
    "monero short login": Transcript(
        [(">", b'{"method":"login","params":{"login":"acct.rig","pass":"x","agent":"cpuminer-multi/1.3"},"id":1}\n')],
        {**XMRIG, "stratum_user": "acct.rig", "stratum_agent": "cpuminer-multi/1.3"},
    ),
    "monero answer": Transcript(
        [("<", lines({"id": 1, "jsonrpc": "2.0", "error": None, "result": {"id": "x", "job": JOB}}))],
        {**MONERO, "stratum_method": "result"},
    ),
    "monero job": Transcript(
        [("<", lines({"jsonrpc": "2.0", "method": "job", "params": JOB}))], {**MONERO, "stratum_method": "job"}
    ),
    "monero submit": Transcript(
        [(">", b'{"id":2,"method":"submit","params":{"id":"1","job_id":"4B","nonce":"d003","result":"e136"}}\n')],
        {**MONERO, "stratum_method": "submit"},
    ),
    "monero keepalived": Transcript(
        [(">", b'{"id":2,"method":"keepalived","params":{"id":"1be0b7b6"}}\n')],
        {**MONERO, "stratum_method": "keepalived"},
    ),
    "eth-proxy": Transcript(
        [(">", b'{"worker":"r1","jsonrpc":"2.0","params":["0xAbC","x"],"id":2,"method":"eth_submitLogin"}\n')],
        {**ETHEREUM, "stratum_method": "eth_submitLogin", "stratum_user": "0xAbC"},
    ),
    "eth-proxy without login": Transcript(
        [(">", b'{"id":5,"method":"eth_getWork","params":[]}\n')], {**ETHEREUM, "stratum_method": "eth_getWork"}
    ),
    "EthereumStratum 1": Transcript(
        [
            (">", b'{"id":1,"method":"mining.subscribe","params":["gminer/3.4","EthereumStratum/1.0.0"]}\n'),
            ("<", b'{"id":1,"result":[["mining.notify","ae","EthereumStratum/1.0.0"],"080c"],"error":null}\n'),
            (">", lines(AUTHORIZE)),
        ],
        {**CGMINER, **ETHEREUM, "stratum_agent": "gminer/3.4"},
    ),
    "EthereumStratum 2": Transcript(
        [(">", b'{"id":0,"method":"mining.hello","params":{"agent":"ethminer-0.17","port":"4D2"}}\n')],
        {**ETHEREUM, "stratum_method": "mining.hello", "stratum_agent": "ethminer-0.17"},
    ),
    "getwork": Transcript(
        [(">", post(GETWORK))],
        {**POSTED, "protocol": "stratum", "stratum_dialect": "getwork", "stratum_method": "getwork"},
    ),
    "getwork in chunks": Transcript(
        [
            (
                ">",
                post(
                    b"5;x=y\r\n" + GETWORK[:5] + b"\r\n%x\r\n" % (len(GETWORK) - 5) + GETWORK[5:] + b"\r\n0\r\n\r\n",
                    b"Transfer-Encoding: chunked",
                ),
            )
        ],
        {**POSTED, "protocol": "stratum", "stratum_dialect": "getwork", "stratum_method": "getwork"},
    ),
    "eth_submitWork by http": Transcript(
        [(">", post(b'{"jsonrpc":"2.0","method":"eth_submitWork","params":["0x1","0x2","0x3"],"id":73}'))],
        {**POSTED, **ETHEREUM, "stratum_method": "eth_submitWork"},
    ),
    "stratum by websocket": Transcript(
        [(">", UPGRADE), ("<", SWITCHING), (">", masked(b"", 9) + masked(lines(SUBSCRIBE)) + masked(lines(AUTHORIZE)))],
        {**CGMINER, **UPGRADE_SAYS, "carried_by": "websocket"},
    ),
    # Stratum V2
    "stratum v2": Transcript(
        [(">", noise(11, 64)), ("<", noise(12, 234)), (">", noise(13, 22 + 90))],
        {"protocol": "stratum", "stratum_dialect": "v2", "certain": False},
    ),
    "stratum v2 behind the peer": Transcript(
        [("<", noise(11, 64)), (">", noise(12, 234)), ("<", noise(13, 22 + 90))],
        {"protocol": "stratum", "stratum_dialect": "v2", "certain": False, "from_peer": True},
    ),
    "stratum v2 of 2023": Transcript(
        [
            (">", bytes.fromhex("79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798")),
            ("<", bytes.fromhex("f9308a019258c31049344f85f89d5229b531c845836f99b08601f113bce036f9") + noise(2, 138)),
            (">", noise(13, 22 + 90)),
        ],
        {"protocol": "stratum", "stratum_dialect": "v2", "certain": False},
    ),
    # HTTP
    "http": Transcript([(">", HTTP_REQUEST), ("<", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")], HTTP_SAYS),
    "http with lone LF": Transcript([(">", HTTP_REQUEST.replace(b"\r", b""))], HTTP_SAYS),
    "http folded": Transcript(
        [(">", b"\r\nGET /v1/users#x HTTP/1.0\r\nX: a\r\n b\r\nHOST :\r\n\tapi.example.com.\r\n\r\n")], HTTP_SAYS
    ),
    "http without Host": Transcript(
        [(">", b"GET / HTTP/1.0\r\n\r\n")], {"protocol": "http", "http_method": "GET", "http_path": "/"}
    ),
    "http absolute": Transcript(
        [(">", b"GET http://u:" + SECRET.encode() + b"@API.example.com:80/v1/users?q HTTP/1.1\r\nHost: other\r\n\r\n")],
        HTTP_SAYS,
    ),
    "http of a v6 address": Transcript(
        [(">", b"HEAD /x HTTP/1.1\r\nhost:[2001:DB8::1]:80\r\n\r\n")],
        {"protocol": "http", "http_method": "HEAD", "http_host": "2001:db8::1", "http_path": "/x"},
    ),
    "http long path": Transcript(
        [(">", b"GET /" + b"a" * 3000 + b" HTTP/1.1\r\nHost: a\r\n\r\n")],
        {"protocol": "http", "http_method": "GET", "http_host": "a", "http_path": "/" + "a" * 255},
    ),
    "http endless path": Transcript(
        [(">", b"GET /" + b"a" * 5000)], {"protocol": "http", "http_method": "GET", "http_path": "/" + "a" * 255}
    ),
    "http endless headers": Transcript(
        [(">", b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 5000)],
        {"protocol": "http", "http_method": "GET", "http_host": "a", "http_path": "/"},
    ),
    "http cut off": Transcript(
        [(">", b"GET /a HTTP/1.1\r\nHost: a\r\nX")],
        {"protocol": "http", "http_method": "GET", "http_host": "a", "http_path": "/a"},
    ),
    "http json of another kind": Transcript(
        [(">", post(b'{"jsonrpc":"2.0","method":"eth_blockNumber","params":[],"id":1}'))],
        {key: value for key, value in POSTED.items() if key != "carried_by"} | {"protocol": "http"},
    ),
    "http response alone": Transcript([("<", b"HTTP/1.1 200 OK\r\nServer: x\r\n\r\n")], {"protocol": "http"}),
    "http response before its request": Transcript([("<", b"HTTP/1.1 200 OK\r\n\r\n"), (">", HTTP_REQUEST)], HTTP_SAYS),
    "http from the peer": Transcript(
        [("<", HTTP_REQUEST), (">", b"HTTP/1.1 200 OK\r\n\r\n")], {**HTTP_SAYS, "from_peer": True}
    ),
    "http2": Transcript(
        [
            (
                ">",
                http2(
                    (":method", "POST"),
                    (":scheme", "http"),
                    (":path", "/Greeter/SayHello?x"),
                    (":authority", "H:50051"),
                    ("authorization", SECRET),
                ),
            )
        ],
        {"protocol": "http2", "http_method": "POST", "http_host": "h", "http_path": "/Greeter/SayHello"},
    ),
    "http2 padded, with priority": Transcript(
        [(">", http2((":method", "GET"), (":path", "/"), ("host", "h"), flags=0x2C, before=b"\0\0\0\0\0\x10"))],
        {"protocol": "http2", "http_method": "GET", "http_host": "h", "http_path": "/"},
    ),
    "http2 broken headers": Transcript(
        [(">", http2((":method", "GET"), before=b"\xff\xff\xff\xff\xff\xff"))], {"protocol": "http2"}
    ),
    "http2 connect": Transcript(
        [(">", http2((":method", "CONNECT"), (":authority", "a.example:22")))],
        {
            "protocol": "http2",
            "http_method": "CONNECT",
            "http_host": "a.example",
            "http_connect_target": "a.example:22",
        },
    ),
    "http2 websocket": Transcript(
        [
            (
                ">",
                http2(
                    (":method", "CONNECT"), (":protocol", "websocket"), (":path", "/ws"), (":authority", "a.example")
                ),
            )
        ],
        {
            "protocol": "http2",
            "http_method": "CONNECT",
            "http_host": "a.example",
            "http_path": "/ws",
            "http_upgrade": "websocket",
        },
    ),
    "connect": Transcript([(">", CONNECT)], CONNECT_SAYS),
    "connect refused": Transcript([(">", CONNECT), ("<", b"HTTP/1.1 403 Forbidden\r\n\r\nno")], CONNECT_SAYS),
    "ssh by connect": Transcript(
        [(">", CONNECT), ("<", ESTABLISHED), (">", OPENSSH), ("<", DROPBEAR)],
        {**CONNECT_SAYS, **SSH_SAYS, "carried_by": "http-connect"},
    ),
    "ssh by connect, server's in one segment": Transcript(
        [(">", CONNECT + OPENSSH), ("<", ESTABLISHED + DROPBEAR)],
        {**CONNECT_SAYS, **SSH_SAYS, "carried_by": "http-connect"},
    ),
    "ssh by connect after a password was wanted": Transcript(
        [
            (">", CONNECT.replace(PROXY_LOGIN, b"")),
            ("<", b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 9\r\n\r\nwho"),
            ("<", b" are u"),
            (">", CONNECT),
            ("<", b"HTTP/1.1 100 Continue\r\n\r\n" + ESTABLISHED),
            (">", OPENSSH),
        ],
        {**CONNECT_SAYS, "protocol": "ssh", "ssh_banner": SSH_SAYS["ssh_banner"], "carried_by": "http-connect"},
    ),
    "websocket": Transcript([(">", UPGRADE), ("<", SWITCHING)], {**UPGRADE_SAYS, "protocol": "websocket"}),
    "websocket refused": Transcript(
        [(">", UPGRADE), ("<", b"HTTP/1.1 400 Bad Request\r\n\r\n")], {**UPGRADE_SAYS, "protocol": "http"}
    ),
    "ssh by websocket": Transcript(
        [(">", UPGRADE), ("<", SWITCHING + frame(DROPBEAR[:7], 2) + frame(DROPBEAR[7:], 0)), (">", masked(OPENSSH, 2))],
        {**UPGRADE_SAYS, **SSH_SAYS, "carried_by": "websocket"},
    ),
    "docker's hijacked connection": Transcript(
        [
            (">", b"POST /exec/1/start HTTP/1.1\r\nHost: d\r\nUpgrade: tcp\r\nContent-Length: 2\r\n\r\n{}"),
            ("<", b"HTTP/1.1 101 UPGRADED\r\n\r\n"),
        ],
        {
            "protocol": "http",
            "http_method": "POST",
            "http_host": "d",
            "http_path": "/exec/1/start",
            "http_upgrade": "tcp",
        },
    ),
    # SOCKS
    "socks5": Transcript([(">", b"\5\1\0"), ("<", b"\5\0"), (">", SOCKS_NAME), ("<", SOCKS_DONE)], SOCKS_SAYS),
    "socks5 with a password": Transcript(
        [
            (">", b"\5\2\0\2"),
            ("<", b"\5\2"),
            (">", b"\1\3bob" + bytes([len(SECRET)]) + SECRET.encode()),
            ("<", b"\1\0"),
            (">", SOCKS_NAME),
            ("<", SOCKS_DONE),
            (">", OPENSSH),
            ("<", DROPBEAR),
        ],
        {**SOCKS_SAYS, **SSH_SAYS, "carried_by": "socks5"},
    ),
    "socks5 in a hurry": Transcript(
        [(">", b"\5\1\0" + SOCKS_NAME + OPENSSH), ("<", b"\5\0" + SOCKS_DONE + DROPBEAR)],
        {**SOCKS_SAYS, **SSH_SAYS, "carried_by": "socks5"},
    ),
    "socks5 to a v6 address": Transcript(
        [(">", b"\5\1\0\5\1\0\4" + bytes(15) + b"\1\0\x16")], {"protocol": "socks5", "socks_destination": "[::1]:22"}
    ),
    "socks5 refused": Transcript([(">", b"\5\1\0"), ("<", b"\5\xff")], {"protocol": "socks5"}),
    "socks5 from the peer": Transcript(
        [("<", b"\5\1\0"), (">", b"\5\0"), ("<", b"\5\1\0\1\x0a\0\0\1\x0c\xea"), (">", SOCKS_DONE)],
        {"protocol": "socks5", "socks_destination": "10.0.0.1:3306", "from_peer": True},
    ),
    "socks4": Transcript(
        [(">", b"\4\1\0\x50\x5d\xb8\xd8\x22me\0"), ("<", b"\0\x5a\0\0\0\0\0\0"), (">", HTTP_REQUEST)],
        {**HTTP_SAYS, "socks_destination": "93.184.216.34:80", "carried_by": "socks4"},
    ),
    "socks4a": Transcript([(">", b"\4\1\1\xbb\0\0\0\1\0example.com\0")], {**SOCKS_SAYS, "protocol": "socks4"}),
    "socks4 refused": Transcript(
        [(">", b"\4\1\0\x50\x5d\xb8\xd8\x22\0"), ("<", b"\0\x5b\0\0\0\0\0\0")],
        {"protocol": "socks4", "socks_destination": "93.184.216.34:80"},
    ),
    "ssh by connect by socks": Transcript(
        [
            (">", b"\5\1\0" + SOCKS_NAME),
            ("<", b"\5\0" + SOCKS_DONE),
            (">", CONNECT),
            ("<", ESTABLISHED),
            (">", OPENSSH),
        ],
        {
            **CONNECT_SAYS,
            **SOCKS_SAYS,
            "protocol": "ssh",
            "ssh_banner": SSH_SAYS["ssh_banner"],
            "carried_by": "http-connect",
        },
    ),
    # DNS and WireGuard
    "dns over tcp": Transcript(
        [(">", b"\0\x1d" + dns(b"eXample.com"))], {"protocol": "dns", "query_name": "example.com", "query_type": "A"}
    ),
    "dns": Transcript(
        [(">", dns(b"_x._tcp.example.com", 33, EDNS, 1))],
        {"protocol": "dns", "query_name": "_x._tcp.example.com", "query_type": "SRV"},
        "udp",
    ),
    "dns hostile name": Transcript(
        [(">", dns(b"a b\\\x00\xff\n.example", 65399))],
        {"protocol": "dns", "query_name": "a\\032b\\\\\\000\\255\\010.example", "query_type": "TYPE65399"},
        "udp",
    ),
    "dns root": Transcript([(">", dns(b"", 2))], {"protocol": "dns", "query_name": ".", "query_type": "NS"}, "udp"),
    "dns with something after it": Transcript(
        [(">", dns(b"example.com") + b"xx")],
        {"protocol": "dns", "query_name": "example.com", "query_type": "A"},
        "udp",
        53,
    ),
    "wireguard": Transcript(
        [(">", b"\1\0\0\0" + noise(3, 128) + bytes(16)), ("<", b"\2\0\0\0" + noise(4, 72) + bytes(16))],
        {"protocol": "wireguard"},
        "udp",
    ),
    "wireguard response alone": Transcript(
        [("<", b"\2\0\0\0" + noise(4, 72) + bytes(16))], {"protocol": "wireguard"}, "udp"
    ),
}
