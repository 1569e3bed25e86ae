"""The kinds of items that servers offer, with everything that differs between them, as a table.

| kind     | listed by                | key           | prefix | requested by                     |
|----------|--------------------------|---------------|--------|----------------------------------|
| tool     | tools/list               | `name`        | yes    | tools/call                       |
| prompt   | prompts/list             | `name`        | yes    | prompts/get, completion/complete |
| resource | resources/list           | `uri`         | no     | resources/read                   |
| template | resources/templates/list | `uriTemplate` | no     | resources/read, completion       |

URIs have no prefix, because they also occur inside results, which the gateway passes on unchanged.
Only when two servers list the same URI, the one of the later server is listed under an alias
(catalog/aliases.py).
"""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class Kind:
    """One row of the table. A server is asked for the list only if it declares `capability`."""

    name: str
    list_method: str
    member: str
    key: str
    prefixed: bool
    capability: str
    changed: str


TOOL = Kind(
    name="tool",
    list_method="tools/list",
    member="tools",
    key="name",
    prefixed=True,
    capability="tools",
    changed="notifications/tools/list_changed",
)
PROMPT = Kind(
    name="prompt",
    list_method="prompts/list",
    member="prompts",
    key="name",
    prefixed=True,
    capability="prompts",
    changed="notifications/prompts/list_changed",
)
RESOURCE = Kind(
    name="resource",
    list_method="resources/list",
    member="resources",
    key="uri",
    prefixed=False,
    capability="resources",
    changed="notifications/resources/list_changed",
)
TEMPLATE = Kind(
    name="template",
    list_method="resources/templates/list",
    member="resourceTemplates",
    key="uriTemplate",
    prefixed=False,
    capability="resources",
    changed="notifications/resources/list_changed",
)
KINDS = (TOOL, PROMPT, RESOURCE, TEMPLATE)
