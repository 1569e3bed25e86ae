"""Puts the sidecar together: its settings, its parts, the tree of its tasks."""

from __future__ import annotations

from mcpgw_sidecar.app.run import wait_running
from mcpgw_sidecar.app.settings import Settings, envoy_settings

__all__ = ["Settings", "envoy_settings", "wait_running"]
