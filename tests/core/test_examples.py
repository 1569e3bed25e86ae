"""Examples of what properties and fuzzers find by chance: what is covered does not depend on it."""

from __future__ import annotations

import json

import pytest
import yaml

from mcpgw_sidecar.catalog.rights import fits
from mcpgw_sidecar.model.names import NULL, JsonText, ServerName, VirtualName
from mcpgw_sidecar.model.servers import ForwardedHeader, Server, VirtualServer
from mcpgw_sidecar.protocol.gzipped import accepts
from mcpgw_sidecar.protocol.jsonrpc import Notification, Request, parse_message
from mcpgw_sidecar.protocol.owners import name_owner, read_call
from mcpgw_sidecar.resources.configmap import render


@pytest.mark.parametrize(
    ("glob", "name", "is_fit"),
    [
        ("a", "a", True), ("a", "ab", False), ("*", "", True), ("a*", "abc", True), ("*c", "abc", True), ("a*a", "a", False),
        ("a*b*c", "axbxc", True), ("a*b*c", "axc", False), ("a*bb*b", "abbb", True), ("a*b*b*c", "abc", False),
    ],
)  # fmt: skip
@pytest.mark.duty("access.rules")
def test_globs(glob: str, name: str, is_fit: bool) -> None:
    assert fits(glob, name) is is_fit


@pytest.mark.parametrize(
    ("message", "ids"),
    [
        ({"id": 1, "method": "roots/list"}, ["mcpgw:o:1"]),
        ({"id": "a", "method": "m", "params": {"_meta": {"progressToken": 5}}}, ["mcpgw:o:5", 'mcpgw:o:\\"a\\"']),
        ({"id": 1, "method": "m", "params": {"_meta": {}}}, ["mcpgw:o:1"]),
        ({"id": 1, "method": "m", "params": {"_meta": 5}}, ["mcpgw:o:1"]),
        ({"id": 1, "method": "m", "params": {"_meta": {f"x{number}": 0 for number in range(1001)}}}, ["mcpgw:o:1"]),
        ({"method": "notifications/cancelled", "params": {"requestId": 7}}, ["mcpgw:o:7"]),
        ({"method": "notifications/cancelled", "params": {}}, []),
        ({"method": "notifications/message", "params": {"requestId": 7}}, []),
    ],
)
@pytest.mark.duty("ask.id-alone", "notify.server-cancelled")
def test_the_owner_in_the_ids_of_a_server(message: dict[str, object], ids: list[str]) -> None:
    parsed = parse_message(json.dumps({"jsonrpc": "2.0", **message}))
    assert isinstance(parsed, Request | Notification)
    named = name_owner(parsed, "o")
    assert named.count("mcpgw:o:") == len(ids)
    assert all(f'"{ident}"' in named for ident in ids)


@pytest.mark.duty("resume.at-server")
def test_the_call_of_an_event() -> None:
    assert read_call(JsonText("7")) == (NULL, "7")
    assert read_call(JsonText(f"~{b'5'.hex()}~7")) == ("5", "7")
    assert read_call(JsonText(f"~{b'5,6'.hex()}~7")) == (NULL, "7")


@pytest.mark.parametrize(
    ("header", "takes"),
    [("gzip", True), ("", False), ("br, *", True), ("gzip;q=0", False), ("x-gzip;q=0.5", True), ("*;q=0.0", False)],
)
def test_who_takes_gzip(header: str, takes: bool) -> None:
    assert accepts(header) is takes


@pytest.mark.duty("kube.configmap")
def test_the_text_of_a_configmap() -> None:
    headers = (ForwardedHeader("a", "a", required=False), ForwardedHeader("b", "c", required=True))
    one = Server(name=ServerName("ns/yes"), url="http://h:1/m?a=b", hostname="true", tool_prefix="é\n", forwarded=headers)
    virtual = (VirtualServer(name=VirtualName("ns/v"), tools=("t",)), VirtualServer(name=VirtualName("ns/w"), tools=()))
    shown = yaml.safe_load(render((one,), virtual))
    assert shown["servers"] == [
        {
            "name": "ns/yes", "url": "http://h:1/m?a=b", "hostname": "true", "toolPrefix": "é\n", "enabled": True,
            "forwardHeaders": ["a", {"name": "b", "as": "c", "required": True}],
        }
    ]  # fmt: skip
    assert shown["virtualServers"] == [{"name": "ns/v", "tools": ["t"]}, {"name": "ns/w", "tools": []}]
    assert render((), ()) == "servers: []\n"
