"""Stratum V1 and its dialects: JSON-RPC between miners and pools.

Sources: the Stratum mining protocol as pools document it (mining.*), CryptoNote pools' login and job with xmrig's
extensions, eth-proxy (eth_submitLogin), EthereumStratum/1.0.0 (NiceHash) and 2.0.0 (EIP-1571), getwork and
getblocktemplate (BIP 22). A method that only miners use shows it by itself; the common words login, job and submit
only with the parameters that miners and pools give them.
"""

from __future__ import annotations

from typing import Any

from sensor.protocols.finding import TEXT_LIMIT, Finding
from sensor.protocols.jsonrpc import Messages
from sensor.protocols.stream import Dialogue, State, Stream

_MINING_BY_CLIENT = frozenset(
    f"mining.{name}"
    for name in (
        "subscribe", "authorize", "auth", "submit", "configure", "hello", "noop", "ping", "suggest_difficulty",
        "suggest_target", "extranonce.subscribe", "get_transactions", "get_hashrate", "hashrate", "capabilities",
        "multi_version", "sync", "update_block", "login", "bye",
    )
)  # fmt: skip
_MINING_BY_POOL = frozenset(
    f"mining.{name}"
    for name in (
        "notify", "set_difficulty", "set_extranonce", "set_target", "set_version_mask", "set", "set_goal",
        "set_epoch", "set_cleanjobs", "set_height", "pong", "reconnect",
    )
)  # fmt: skip
_ETHEREUM = frozenset(("eth_submitlogin", "eth_login", "eth_getwork", "eth_submitwork", "eth_submithashrate"))
_GETWORK = frozenset(
    ("getwork", "getworkex", "getblocktemplate", "get_block_template", "getminingwork", "submitblock", "submit_block")
)
_GRIN = frozenset(("getjobtemplate",))
_USER_FIRST = frozenset(
    ("mining.authorize", "mining.auth", "mining.submit", "mining.login", "eth_submitlogin", "eth_login")
)
_AGENT_FIRST = frozenset(("mining.subscribe", "mining.hello"))
_WALLET = 30
"""Characters from which on a word without blanks may be a coin's address."""


class Sign:
    """One message that only mining has."""

    __slots__ = ("agent", "by_pool", "dialect", "method", "user")

    def __init__(
        self, method: str, dialect: str, by_pool: bool = False, user: str | None = None, agent: str | None = None
    ) -> None:
        self.method = method
        self.dialect = dialect
        self.by_pool = by_pool
        self.user = user
        self.agent = agent


def read(message: dict[str, Any]) -> Sign | None:
    """What a JSON-RPC message shows of mining, if anything."""
    method = message.get("method")
    if isinstance(method, str):
        return _call(method, message) if "params" in message or "id" in message else None
    if method is None and "result" in message:
        return _answer(message["result"])
    return None


def _call(method: str, message: dict[str, Any]) -> Sign | None:
    params = message.get("params")
    name = method.lower()
    if name.startswith("mining."):
        if name in _MINING_BY_CLIENT:
            return _positional(method, name, params)
        return Sign(method, "bitcoin", by_pool=True) if name in _MINING_BY_POOL else None
    if name in _ETHEREUM:
        return _positional(method, name, params)
    if name in _GETWORK:
        return Sign(method, "getwork")
    if name == "eth_subscribe" and isinstance(params, list) and params[:1] == ["newWork"]:
        return Sign(method, "ethereum", user=_text(params[1]) if len(params) > 1 else None)
    if name in _GRIN:
        return Sign(method, "monero")
    return _monero(method, name, params) if isinstance(params, dict) else None


def _positional(method: str, name: str, params: Any) -> Sign:
    words = params if isinstance(params, list) else []
    dialect = "ethereum" if name.startswith("eth_") or name == "mining.hello" else "bitcoin"
    if any(isinstance(word, str) and "stratum/" in word.lower() for word in words[:4]):
        dialect = "ethereum"
    first = _text(words[0]) if words else None
    user = first if name in _USER_FIRST else None
    agent = first if name in _AGENT_FIRST else None
    if isinstance(params, dict) and name == "mining.hello":
        agent = _text(params.get("agent"))
    return Sign(method, dialect, user=user, agent=agent)


