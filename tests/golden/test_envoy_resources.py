"""Desired servers to Envoy resources, as an operator would read them in the files.

`just golden` writes the results anew.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from mcpgw_sidecar.config.decode import decode
from mcpgw_sidecar.envoy import credentials
from mcpgw_sidecar.envoy.clusters import clusters
from mcpgw_sidecar.envoy.listener import bootstrap, listeners
from mcpgw_sidecar.envoy.routes import routes
from mcpgw_sidecar.envoy.settings import Endpoint, EnvoySettings
from mcpgw_sidecar.model.access import OPEN

HERE = Path(__file__).parent


def settings_of(values: dict[str, Any]) -> EnvoySettings:
    """The settings with these values, and any others."""
    defaults = {
        "directory": "/var/lib/mcpgw",
        "gateway": Endpoint(host="0.0.0.0", port=8888),
        "admin": Endpoint(path="/run/mcpgw/admin.sock"),
        "broker": Endpoint(host="127.0.0.1", port=8080),
        "router": Endpoint(host="127.0.0.1", port=50051),
        "inner": Endpoint(path="/run/mcpgw/inner.sock"),
        "max_body": 4 << 20,
        "call_timeout": 300.0,
        "discovery_timeout": 10.0,
        "refused": "-- refused.lua\n",
        "heal": "-- heal.lua\n",
        "messages": "-- json.lua, memo.lua, failed.lua, events.lua\n",
    }
    return EnvoySettings(**(defaults | values))


def resources(document: dict[str, Any]) -> dict[str, Any]:
    values = {
        name: Endpoint(**value) if isinstance(value, dict) else tuple(value) if isinstance(value, list) else value
        for name, value in document.get("settings", {}).items()
    }
    settings = settings_of(values)
    shown = {key: value for key, value in document.items() if key in {"servers", "limits", "authentication"}}
    content = decode(yaml.safe_dump(shown), "golden")
    servers, access = content.servers, content.access or OPEN
    result = {
        "bootstrap": bootstrap(settings),
        "lds": listeners(settings, servers, access),
        "rds": routes(settings, servers, access),
        "cds": clusters(settings, servers, credentials.filters, access.limits.service),
    }
    return {name: result[name] for name in document.get("show", result)}


@pytest.mark.parametrize("source", sorted(HERE.glob("*.in.yaml")), ids=lambda path: path.name)
def test_resources(source: Path) -> None:
    result = resources(yaml.safe_load(source.read_text()))
    expected = source.with_name(source.name.replace(".in.", ".out."))
    if "MCPGW_GOLDEN" in os.environ:
        expected.write_text(yaml.safe_dump(result, sort_keys=False, width=120))
    assert result == yaml.safe_load(expected.read_text())
