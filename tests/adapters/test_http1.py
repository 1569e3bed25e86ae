"""The gateway's own HTTP client, against a server that says what a test has it say."""

from __future__ import annotations

import contextlib
import gzip
import ssl
import zlib
from collections.abc import AsyncIterator
from functools import partial

import attrs
import pytest
import trio
import trustme

from mcpgw_sidecar.errors import UpstreamError
from mcpgw_sidecar.model.names import ServerName
from mcpgw_sidecar.model.servers import Server
from mcpgw_sidecar.upstream import exchange, pool
from mcpgw_sidecar.upstream.exchange import Exchanger
from mcpgw_sidecar.upstream.http1 import Answer
from mcpgw_sidecar.upstream.pool import HttpClients


def packed(body: bytes, more: bytes = b"") -> bytes:
    """An answer that is said to be in gzip."""
    return b"HTTP/1.1 200 OK\r\n%bcontent-length: %d\r\ncontent-encoding: gzip\r\n\r\n%b" % (more, len(body), body)


HELLO = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"


@attrs.define
class Peer:
    """A server that answers each request on a connection with the next of `answers`.

    With `b""` it closes the connection; `None` is silence. `connections` has the requests of each.
    """

    answers: list[bytes | None]
    port: int = 0
    twice: bytes = b""
    connections: list[list[bytes]] = attrs.field(factory=list)

    async def serve(self, stream: trio.abc.Stream) -> None:
        requests: list[bytes] = []
        self.connections.append(requests)
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async with stream:
                while await self._wait_request(stream, requests):
                    answer = self.answers.pop(0) if self.answers else HELLO
                    if answer is None:
                        await trio.sleep_forever()
                    if not answer:
                        return
                    if self.twice and isinstance(stream, trio.SSLStream):  # two records in one segment
                        for text in (answer, self.twice):
                            stream._ssl_object.write(text)
                        await stream.transport_stream.send_all(stream._outgoing.read())
                    else:
                        await stream.send_all(answer + self.twice)
                    if b"length" not in answer and b"chunked" not in answer:
                        return

    @staticmethod
    async def _wait_request(stream: trio.abc.Stream, requests: list[bytes]) -> bool:
        text = b""
        while b"\r\n\r\n" not in text:
            chunk = bytes(await stream.receive_some())
            if not chunk:
                return False
            text += chunk
        requests.append(text)
        return True


@contextlib.asynccontextmanager
async def peer(*answers: bytes | None, tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[Peer, Exchanger, Server]]:
    one, clients = Peer(list(answers)), HttpClients()
    async with trio.open_nursery() as nursery:
        if tls is None:
            serve = partial(trio.serve_tcp, one.serve, 0, host="127.0.0.1")
        else:
            serve = partial(trio.serve_ssl_over_tcp, one.serve, 0, tls, host="127.0.0.1", https_compatible=True)
        (listener, *_) = await nursery.start(serve)
        socket = listener.transport_listener.socket if tls is not None else listener.socket
        one.port = socket.getsockname()[1]
        scheme = "http" if tls is None else "https"
        server = Server(name=ServerName("ns/one"), url=f"{scheme}://127.0.0.1:{one.port}/mcp?key=a%20b", hostname="one")
        yield one, Exchanger(clients, lambda *_: None), server
        await clients.aclose()
        nursery.cancel_scope.cancel()


async def read(exchanger: Exchanger, server: Server, silence: float | None = 5.0, **headers: str) -> tuple[Answer, bytes]:
    async with exchanger.exchange(server, "POST", b"{}", headers, silence=silence) as answer:
        return answer, b"".join([chunk async for chunk in answer.aiter_bytes()])


