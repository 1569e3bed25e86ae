"""Exchanges the verified tokens of callers for those of servers, once for each caller and server.

A token is kept until shortly before it ends, here and sealed in the session store; a failure is not
kept. No token, secret or answer of an authorization server is written anywhere, but the `error`
word of a refusal (RFC 6749, section 5.2).
"""

from __future__ import annotations

import base64
import hashlib
import json
import ssl
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote_plus

import attrs
import httpx2
import trio

from mcpgw_sidecar.errors import words_of
from mcpgw_sidecar.inbound.callers import Caller
from mcpgw_sidecar.model.decisions import Reject
from mcpgw_sidecar.model.exchanges import ENTRA, Given, TokenClient, TokenExchange
from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.reasons import UNAUTHORIZED
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.protocol.jsonrpc import INTERNAL_ERROR
from mcpgw_sidecar.protocol.statuses import failure, refusal
from mcpgw_sidecar.protocol.tokenexchange import NotGivenError, bearer_of, fields_of, fields_of_grant, read_answer, token_of
from mcpgw_sidecar.runtime import trust
from mcpgw_sidecar.sessions.tickets import open_token, seal_token
from mcpgw_sidecar.sessions.tokens import SessionKeys

log = get_logger(__name__)

MAX_KEPT: Final = 10_000  # tokens
TIMEOUT: Final = 5.0  # seconds for one answer of an authorization server
EARLY, SHARE = 30.0, 0.1  # a token counts no more that many seconds, or that share of its life, before it ends
_MAX_ANSWER: Final = 1 << 16  # bytes
_OF_OPERATOR = frozenset(
    {"invalid_client", "unauthorized_client", "unsupported_grant_type", "invalid_scope", "invalid_target"}
)
_OF_LOGIN = ("azp", "client_id", "appid", "scope", "scp", "act", "acr")


@attrs.frozen(kw_only=True)
class SharedTokens:
    """Where replicas find each other's tokens, sealed. Both never fail."""

    wait_read: Callable[[str], Awaitable[str | None]]
    wait_written: Callable[[str, str, int], Awaitable[None]]
    """Key, text, and the seconds for which it is kept."""


@attrs.define
class _Exchanging:
    """One exchange under way, for all who wait for it."""

    result: Given | Reject
    done: trio.Event = attrs.field(factory=trio.Event)


