"""What the router and the broker give Envoy to keep: decisions, and how long lists hold.

The router sends a `MemoEntry` with a decision (dynamic metadata `METADATA`, member `MEMO`);
memo.lua reads its fields by the same names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

import attrs

from mcpgw_sidecar.envoy import contract
from mcpgw_sidecar.model.access import Rule
from mcpgw_sidecar.model.decisions import Forward, HttpRequest
from mcpgw_sidecar.model.ports import Stamp
from mcpgw_sidecar.model.sessions import Session
from mcpgw_sidecar.protocol import headers as h
from mcpgw_sidecar.protocol.extensions import UI, declares
from mcpgw_sidecar.protocol.gzipped import Packed
from mcpgw_sidecar.protocol.jsontext import dumps
from mcpgw_sidecar.protocol.passing import brought_text, passed_text


@attrs.frozen(kw_only=True)
class Keep:
    """The request and the stamp of a decision, which Envoy needs to repeat the decision."""

    request: HttpRequest
    stamp: Stamp
    session: Session


@attrs.frozen(kw_only=True)
class MemoEntry:
    """An entry of the memo: the values that a decision depended on, and the decision.

    `headers` are those of DEPENDS that the request had, `token` is its session id, `version` its
    value of ACCEPTED, "" for none; `headers` has those of PERSONAL, too. `name` is the tool as the
    client calls it, `renamed` the JSON in its place in the body (None: the name itself). The other
    fields go into the request to the server.
    """

    token: str
    version: str
    headers: Mapping[str, str]
    slot: int
    stamp: str
    part: int
    mark: str
    expires: int
    name: str
    renamed: str | None
    server: str
    authority: str
    path: str
    speaks: str
    session_id: str | None
    accept: str | None
    kind: str | None
    shown: str
    passed: str
    brought: str


def shown_to(session: Session, rules: frozenset[Rule] | None) -> str:
    """A word of small letters for what a session's client sees, besides what DEPENDS says."""
    apps = "apps" if declares(session, UI) else "all"
    return apps if rules is None else apps + _word(rules)


@lru_cache(maxsize=1024)
def _word(rules: frozenset[Rule]) -> str:
    digest = hashlib.sha256("\n".join(sorted(rule.text for rule in rules)).encode()).hexdigest()[:24]
    return "".join(chr(ord("a") + int(digit, 16)) for digit in digest)


MEMO_FIELDS: Final = tuple(field.name for field in attrs.fields(MemoEntry))


def list_mark(session: Session, stamp: Stamp, packed: Packed | None, rules: frozenset[Rule] | None = None) -> str:
    """The value of X_MEMO on a list: its stamp and expiry, which say how long it is valid.

    `shown` says for whom, besides the headers of DEPENDS.

    With two checksums gzip.lua can put the compressed list into an answer with another id.
    """
    checksums = "" if packed is None else f" {packed.alone:08x}{packed.top:08x}"
    return f"{stamp.slot} {stamp.text} {stamp.mark} {session.expires} {shown_to(session, rules)}{checksums}"


def memo_entry(decision: Forward, keep: Keep) -> MemoEntry:
    """Make the entry of a decision about a tools/call."""
    headers, server = keep.request.headers, decision.server
    return MemoEntry(
        token=headers.get(h.SESSION, ""),
        version=headers.get(contract.ACCEPTED, ""),
        headers={name: headers[name] for name in (*contract.DEPENDS, *contract.PERSONAL) if name in headers},
        slot=keep.stamp.slot,
        stamp=keep.stamp.text,
        part=keep.stamp.part,
        mark=keep.stamp.mark,
        expires=keep.session.expires,
        name=decision.key,
        renamed=decision.sent_key if decision.sent_key != dumps(decision.key) else None,
        server=server.name,
        authority=server.hostname,
        path=server.path,
        speaks=decision.protocol_version,
        session_id=decision.session_id,
        kind=None if headers.get("content-type") == h.JSON else h.JSON,
        shown=shown_to(keep.session, decision.rules),
        passed=passed_text(server.forwarded),
        brought=brought_text(headers, server.forwarded),
        accept=None if h.names_both(headers.get("accept", "")) else h.BOTH,
    )
