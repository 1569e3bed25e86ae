"""Measures the cost of the parts of a hit: `just bench parts [CONNECTIONS] [ROUNDS] [TOOL]`.

The defaults are 16, 40, and t0, which answers with JSON; sse and crlf answer with an event stream.
Prints Markdown.

Every variant, plain Envoy and mcp_router too, is a listener of one Envoy with one worker: two
processes of the same configuration differ by a tenth, listeners of one do not. Envoy has a core of
its own. Rounds are short and in random order. The cost of a part is the difference to a call
without it.
"""

from __future__ import annotations

import copy
import os
import random
import statistics
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml

from mcpgw_sidecar.envoy.contract import FAILED, METADATA, WHO
from tests.benchmarks.calls import gateway
from tests.benchmarks.rig import (
    Load,
    Target,
    bare_manager,
    call,
    cluster,
    listener,
    load_server,
    mcp_router,
    plain,
    started_envoy,
)
from tests.e2e.stack import free_ports

ROUND = 0.15  # seconds
WARM = 0.6
LEARNED = 600  # calls after which every session is remembered, whatever is left out from then on
Manager = dict[str, Any]
Edit = Callable[[Manager], None]


def _filter(manager: Manager, name: str) -> dict[str, Any]:
    config: dict[str, Any] = next(each for each in manager["http_filters"] if each["name"] == name)["typed_config"]
    return config["extension_config"]["typed_config"] if "extension_config" in config else config  # type: ignore[no-any-return]


def without_filter(name: str) -> Edit:
    def edit(manager: Manager) -> None:
        manager["http_filters"] = [each for each in manager["http_filters"] if each["name"] != name]

    return edit


def lua(*changes: tuple[str, str]) -> Edit:
    """The messages filter with each first text replaced by the second."""

    def edit(manager: Manager) -> None:
        source = _filter(manager, "mcpgw_messages")["default_source_code"]
        for before, after in changes:
            assert before in source["inline_string"], before
            source["inline_string"] = source["inline_string"].replace(before, after)

    return edit


def _answers_seen(manager: Manager) -> None:
    manager["http_filters"] = [
        each["typed_config"]["extension_config"] if each["name"] == "mcpgw_messages" else each
        for each in manager["http_filters"]
    ]


def _no_counters(manager: Manager) -> None:
    del manager["access_log"][1:]


def _no_retry(manager: Manager) -> None:
    for choice in manager["route_config"]["virtual_hosts"][0]["matcher"]["matcher_tree"]["exact_match_map"]["map"].values():
        for route in choice["action"]["typed_config"]["routes"]:
            route.get("route", {}).pop("retry_policy", None)


def _trusted(manager: Manager) -> None:
    for choice in manager["route_config"]["virtual_hosts"][0]["matcher"]["matcher_tree"]["exact_match_map"]["map"].values():
        for route in choice["action"]["typed_config"]["routes"]:
            route.pop("response_headers_to_add", None)


def _no_refused(manager: Manager) -> None:
    router = manager["http_filters"][-1]["typed_config"]
    router["upstream_http_filters"] = [each for each in router["upstream_http_filters"] if each["name"] != "mcpgw_refused"]


def _no_reason(manager: Manager) -> None:
    for stat in ("counters", "histograms"):
        for each in manager["access_log"][1]["typed_config"][stat]:
            for tag in each["stat"]["tags"]:
                tag["value_format"] = tag["value_format"].replace(f" %DYNAMIC_METADATA({METADATA}:{FAILED})%", "")


def _no_who(manager: Manager) -> None:
    fields = manager["access_log"][0]["typed_config"]["log_format"]["json_format"]
    for name in [name for name, value in fields.items() if f"{METADATA}:{WHO}" in value]:
        del fields[name]


def _later(head: str, answer: str) -> tuple[str, str]:
    """A function of the Lua text that does nothing but give `answer` once everything is learned."""
    return head, f"local left = {LEARNED}\n{head}\n  left = left - 1\n  if left < 0 then return {answer} end\n"


