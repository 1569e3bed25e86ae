"""The patterns and limits of names, the same for configuration files and for Kubernetes."""

from __future__ import annotations

import re

MODEL_NAME = 64  # characters of a tool's name, prefix included, that the APIs of all models take
MAX_NAME = 253  # characters of the name of a server or virtual server
MAX_LABEL = 63  # characters between two dots of a host name (RFC 1035 section 2.3.4)
NAME = re.compile(rf"[A-Za-z0-9]([A-Za-z0-9._/-]{{0,{MAX_NAME - 2}}}[A-Za-z0-9])?")
TOOL_PREFIX = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,31})?")


def long_name(name: str) -> str:
    """Why a tool's name is too long for some models, "" if it is not."""
    return f"{len(name)} characters; some models take {MODEL_NAME}" if len(name) > MODEL_NAME else ""


def has_valid_labels(host: str) -> bool:
    """Whether each part of a host name between dots has 1 to `MAX_LABEL` characters."""
    return all(0 < len(label) <= MAX_LABEL for label in host.split("."))