@attrs.define(kw_only=True, eq=False)
class TokenExchanger:
    """Gives the tokens. `counted` gets the server's name and the outcome of each exchange."""

    keys: Callable[[], SessionKeys]
    shared: SharedTokens
    nursery: trio.Nursery
    counted: Callable[[str, str], None]
    _kept: OrderedDict[str, Given] = attrs.field(factory=OrderedDict, init=False)
    _running: dict[tuple[str, str], _Exchanging] = attrs.field(factory=dict, init=False)
    _refused: dict[ServerName, str] = attrs.field(factory=dict, init=False)
    _contexts: dict[str | None, ssl.SSLContext] = attrs.field(factory=dict, init=False)
    _failing: dict[str, str] = attrs.field(factory=dict, init=False)

    async def wait_headers(
        self, server: Server, caller: Caller | None, headers: Mapping[str, str]
    ) -> dict[str, str] | Reject:
        """A client's headers with the one that a server gets in place of its token."""
        if caller is None:
            words = f"MCP server {server.name} is for callers that have logged in: send a token"
            return failure(server.name, UNAUTHORIZED, words)
        given = await self._wait_given(server, caller, headers.get("authorization", ""))
        return given if isinstance(given, Reject) else {**headers, server.exchanged_header: given.value}

    def kept(self, server: Server, caller: Caller | None) -> Given | None:
        """The token that a caller has at a server, if it is still known."""
        return self._kept.get(_key(server, caller)) if caller is not None else None

    def refused(self, server: Server, value: str) -> None:
        """A server has refused a token: the next call asks for another, once for each token."""
        for key, given in list(self._kept.items()):
            if given.value == value and self._refused.get(server.name) != value:
                del self._kept[key]
                self._refused[server.name] = value
                log.info("Server refused a caller's token: another is asked for", server=server.name)

    async def _wait_given(self, server: Server, caller: Caller, authorization: str) -> Given | Reject:
        key = _key(server, caller)
        kept = self._kept.get(key)
        if kept is not None and time.time() < kept.until:
            self._kept.move_to_end(key)
            return kept
        of_login = key, authorization  # a new login does not get the refusal of an old one
        running = self._running.get(of_login)
        if running is None:
            running = self._running[of_login] = _Exchanging(_refused(server, NotGivenError("the process ends")))
            # In a task of its own: who asked first may go away, and the others still wait.
            self.nursery.start_soon(self._wait_exchanged, key, server, authorization, running)
        await running.done.wait()
        return running.result

    async def _wait_exchanged(self, key: str, server: Server, authorization: str, running: _Exchanging) -> None:
        name = server.name
        try:
            running.result = await self._wait_found(key, server, authorization.partition(" ")[2].strip())
            self._failing.pop(name, None)
        except NotGivenError as error:
            running.result = _refused(server, error)
            self.counted(name, "refused" if error.error else "failed")
            say = log.debug if self._failing.get(name) == str(error) else log.warning  # each fault once, not each call
            say("No token for a server", server=name, tokenUrl=_url_of(server), error=str(error))
            self._failing[name] = str(error)
        except Exception:  # a bug of ours costs this call, not the process
            log.exception("Exchanging a token failed", server=name)
            running.result = refusal(INTERNAL_ERROR, "Internal error of the gateway")
        finally:
            del self._running[key, authorization]
            running.done.set()

    async def _wait_found(self, key: str, server: Server, token: str) -> Given:
        """A token that another replica has, or a new one."""
        sealed = await self.shared.wait_read(key)
        given = _read(open_token(self.keys(), key, sealed) if sealed else None)
        if given is None or given.until <= time.time() or given.value == self._refused.get(server.name):
            assert server.token_exchange is not None  # noqa: S101  # nobody asks for others
            given = await self._wait_asked(server.token_exchange, token)
            self.counted(server.name, "ok")
            left = int(given.until - time.time())
            if left > 0:
                text = seal_token(self.keys(), key, json.dumps([given.value, given.until]))
                await self.shared.wait_written(key, text, left)
        self._kept[key] = given
        self._kept.move_to_end(key)
        while len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)
        return given

    async def _wait_asked(self, exchange: TokenExchange, token: str) -> Given:
        answer = await self._wait_answer(exchange.client, fields_of(exchange, token), in_body=exchange.profile == ENTRA)
        if exchange.grant is not None:
            answer = await self._wait_answer(exchange.grant, fields_of_grant(exchange, token_of(answer)), in_body=False)
        value, life = bearer_of(answer)
        return Given(value, time.time() + life - min(EARLY, life * SHARE))

    async def _wait_answer(self, client: TokenClient, fields: Mapping[str, str], *, in_body: bool) -> dict[str, Any]:
        """The members of an answer of an authorization server."""
        headers = {"accept": "application/json"}
        secret = _secret(client)
        if secret is None or in_body:
            fields = {**fields, "client_id": client.client_id, **({"client_secret": secret} if secret else {})}
        else:  # RFC 6749, section 2.3.1: both are encoded as form fields are
            pair = f"{quote_plus(client.client_id)}:{quote_plus(secret)}"
            headers["authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        try:
            with trio.fail_after(TIMEOUT):
                status, body = await self._wait_posted(client, fields, headers)
        except trio.TooSlowError:
            raise NotGivenError(f"it did not answer within {TIMEOUT:.0f} s") from None
        except (OSError, httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise NotGivenError(words_of(error)) from None
        return read_answer(status, body)

    async def _wait_posted(
        self, client: TokenClient, fields: Mapping[str, str], headers: Mapping[str, str]
    ) -> tuple[int, bytes]:
        context = await self._wait_context(client)
        body = bytearray()
        async with (
            httpx2.AsyncClient(verify=context, timeout=TIMEOUT, trust_env=False) as http,
            http.stream("POST", client.token_url, data=dict(fields), headers=headers) as answer,
        ):
            async for part in answer.aiter_bytes():
                body += part
                if len(body) > _MAX_ANSWER:
                    raise NotGivenError(f"it answered more than {_MAX_ANSWER >> 10} KiB")
        return answer.status_code, bytes(body)

    async def _wait_context(self, client: TokenClient) -> ssl.SSLContext | bool:
        if not client.token_url.startswith("https:"):
            return False
        if client.ca_file not in self._contexts:
            make = partial(trust.context, client.ca_file)
            self._contexts[client.ca_file] = await trio.to_thread.run_sync(make)  # 60 ms
        return self._contexts[client.ca_file]


def _key(server: Server, caller: Caller) -> str:
    """By what a token is kept: the caller, the server, and what else may make one token another.

    A login with few scopes, or by another client, must not get the token of one with more.
    """
    mark = server.token_exchange.mark if server.token_exchange is not None else ""
    login = [caller.claims.get(name) for name in _OF_LOGIN]
    return hashlib.sha256(repr((caller.issuer, caller.subject, login, server.name, mark)).encode()).hexdigest()


def _url_of(server: Server) -> str:
    return server.token_exchange.client.token_url if server.token_exchange is not None else ""


def _secret(client: TokenClient) -> str | None:
    if client.client_secret_file is None:
        return client.client_secret
    try:
        secret = Path(client.client_secret_file).read_text(encoding="utf-8-sig").strip()
    except (OSError, ValueError) as error:
        raise NotGivenError(f"clientSecretFile {client.client_secret_file}: {type(error).__name__}") from None
    if not secret:
        raise NotGivenError(f"clientSecretFile {client.client_secret_file} is empty")
    return secret


def _read(text: str | None) -> Given | None:
    """What another replica has sealed."""
    if text is None:
        return None
    value, until = json.loads(text)
    return Given(value, until)


def _refused(server: Server, error: NotGivenError) -> Reject:
    """The answer to a caller. Where the authorization server is, is its operator's business."""
    if error.error in _OF_OPERATOR:
        why = f"refuses this gateway ({error.error}): tell its operator"
    elif error.error:
        why = f"refuses it ({error.error}): log in again, or ask for access"
    else:
        why = "gives none at the moment: try again, and tell the operator of this gateway if that lasts"
    words = f"MCP server {server.name} needs a token of its own for this caller, and its authorization server {why}"
    reject = failure(server.name, UNAUTHORIZED, words)
    return attrs.evolve(reject, data={**reject.data, "error": error.error}) if error.error else reject