@pytest.mark.duty("transport.upstream-headers")
async def test_a_connection_is_used_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the end of an answer nothing more is waited for: that would be the next answer."""
    monkeypatch.setattr(exchange, "DRAIN", 3600.0)
    async with peer() as (one, exchanger, server):
        with trio.fail_after(20):
            for _ in range(20):
                assert (await read(exchanger, server))[1] == b"hello"
        assert [len(requests) for requests in one.connections] == [20]
        first = one.connections[0][0].decode().lower()
        assert first.startswith("post /mcp?key=a%20b http/1.1\r\n")
        for line in (f"host: 127.0.0.1:{one.port}", "content-type: application/json", "content-length: 2"):
            assert f"\r\n{line}\r\n" in first
        assert "\r\nuser-agent: mcpgw-sidecar/" in first


@pytest.mark.parametrize(
    ("text", "body"),
    [
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\n\r\n" + HELLO, b"hello"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", b"hello"),
        (b"HTTP/1.0 200 OK\r\n\r\nto the end", b"to the end"),
        (b"HTTP/1.1 200 OK\r\nx-pad: %b\r\ncontent-length: 0\r\n\r\n" % (b"x" * 90_000), b""),
        (b"HTTP/1.1 500 Broken\r\ncontent-length: 2\r\n\r\nno", b"no"),
    ],
)
@pytest.mark.duty("transport.upstream-headers")
async def test_answers_as_servers_write_them(text: bytes, body: bytes) -> None:
    async with peer(text) as (_, exchanger, server):
        assert (await read(exchanger, server))[1] == body


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "deflate", "identity", ""])
@pytest.mark.duty("transport.upstream-headers")
async def test_compressed_answers(encoding: str) -> None:
    """Nobody asks for them, and some servers send them."""
    plain = b"x" * (5 << 20)
    packed = {"gzip": gzip.compress, "x-gzip": gzip.compress, "deflate": zlib.compress}.get(encoding, bytes)(plain)
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\ncontent-encoding: %b\r\n\r\n" % (len(packed), encoding.encode())
    async with peer(head + packed) as (one, exchanger, server):
        async with exchanger.exchange(server, "POST", b"{}", {}) as answer:
            pieces = [len(chunk) async for chunk in answer.aiter_bytes()]
        assert (sum(pieces), max(pieces) <= 64 << 10) == (len(plain), True), "a small answer may not become a large piece"
        assert b"accept-encoding: identity" in one.connections[0][0].lower()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "BrokenOff"),
        (b"SSH-2.0-OpenSSH\r\n", "BrokenOff"),
        (b"HTTP/1.1 200 OK\r\n\x00: 1\r\n\r\n", "BrokenOff"),
        (b"HTTP/1.1 200 OK\r\nx: %b\r\n\r\n" % (b"x" * 200_000), "BrokenOff"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", "BrokenOff"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-encoding: gzip\r\n\r\nabc", "BadAnswer"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-encoding: br\r\n\r\nabc", "BadAnswer"),
        (packed(gzip.compress(b"x", mtime=0), b"content-type: text/event-stream\r\n"), "BadAnswer"),
        (packed(gzip.compress(b"x", mtime=0) + b"more"), "BadAnswer"),
        (packed(gzip.compress(b"x" * 100, mtime=0)[:-9]), "BrokenOff"),
        (b"HTTP/1.1 103 Early\r\n\r\n" * 100 + HELLO, "BrokenOff"),
        (None, "Timeout"),
    ],
    ids=lambda value: value if isinstance(value, str) else "answer",
)
@pytest.mark.duty("transport.upstream-headers")
async def test_what_is_no_answer(text: bytes | None, reason: str) -> None:
    async with peer(text) as (one, exchanger, server):
        with pytest.raises(UpstreamError) as error:
            await read(exchanger, server, silence=0.2)
        assert error.value.reason == reason
        assert (await read(exchanger, server))[1] == b"hello"
        assert len(one.connections) == 2, "that connection is used no more"


@pytest.mark.duty("transport.upstream-headers")
async def test_an_answer_that_breaks_off() -> None:
    begun = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhe"
    async with peer(begun) as (one, exchanger, server):
        with pytest.raises(UpstreamError) as silent:
            await read(exchanger, server, silence=0.2)
        assert silent.value.reason == "Timeout"
        one.answers = [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello"]  # then it closes the connection
        with pytest.raises(UpstreamError) as broken:
            await read(exchanger, server)
        assert broken.value.reason == "BrokenOff"


@pytest.mark.duty("transport.upstream-headers")
async def test_a_header_that_cannot_be_sent() -> None:
    async with peer() as (_, exchanger, server):
        with pytest.raises(UpstreamError, match="cannot be sent") as error:
            await read(exchanger, server, authorization="SECRET\nx: 1")
        assert "SECRET" not in str(error.value)


@pytest.mark.duty("transport.upstream-headers")
async def test_connections_do_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    async with peer() as (one, exchanger, server):
        await read(exchanger, server)
        monkeypatch.setattr(pool, "KEPT", 0.0)
        await read(exchanger, server)
        assert len(one.connections) == 2, "the first is too old"
        monkeypatch.setattr(pool, "KEPT", 60.0)
        monkeypatch.setattr(pool, "MAX_KEPT", 1)
        async with exchanger.http.linked(server) as first, exchanger.http.linked(server) as second:
            assert first is not second
        async with peer() as (_, _, other), exchanger.http.linked(other):
            pass
        assert len(exchanger.http._idle) <= 1
        monkeypatch.setattr(pool, "KEPT", 0.01)
        with trio.move_on_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(exchanger.http.wait_sweeping)
                while exchanger.http._idle:  # noqa: ASYNC110  # a dict has no event for its last element
                    await trio.sleep(0.01)
                nursery.cancel_scope.cancel()
        assert not exchanger.http._idle
        assert exchanger.http._by_place.keys() == set(exchanger.http._idle.values())


@pytest.mark.duty("transport.upstream-headers")
async def test_a_connection_that_its_server_has_closed_is_not_used() -> None:
    async with peer(HELLO) as (one, exchanger, server):
        await read(exchanger, server)
        one.answers = [b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\nHTTP/1.1 400 unasked\r\n\r\n"]
        await read(exchanger, server)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert (await read(exchanger, server))[0].status_code == 200
        assert len(one.connections) == 2


@pytest.mark.duty("transport.upstream-headers")
async def test_what_comes_behind_an_answer_is_no_answer_to_the_next_client() -> None:
    """In TLS a second answer may wait where no poll sees it."""
    authority, context = trustme.CA(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    secret = HELLO.replace(b"hello", b"OTHER")
    for tls in (None, context):
        with authority.cert_pem.tempfile() as ca_file:
            async with peer(HELLO, tls=tls) as (one, exchanger, server):
                trusting = attrs.evolve(server, ca_file=ca_file)
                await read(exchanger, trusting)
                one.twice = secret
                assert (await read(exchanger, trusting))[1] == b"hello"
                one.twice = b""
                assert (await read(exchanger, trusting))[1] == b"hello"


@pytest.mark.duty("transport.upstream-headers")
async def test_certificates_are_checked() -> None:
    authority, context = trustme.CA(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with authority.cert_pem.tempfile() as ca_file:
        async with peer(tls=context) as (one, exchanger, server):
            with pytest.raises(UpstreamError, match="certificate") as error:
                await read(exchanger, server)
            assert error.value.reason == "Unreachable"
            trusting = attrs.evolve(server, ca_file=ca_file)
            for _ in range(3):
                assert (await read(exchanger, trusting))[1] == b"hello"
            assert len([requests for requests in one.connections if requests]) == 1
            named = attrs.evolve(trusting, url=trusting.url.replace("127.0.0.1", "other.example"), addresses=("127.0.0.1",))
            with pytest.raises(UpstreamError, match="certificate"):
                await read(exchanger, named)
            with pytest.raises(UpstreamError) as broken:
                await read(exchanger, attrs.evolve(server, ca_file=__file__))
            assert broken.value.reason == "BadCaFile"