PARTS: dict[str, Edit] = {
    "the whole": lambda _: None,
    "the whole again, which says how sure the others are": lambda _: None,
    "the scanner (the text of the call before is known)": lua(
        ("  is_two, method,", "  if s == last_s then return method, id, id_end, name, name_end end\n  last_s = s\n  is_two, method,")
    ),
    "the stamps": lua(_later("local function holds(session)", "true")),
    "metadata for answers and errors": lua(
        ("  metadata:set(METADATA, ID, sub(text, id, id_end))\n  local about", "  local about"), ("  metadata:set(METADATA, WHO, about)\n", "")
    ),
    "who calls, for the log": lambda manager: (lua(("  metadata:set(METADATA, WHO, about)\n", "  metadata:set(METADATA, OWNER, upstream.owner)\n"))(manager), _no_who(manager))[0],
    "the name's exchange": lua(("  if tool.renamed then", "  if false then")),
    "the look at the answer (`trusted: true`)": _trusted,
    "the walk over the answer": lua(("    if not walk_on(new_walk(), text, 1, #text, id) then", "    if false then")),
    "the native look at the answer of a trusted server (with Lua instead)": lambda manager: (_trusted(manager), _answers_seen(manager))[0],
    "headers that the server does not get": lua(
        ("  if STAMPS ~= '' then pass(headers, tool.wanted, is_known(headers, session, version) and session.removed)", "  if STAMPS ~= '' then")
    ),
    "the same by a walk over all headers": lua(("return length_of(headers:get(X_SIZE) or '') == length", "return false")),
    "counters": _no_counters,
    "cors": without_filter("envoy.filters.http.cors"),
    "buffer": without_filter("envoy.filters.http.buffer"),
    "retry": _no_retry,
    "the look for forgotten sessions": _no_refused,
    "the reason of failures in the counters": _no_reason,
}  # fmt: skip


def _ours(envoy: Path) -> tuple[Manager, list[Any]]:
    """The gateway's connection manager with its routes inside, and its clusters.

    They come from the files that the sidecar wrote.
    """
    lds, rds, cds = (
        yaml.safe_load((envoy / name).read_text())["resources"] for name in ("lds.yaml", "rds.yaml", "cds.yaml")
    )
    manager: Manager = lds[0]["filter_chains"][0]["filters"][0]["typed_config"]
    del manager["rds"]
    manager["route_config"] = {key: value for key, value in rds[0].items() if key != "@type"}
    return manager, [{key: value for key, value in each.items() if key != "@type"} for each in cds]


def main(connections: str = "16", rounds: str = "40", tool: str = "t0") -> None:
    with ExitStack() as stack:
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[1:] or cores)
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ports = {name: stack.enter_context(load_server(directory, name)) for name in ("one", "two")}
        gateway(stack, directory / "on", ports)
        manager, clusters = _ours(directory / "on" / "envoy")
        variants: list[tuple[str, Manager, str]] = [
            ("plain Envoy", bare_manager(plain(), "one"), tool),
            ("Envoy's mcp_router", bare_manager(mcp_router(list(ports)), "one"), f"one__{tool}"),
        ]
        for name, edit in PARTS.items():
            edited = copy.deepcopy(manager)
            edit(edited)
            variants.append((name, edited, f"one_{tool}"))
        listener_ports = free_ports(len(variants))
        listeners = [listener(name, port, each) for (name, each, _), port in zip(variants, listener_ports, strict=True)]
        servers = [cluster(name, port) for name, port in ports.items()]
        os.sched_setaffinity(0, cores[:1])
        pid = stack.enter_context(started_envoy(directory, "parts", listeners, [*clusters, *servers], 1))
        os.sched_setaffinity(0, cores[1:] or cores)
        loads = [
            (name, Load(Target(name, f"http://127.0.0.1:{port}/mcp", (pid,), called), int(connections), call(called)))
            for (name, _, called), port in zip(variants, listener_ports, strict=True)
        ]
        for _, load in loads:
            load.round(WARM)
        results: dict[str, list[float]] = {name: [] for name, _, _ in variants}
        for _ in range(int(rounds)):
            for name, load in random.sample(loads, len(loads)):
                figures = load.round(ROUND)
                assert not figures["errors"], name
                results[name].append(figures["cpu"])
        for _, load in loads:
            load.close()
        whole = statistics.median(results["the whole"])
        print("\n| | CPU of a call, us | the part |\n|---|---|---|")
        for name, values in results.items():
            cpu = statistics.median(values)
            print(f"| {name} | {cpu:.1f} | {whole - cpu:.1f} |")
