"""What Stratum looks like: V1 and its dialects, by itself, by HTTP and by WebSocket, and V2."""

from __future__ import annotations

import json

from flow_builders import POSTED, SECRET, SWITCHING, UPGRADE, UPGRADE_SAYS, Transcript, lines, masked, noise, post

WALLET = "48edfHu7V9Z84YzzMa6fUueoELZ9ZRXq9VetWzYGzKt52XU5xvqgzYnDK9URnRoJMk1j8nLwEVsaSWJ4fhdUyZijBGUicoD"
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
GETWORK = b'{"method": "getwork", "params": [], "id":0}\r\n'

STRATUM: dict[str, Transcript] = {
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
}