def _monero(method: str, name: str, params: dict[str, Any]) -> Sign | None:
    user = _text(params.get("login"))
    if name == "login" and user is not None:
        mined = isinstance(params.get("algo"), list | str) or "rigid" in params
        if mined or ("pass" in params and ("agent" in params or (len(user) >= _WALLET and " " not in user))):
            return Sign(method, "monero", user=user, agent=_text(params.get("agent")))
    elif name == "job" and _is_job(params):
        return Sign(method, "monero", by_pool=True)
    elif name == "submit" and "nonce" in params and params.keys() >= {"job_id"}:
        if params.keys() & {"result", "hash", "pow"}:
            return Sign(method, "monero")
    elif name == "keepalived" and params.keys() == {"id"}:
        return Sign(method, "monero")
    return None


def _is_job(job: Any) -> bool:
    """A job as CryptoNote pools give it: what to hash, and below which number."""
    return (
        isinstance(job, dict)
        and "job_id" in job
        and "target" in job
        and bool(job.keys() & {"blob", "seed_hash", "bds"})
    )


def _answer(result: Any) -> Sign | None:
    """An answer that only a pool gives: to login a job, to mining.subscribe what will be notified of."""
    if isinstance(result, dict):
        return Sign("result", "monero", by_pool=True) if _is_job(result.get("job")) else None
    if not isinstance(result, list) or not result or not isinstance(result[0], list):
        return None
    subscriptions = [entry[0] if isinstance(entry, list) and entry else entry for entry in result[0][:4]]
    if any(isinstance(entry, str) and entry.lower() in _MINING_BY_POOL for entry in subscriptions):
        return Sign("result", "bitcoin", by_pool=True)
    return None


def _text(value: Any) -> str | None:
    return value[:TEXT_LIMIT].encode("utf-8", "backslashreplace").decode() if isinstance(value, str) and value else None


class Stratum(Dialogue):
    """The first message that shows it, the miner's rather than the pool's; then who logs in with what program."""

    __slots__ = ("_agent", "_dialect", "_first", "_from_peer", "_messages", "_user")

    def __init__(self, client: Stream, server: Stream) -> None:
        super().__init__(client, server)
        self._messages = {True: Messages(), False: Messages()}
        self._first: Sign | None = None
        self._from_peer = False
        self._dialect: str | None = None
        self._user: str | None = None
        self._agent: str | None = None

    def look(self, last: bool) -> Finding | None:
        changed = False
        for stream in (self.client, self.server):
            messages = self._messages.get(stream.ours)
            if messages and not messages.over and stream.data:
                for message in messages.read(stream.data, last):
                    changed |= self._note(read(message), stream.ours)
        if self._user is not None:
            self.state = State.COMPLETE
        elif all(messages.over for messages in self._messages.values()):
            self.state = State.COMPLETE if self._first else State.MISS
        return self._found() if changed else None

    def _note(self, sign: Sign | None, ours: bool) -> bool:
        """Whether the message says more than was known."""
        if sign is None:
            return False
        before = (self._first, self._dialect, self._user, self._agent)
        if self._first is None or (self._first.by_pool and not sign.by_pool):
            self._first, self._dialect = sign, sign.dialect
            self._from_peer = ours is sign.by_pool
        if sign.dialect == "ethereum" and self._dialect == "bitcoin":
            self._dialect = "ethereum"
        self._user = self._user or sign.user
        self._agent = self._agent or sign.agent
        return before != (self._first, self._dialect, self._user, self._agent)

    def _found(self) -> Finding | None:
        if self._first is None:
            return None
        return Finding(
            protocol="stratum",
            from_peer=self._from_peer,
            stratum_dialect=self._dialect,
            stratum_method=self._first.method,
            stratum_user=self._user,
            stratum_agent=self._agent,
        )


class StratumBody(Stratum):
    """As the first JSON value of an HTTP request's body."""

    __slots__ = ()

    def __init__(self, client: Stream, server: Stream) -> None:
        super().__init__(client, server)
        self._messages = {client.ours: Messages(limit=1)}
