"""List and watch against a scripted API on loopback.

The API does everything that an API server, or a proxy before it, may do to a watch.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
import yaml

from mcpgw_sidecar.errors import UnavailableError
from mcpgw_sidecar.kube import api as kube_api, reflector
from mcpgw_sidecar.kube.api import KubeApi
from mcpgw_sidecar.kube.reflector import Reflector
from mcpgw_sidecar.resources.kinds import MCP_SERVER

Step = Callable[[trio.SocketStream, str], Any]


def thing(name: str, version: int) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "ns", "resourceVersion": str(version)}}


def event(kind: str, name: str, version: int) -> bytes:
    return json.dumps({"type": kind, "object": thing(name, version)}).encode() + b"\n"


def listing(version: int, *names: str, token: str = "") -> bytes:
    meta = {"resourceVersion": str(version), "continue": token}
    return json.dumps({"metadata": meta, "items": [thing(name, version) for name in names]}).encode()


def answered(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


STREAM = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


class Api:
    """Answers the requests in the order of `script`, and repeats the last answer.

    None means: accept the connection and send nothing. `newest` is the version of the API, which is
    asked for before a watch goes on.
    """

    newest = 1 << 40

    def __init__(self, *script: bytes | tuple[bytes, ...] | None) -> None:
        self.script = list(script)
        self.asked: list[str] = []
        self.tokens: list[str] = []
        self.more = trio.Event()

    async def serve(self, stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self._wait_served(stream)

    async def wait_asked(self, times: int) -> None:
        with trio.fail_after(10):
            while len(self.asked) < times:
                await self.more.wait()

    async def _wait_served(self, stream: trio.SocketStream) -> None:
        held = b""
        while True:
            while b"\r\n\r\n" not in held:
                data = await stream.receive_some()
                if not data:
                    return
                held += data
            head, _, held = held.partition(b"\r\n\r\n")
            lines = head.decode().split("\r\n")
            if re.search(r"[?&]limit=1(&|$)", lines[0].split()[1]):
                await stream.send_all(answered(listing(self.newest)))
                continue
            self.asked.append(lines[0].split()[1])
            self.more.set()
            self.more = trio.Event()
            self.tokens += [line.partition(": ")[2] for line in lines if line.lower().startswith("authorization")]
            step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
            if step is None:
                await trio.sleep_forever()
            for part in step if isinstance(step, tuple) else (step,):
                await stream.send_all(part)
            if isinstance(step, tuple):  # a watch: the connection ends with it
                await stream.aclose()
                return


class Seen:
    def __init__(self) -> None:
        self.told: list[Any] = []
        self.changed = trio.Event()

    def _tell(self, *what: Any) -> None:
        self.told.append(what)
        self.changed.set()
        self.changed = trio.Event()

    def reset(self, objects: list[Any]) -> None:
        self._tell("reset", *(one["metadata"]["name"] for one in objects))

    def apply(self, raw: Any) -> None:
        self._tell("apply", raw["metadata"]["name"])

    def delete(self, raw: Any) -> None:
        self._tell("delete", raw["metadata"]["name"])

    def trouble(self, reason: str | None, status: int = 0) -> None:
        del status
        if reason is not None:
            self._tell("trouble", reason)

    async def wait_for(self, *what: Any) -> None:
        with trio.fail_after(10):
            while not any(each[: len(what)] == what for each in self.told):
                await self.changed.wait()

    @property
    def names(self) -> list[Any]:
        return [each for each in self.told if each[0] != "trouble"]


@asynccontextmanager
async def reflecting(api: Api, directory: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Seen]:
    monkeypatch.setattr(reflector, "RETRY_BASE", 0.01)
    monkeypatch.setattr(reflector, "RETRY_CAP", 0.05)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    kubeconfig(directory, port, "first")
    monkeypatch.setenv("KUBECONFIG", str(directory / "kubeconfig"))
    recorder = Seen()
    async with KubeApi.opened() as opened, trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, api.serve, listeners)
        nursery.start_soon(Reflector(opened, MCP_SERVER, recorder).wait_reflecting)
        yield recorder
        nursery.cancel_scope.cancel()


def kubeconfig(directory: Path, port: int, token: str) -> None:
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "u", "user": {"token": token}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "mine"}}],
        "current-context": "x",
    }
    (directory / "kubeconfig").write_text(yaml.safe_dump(document))


GONE = json.dumps({"type": "ERROR", "object": {"code": 410, "message": "too old", "metadata": {}}}).encode() + b"\n"


async def test_pages_and_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = (STREAM, chunk(event("ADDED", "c", 6)), chunk(event("MODIFIED", "a", 7)), chunk(event("DELETED", "b", 8)))
    api = Api(answered(listing(5, "a", token="t")), answered(listing(5, "b")), watch, None)
    async with reflecting(api, tmp_path, monkeypatch) as recorder:
        await recorder.wait_for("delete", "b")
        assert recorder.names == [("reset", "a", "b"), ("apply", "c"), ("apply", "a"), ("delete", "b")]
        await api.wait_asked(4)
    assert "limit=500&continue=t" in api.asked[1]
    assert "resourceVersion=5" in api.asked[2]
    assert "allowWatchBookmarks=true" in api.asked[2]
    assert "resourceVersion=8" in api.asked[3]  # it goes on from there


@pytest.mark.duty("kube.restored")
async def test_an_api_that_went_back_is_listed_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api(answered(listing(9, "a")), (STREAM,), answered(listing(4, "b")), (STREAM,), None)
    api.newest = 4
    async with reflecting(api, tmp_path, monkeypatch) as seen:
        await seen.wait_for("reset", "b")
    assert seen.names[:2] == [("reset", "a"), ("reset", "b")]


async def test_a_bookmark_moves_the_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bookmark = json.dumps({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "99"}}}).encode() + b"\n"
    api = Api(answered(listing(5)), (STREAM, chunk(bookmark), b"0\r\n\r\n"), None)
    async with reflecting(api, tmp_path, monkeypatch):
        await api.wait_asked(3)
    assert "resourceVersion=99" in api.asked[2]


@pytest.mark.parametrize("how", ["in the stream", "as an answer", "in the middle of the list"])
async def test_410_lists_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    gone = answered(b'{"message": "too old"}', "410 Gone")
    begin: list[Any] = [answered(listing(5, "a"))]
    if how == "in the stream":
        begin.append((STREAM, chunk(GONE)))
    elif how == "as an answer":
        begin.append(gone)
    else:
        begin = [answered(listing(5, "a", token="t")), gone]
    api = Api(*begin, answered(listing(50, "b")), None)
    async with reflecting(api, tmp_path, monkeypatch) as recorder:
        await recorder.wait_for("reset", "b")
    assert not [each for each in recorder.told if each[0] == "trouble"]


async def test_an_event_cut_in_the_middle_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half = event("ADDED", "c", 6)[:-9]
    api = Api(
        answered(listing(5)),
        (STREAM, chunk(half)),
        (STREAM, chunk(event("ADDED", "c", 6)[:20]), chunk(event("ADDED", "c", 6)[20:])),
        None,
    )
    async with reflecting(api, tmp_path, monkeypatch) as recorder:
        await recorder.wait_for("apply", "c")
    assert "resourceVersion=5" in api.asked[2]
    assert not [each for each in recorder.told if each[0] == "trouble"]  # a line that was cut is none


@pytest.mark.duty("kube.api-away")
@pytest.mark.parametrize(
    ("script", "words"),
    [
        ([answered(b"<html>", "502 Bad Gateway")], "HTTP 502"),
        ([answered(b"no json")], "is not the Kubernetes API"),
        ([answered(b"[]")], "is not the Kubernetes API"),
        ([answered(b'{"items": []}')], "no object of it"),
        ([answered(b'{"metadata": {}}')], "cannot be read"),
        ([answered(listing(5)), (STREAM, chunk(b"garbage\n"))], "cannot be read"),
        ([answered(listing(5)), (STREAM, chunk(b'{"type": "ADDED"}\n'))], "cannot be read"),
        ([answered(listing(5)), (STREAM, chunk(b'{"type": "ERROR", "object": {"message": "odd"}}\n'))], "odd"),
        (
            [answered(b'{"message": "no"}', "403 Forbidden")],
            "not allowed to watch mcpservers.mcpgw.dev: see `mcpgw-sidecar manifests rbac`",
        ),
        ([answered(b"{}", "404 Not Found")], "install"),
        ([(b"",)], "did not answer"),
    ],
)
async def test_answers_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: list[Any], words: str) -> None:
    """It is said, tried again without a hot loop, and forgotten once it works."""
    words = words.replace("install", "manifests crds")
    api = Api(*script * 3, answered(listing(9, "good")), (STREAM, chunk(event("ADDED", "more", 10))), None)
    async with reflecting(api, tmp_path, monkeypatch) as recorder:
        await recorder.wait_for("apply", "more")
    assert any(words in each[1] for each in recorder.told if each[0] == "trouble"), recorder.told


async def test_a_silent_server_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reflector, "SILENCE", 0.2)
    monkeypatch.setattr(kube_api, "TIMEOUT", 0.2)
    api = Api(answered(listing(5)), None, None, (STREAM, chunk(event("ADDED", "late", 6))), None)
    async with reflecting(api, tmp_path, monkeypatch) as recorder:
        await recorder.wait_for("apply", "late")


async def test_a_refused_token_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = answered(b'{"message": "Unauthorized"}', "401 Unauthorized")
    api = Api(refused)
    async with reflecting(api, tmp_path, monkeypatch) as recorder:
        await recorder.wait_for("trouble")
        text = (tmp_path / "kubeconfig").read_text()
        for broken in ("", "[", "users: 7"):  # half-written: the next try may find it whole
            (tmp_path / "kubeconfig").write_text(broken)
            asked = len(api.asked)
            await api.wait_asked(asked + 2)
        (tmp_path / "kubeconfig").write_text(text.replace("first", "second"))
        api.script = [refused, answered(listing(5, "a")), None]
        await recorder.wait_for("reset", "a")
    assert api.tokens[-1] == "Bearer second"


async def test_without_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(UnavailableError, match="KUBECONFIG"):
        async with KubeApi.opened():
            pass
