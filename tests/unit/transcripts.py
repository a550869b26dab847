"""What the first bytes of flows look like, by protocol, and what must be said of them."""

from __future__ import annotations

import base64

from flow_builders import (
    DROPBEAR,
    OPENSSH,
    POSTED,
    SECRET,
    SWITCHING,
    UPGRADE,
    UPGRADE_SAYS,
    Transcript,
    dns,
    frame,
    http2,
    masked,
    noise,
    post,
)
from transcripts_stratum import STRATUM

EDNS = b"\0\0\x29\x10\0\0\0\0\0\0\x0c\0\x0a\0\x08" + noise(5, 8)
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
SSH_SAYS = {"protocol": "ssh", "ssh_banner": OPENSSH.decode().strip(), "ssh_peer_banner": DROPBEAR.decode().strip()}
KEXINIT = b"\0\0\5\xdc\7\x14" + noise(1, 16) + b"\0\0\1\x09sntrup761x25519-sha512@openssh.com,curve25519-sha256"
SOCKS_NAME = b"\5\1\0\3\x0bexample.com\x01\xbb"
SOCKS_DONE = b"\5\0\0\1\0\0\0\0\0\0"
SOCKS_SAYS = {"protocol": "socks5", "socks_destination": "example.com:443"}

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
    **STRATUM,
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
