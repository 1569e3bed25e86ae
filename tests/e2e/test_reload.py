"""The configuration changes while clients are connected.

Nothing restarts, no connection is cut, and each client gets one notification.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.conftest import quiet
from tests.e2e.stack import Client, Gateway, answer, entry, gateway, listening, text_of, wait_until
from tests.servers.scripted import ScriptedServer, tool


@pytest.fixture
def running(one: ScriptedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway(tmp_path_factory.mktemp("reload"), [entry("ns/one", one.url, "a_")]) as new_gateway:
        yield new_gateway


def methods(messages: list[Any]) -> list[str]:
    return [message["method"] for message in messages]


@pytest.mark.duty("reload.live")
def test_servers_come_and_go(running: Gateway, one: ScriptedServer, two: ScriptedServer) -> None:
    with running.client() as client:
        assert client.tools() == ["a_both", "a_one"]
        running.write([entry("ns/one", one.url, "a_"), entry("ns/two", two.url, "b_")])
        wait_until(lambda: client.tools() == ["a_both", "a_one", "b_both", "b_two"])
        assert text_of(client.call("b_two"))
        running.write([entry("ns/one", one.url, "a_"), entry("ns/two", two.url, "b_", enabled=False)])
        wait_until(lambda: client.tools() == ["a_both", "a_one"])
        assert answer(client.call("b_two"))["error"]["code"] == -32601
        assert running.server("ns/two")["enabled"] is False
        running.write([entry("ns/two", two.url, "c_")])
        wait_until(lambda: client.tools() == ["c_both", "c_two"])
        assert text_of(client.call("c_two"))
        running.write([])
        wait_until(lambda: client.tools() == [])
    assert running.status()["servers"] == []


@pytest.mark.duty("reload.live")
def test_a_server_that_moves(running: Gateway, one: ScriptedServer, two: ScriptedServer) -> None:
    with running.client() as client:
        assert json.loads(text_of(client.call("a_both")))["server"] == one.port
        running.write([entry("ns/one", two.url, "a_")])
        wait_until(lambda: json.loads(text_of(client.call("a_both")))["server"] == two.port)
        wait_until(lambda: client.tools() == ["a_both", "a_two"])


@pytest.mark.duty("reload.calls-go-on")
def test_a_call_in_flight_ends_where_it_is(running: Gateway, one: ScriptedServer) -> None:
    release, begun = threading.Event(), threading.Event()

    def slow(handler: Any, message: Any) -> bool:
        begun.set()
        release.wait(20)
        handler.result(message["id"], {"content": [{"type": "text", "text": "finished"}]})
        return True

    one.answers["tools/call"] = slow
    with running.client() as client, running.client() as other:
        texts: list[str] = []
        thread = threading.Thread(target=lambda: texts.append(text_of(client.call("a_one"))))
        thread.start()
        assert begun.wait(10)
        running.write([])
        wait_until(lambda: other.tools() == [])
        quiet(1.5)  # routes and clusters linger for a second: this is after that
        release.set()
        thread.join()
        assert texts == ["finished"]


@pytest.mark.duty("notify.list-changed")
def test_one_change_is_one_notification(running: Gateway, one: ScriptedServer, two: ScriptedServer) -> None:
    with running.client() as client, running.client() as second, listening(client) as messages, listening(second) as also:
        running.write([entry("ns/new", two.url, "n_")])
        wait_until(lambda: messages and also)
        quiet()
        assert methods(messages) == methods(also) == ["notifications/tools/list_changed"]
        assert client.tools() == ["n_both", "n_two"]
        running.write([entry("ns/new", two.url, "n_"), entry("ns/one", one.url, "n_", enabled=False)])
        quiet()
        assert len(messages) == 1


@pytest.mark.duty("notify.list-changed")
def test_a_server_that_changes_its_tools(running: Gateway, one: ScriptedServer) -> None:
    with running.client() as client, listening(client) as messages:
        wait_until(lambda: one._streams, "the broker listens")
        one.tools = [tool("one", description="new words"), tool("more")]
        one.notify("notifications/tools/list_changed")
        wait_until(lambda: client.tools() == ["a_more", "a_one"])
        listed = client.post("tools/list").json()["result"]["tools"]
        assert listed[1] == tool("a_one", description="new words")
        wait_until(lambda: messages)
        quiet()
        assert methods(messages) == ["notifications/tools/list_changed"]


@pytest.mark.duty("transport.one-stream")
def test_keep_alives_and_one_stream_for_each_message(running: Gateway, two: ScriptedServer) -> None:
    with running.client() as client, Client(running.url) as twin:
        twin.headers = client.headers
        with listening(client) as older, listening(twin) as newer:
            wait_until(lambda: running.metric("mcpgw_streams") == 2)
            running.write([entry("ns/two", two.url)])
            wait_until(lambda: newer)
            quiet()
            assert (older, methods(newer)) == ([], ["notifications/tools/list_changed"])


@pytest.mark.duty("reload.last-good", "metrics.reloads")
@pytest.mark.parametrize("broken", ["servers: [", "", "servers: 5", "servers:\n- {name: x, url: 'ftp://x', tolPrefix: a}\n"])
def test_a_broken_file_leaves_the_last_good_one(running: Gateway, broken: str) -> None:
    good = running.config.read_text()
    running.config.write_text(broken)
    wait_until(lambda: running.status()["config"]["error"])
    assert str(running.config) in running.status()["config"]["error"]
    assert running.logged(r"^ERROR Configuration not reloaded")
    assert running.metric(r'mcpgw_config_reloads_total\{outcome="failed"\}') == 1
    with running.client() as client:
        assert client.tools() == ["a_both", "a_one"]
    running.config.write_text(good + "\n")
    wait_until(lambda: running.status()["config"]["error"] is None)


def rename(path: Path, text: str) -> None:
    new = path.with_suffix(".tmp")
    new.write_text(text)
    new.replace(path)


def truncate_and_write(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.flush()
        os.fsync(file.fileno())
        file.write(text)


def remove_and_create(path: Path, text: str) -> None:
    path.unlink()
    quiet(0.4)
    path.write_text(text)


def swap_symlinks(path: Path, text: str) -> None:
    """As a mounted ConfigMap changes: config.yaml -> ..data/config.yaml, and ..data is swapped."""
    data = path.parent / f"..{len(list(path.parent.iterdir()))}"
    data.mkdir()
    (data / path.name).write_text(text)
    link = path.parent / "..data_tmp"
    link.symlink_to(data.name)
    link.replace(path.parent / "..data")
    if not path.is_symlink():
        path.unlink()
        path.symlink_to(f"..data/{path.name}")


@pytest.mark.duty("reload.every-save")
@pytest.mark.parametrize("save", [rename, truncate_and_write, remove_and_create, swap_symlinks])
def test_every_way_to_save_a_file_is_noticed(running: Gateway, one: ScriptedServer, save: Any) -> None:
    with running.client() as client:
        for prefix in ("x_", "y_"):
            save(running.config, yaml.safe_dump({"servers": [entry("ns/one", one.url, prefix)]}))
            wait_until(lambda: client.tools() == [f"{prefix}both", f"{prefix}one"])  # noqa: B023  # asked within the loop
    assert running.status()["config"]["error"] is None


@pytest.mark.duty("reload.calls-go-on")
def test_calls_go_on_while_the_configuration_changes(running: Gateway, one: ScriptedServer, two: ScriptedServer) -> None:
    stop, failed = threading.Event(), []

    def work() -> None:
        with running.client() as client:
            while not stop.is_set():
                response = client.call("a_one")
                if response.status_code != 200 or "result" not in answer(response):
                    failed.append(response.text)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    keep = entry("ns/one", one.url, "a_")
    for number in range(6):
        running.write([keep, entry("ns/two", two.url, f"b{number}_")] if number % 2 else [keep])
        quiet(0.3)
    stop.set()
    for thread in threads:
        thread.join()
    assert failed == []
