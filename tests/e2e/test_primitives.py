"""Prompts, resources, templates and completion: listed together, answered by their owners."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote

import pytest
import trio
from mcp import Client as SdkClient, types

from tests.e2e.stack import Gateway, answer, entry, gateway, wait_until
from tests.servers.scripted import ScriptedServer


def offer(server: ScriptedServer, **lists: list[dict[str, Any]]) -> None:
    """Have a scripted server offer prompts, resources and templates, and return the keys."""

    def lister(member: str) -> Any:
        def reply(handler: Any, message: Any) -> bool:
            handler.result(message["id"], {member: lists.get(member, [])})
            return True

        return reply

    def echo(handler: Any, message: Any) -> bool:
        handler.result(message["id"], {"server": server.port, "asked": message["params"]})
        return True

    server.capabilities = {"tools": {}, "prompts": {}, "resources": {}, "completions": {}}
    server.answers |= {
        "prompts/list": lister("prompts"),
        "resources/list": lister("resources"),
        "resources/templates/list": lister("resourceTemplates"),
        "prompts/get": echo,
        "resources/read": echo,
        "completion/complete": echo,
    }


@pytest.fixture
def running(one: ScriptedServer, two: ScriptedServer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    offer(
        one,
        prompts=[{"name": "ask"}, {"title": "no name"}],
        resources=[{"uri": "file:///one.txt", "name": "one"}, {"uri": "file:///both.txt", "name": "first"}, {"uri": "x:"}],
        resourceTemplates=[{"uriTemplate": "db://one/{table}", "name": "tables"}],
    )
    offer(
        two,
        prompts=[{"name": "ask", "arguments": [{"name": "a"}]}],
        resources=[{"uri": "file:///both.txt", "name": "second"}],
        resourceTemplates=[{"uriTemplate": "db://{server}/{+path}", "name": "anything"}],
    )
    with gateway(
        tmp_path_factory.mktemp("kinds"), [entry("ns/one", one.url, "a_"), entry("ns/two", two.url, "b_")]
    ) as new_gateway:
        yield new_gateway


@pytest.mark.duty("list.prefixed", "list.uri-alias", "session.capabilities", "list.invalid-left-out")
def test_lists_of_all_servers(running: Gateway) -> None:
    with running.client() as client:
        offered = client.initialized.json()["result"]["capabilities"]
        assert offered == {
            "tools": {"listChanged": True},
            "prompts": {"listChanged": True},
            "resources": {"listChanged": True},
            "completions": {},
        }
        prompts = client.post("prompts/list").json()["result"]["prompts"]
        assert prompts == [{"name": "a_ask"}, {"name": "b_ask", "arguments": [{"name": "a"}]}]
        resources = client.post("resources/list").json()["result"]["resources"]
        assert [(each["uri"], each["name"]) for each in resources] == [
            ("file:///both.txt", "first"),
            ("file:///one.txt", "one"),
            ("mcpgw://ns%2Ftwo/file:///both.txt", "second"),
        ]
        templates = client.post("resources/templates/list").json()["result"]["resourceTemplates"]
        assert [each["name"] for each in templates] == ["tables", "anything"]
    status = running.server("ns/one")
    assert (status["tools"], status["prompts"], status["resources"]) == (2, 1, 3)
    assert {(bad["kind"], bad["reason"]) for bad in status["invalid"]} == {
        ("prompt", '"name" is missing or not a string'),
        ("resource", '"name" is missing or not a string'),
    }
    assert running.server("ns/two")["conflicts"] == [], "a clashing URI is listed under its alias: nothing is lost"


@pytest.mark.duty("call.prompt", "call.resource", "call.completion", "header.names")
@pytest.mark.parametrize(
    ("method", "params", "owner", "arrives"),
    [
        (
            "prompts/get",
            {"name": "b_ask", "arguments": {"name": "b_ask"}},
            "two",
            {"name": "ask", "arguments": {"name": "b_ask"}},
        ),
        ("prompts/get", {"name": "a_ask"}, "one", {"name": "ask"}),
        ("resources/read", {"uri": "file:///both.txt"}, "one", None),
        ("resources/read", {"uri": "mcpgw://ns%2Ftwo/file:///both.txt"}, "two", {"uri": "file:///both.txt"}),
        ("resources/read", {"uri": "db://one/people"}, "one", None),
        ("resources/read", {"uri": "db://one/people/1"}, "two", None),
        ("resources/read", {"uri": "db://x/a/b"}, "two", None),
        (
            "completion/complete",
            {"ref": {"type": "ref/prompt", "name": "b_ask"}, "argument": {"name": "a", "value": "x"}},
            "two",
            {"ref": {"type": "ref/prompt", "name": "ask"}, "argument": {"name": "a", "value": "x"}},
        ),
        ("completion/complete", {"ref": {"type": "ref/resource", "uri": "db://one/{table}"}, "argument": {}}, "one", None),
    ],
)
def test_each_is_answered_by_its_owner(
    running: Gateway, one: ScriptedServer, two: ScriptedServer, method: str, params: Any, owner: str, arrives: Any
) -> None:
    server = {"one": one, "two": two}[owner]
    with running.client() as client:
        result = answer(client.post(method, params, "q"))
        assert result == {"jsonrpc": "2.0", "id": "q", "result": {"server": server.port, "asked": arrives or params}}
    headers = server.calls(method)[-1].headers
    assert headers["x-mcp-method"] == method
    if method != "completion/complete":
        header = {"prompts/get": "x-mcp-promptname", "resources/read": "x-mcp-resourceuri"}[method]
        assert unquote(headers[header]) == params.get("name", params.get("uri"))


@pytest.mark.duty("error.unknown-item", "error.params-32602")
@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("prompts/get", {"name": "nope"}, -32602),
        ("prompts/get", {}, -32602),
        ("resources/read", {"uri": "nope:"}, -32002),
        ("completion/complete", {}, -32602),
        ("completion/complete", {"ref": {"type": "ref/prompt"}}, -32602),
        ("completion/complete", {"ref": {"type": "ref/other", "name": "x"}}, -32602),
        ("completion/complete", {"ref": {"type": "ref/prompt", "name": "nope"}}, -32602),
    ],
)
def test_what_nobody_owns(running: Gateway, method: str, params: Any, code: int) -> None:
    with running.client() as client:
        response = client.post(method, params, 8)
        assert (response.status_code, response.json()["id"], response.json()["error"]["code"]) == (200, 8, code)


@pytest.mark.duty("error.malformed-400")
def test_a_duplicate_reference_is_refused(running: Gateway) -> None:
    with running.client() as client:
        body = '{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{"ref":{"type":"ref/prompt","name":"a","name":"b"}}}'
        assert client.send(body).status_code == 400


def test_a_list_that_is_declared_and_refused_costs_only_itself(
    one: ScriptedServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    one.capabilities = {"tools": {}, "prompts": {}}
    with gateway(tmp_path_factory.mktemp("refused"), [entry("ns/one", one.url)], envoy=False) as running:
        wait_until(lambda: running.server("ns/one")["ready"])
        assert running.server("ns/one")["tools"] == 2
        assert "prompts/list" in running.server("ns/one")["invalid"][0]["reason"]


@pytest.mark.duty("call.prompt", "call.resource", "call.completion")
def test_real_prompts_and_resources(everything: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    async def use(url: str) -> None:
        async with SdkClient(url, mode="legacy") as client:
            prompts = (await client.list_prompts()).prompts
            assert "ev_simple-prompt" in [prompt.name for prompt in prompts]
            got = await client.get_prompt("ev_args-prompt", {"city": "Oslo", "state": "x"})
            assert "Oslo" in json.dumps([message.model_dump(mode="json") for message in got.messages])
            resources = (await client.list_resources()).resources
            result = await client.read_resource(str(resources[0].uri))
            assert result.contents
            templates = (await client.list_resource_templates()).resource_templates
            uri = templates[0].uri_template.replace("{resourceId}", "1").replace("{id}", "1")
            assert (await client.read_resource(uri)).contents
            reference = types.ResourceTemplateReference(type="ref/resource", uri=templates[0].uri_template)
            await client.complete(reference, {"name": "resourceId", "value": ""})

    with gateway(tmp_path_factory.mktemp("real"), [entry("ts/every", everything, "ev_")]) as running:
        trio.run(use, running.url)
