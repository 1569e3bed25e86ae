"""What servers offer, as a table: everything that differs between tools, prompts, resources and templates stands here.

| kind      | listed by                | key           | under a prefix | asked for by                                   |
|-----------|--------------------------|---------------|----------------|------------------------------------------------|
| tool      | tools/list               | `name`        | yes            | tools/call                                     |
| prompt    | prompts/list             | `name`        | yes            | prompts/get, completion/complete               |
| resource  | resources/list           | `uri`         | no             | resources/read                                 |
| template  | resources/templates/list | `uriTemplate` | no             | resources/read of what it makes, completion    |

URIs keep their value: they stand inside results that pass untouched, so a prefix would have to be known everywhere. Only where two
servers claim the same one, the later one's is listed under an alias (catalog/aliases.py).
"""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class Kind:
    """One row of the table. `capability` is what a server declares to be asked for the list at all."""

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
