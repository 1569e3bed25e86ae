"""Extensions of MCP that the gateway knows: `capabilities.extensions`, by name."""

from __future__ import annotations

import json
from typing import Final

from mcpgw_sidecar.model.sessions import Session

UI: Final = "io.modelcontextprotocol/ui"
"""MCP Apps: tools with a page (`ui://`), and pages that call tools."""

SKILLS: Final = "io.modelcontextprotocol/skills"
KNOWN: Final = (UI, SKILLS)

DECLARED: Final = {UI: {"mimeTypes": ["text/html;profile=mcp-app"]}, SKILLS: {}}
"""What the broker declares while it discovers servers: they hide what a client does not."""


def declares(session: Session, extension: str) -> bool:
    """Whether a session's client declares an extension."""
    if extension not in session.capabilities:
        return False
    extensions = json.loads(session.capabilities).get("extensions")
    return isinstance(extensions, dict) and extension in extensions
