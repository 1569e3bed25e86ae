"""What the router and the broker give Envoy to keep: decisions, and how long lists hold.

The router sends a `MemoEntry` with a decision (dynamic metadata `METADATA`, member `MEMO`);
memo.lua reads its fields by the same names.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final
from urllib.parse import quote

import attrs

from mcpgw_sidecar.envoy import contract
from mcpgw_sidecar.model.access import Rule
from mcpgw_sidecar.model.decisions import Carry, Forward, HttpRequest, Reject
from mcpgw_sidecar.model.ports import Stamp
from mcpgw_sidecar.model.sessions import Session, short
from mcpgw_sidecar.protocol import headers as h
from mcpgw_sidecar.protocol.extensions import UI, declares
from mcpgw_sidecar.protocol.gzipped import Packed
from mcpgw_sidecar.protocol.jsontext import dumps
from mcpgw_sidecar.protocol.passing import brought_text, passed_text

_NEVER: Final = 1 << 40  # epoch seconds: without a session nothing ends, and a token that runs out is Envoy's to refuse


NOBODY: Final = "//"
_MAX_WORD = 100  # characters of a client's own words in the log


def who_of(session: Session) -> dict[str, str]:
    """A session and its client, for the log; a word that is not there is ""."""
    info = json.loads(session.client_info)
    words: dict[str, Any] = info if isinstance(info, dict) else {}
    said = {f"client_{key}": word if isinstance(word := words.get(key), str) else "" for key in ("name", "version")}
    return {"session": short(session.key), **{key: word[:_MAX_WORD] for key, word in said.items()}}


def who_text(session: Session) -> str:
    """The same for memo.lua: `SESSION/NAME/VERSION`, each percent-encoded."""
    return "/".join(quote(word, safe="", errors="replace") for word in who_of(session).values())


@attrs.frozen
class Audience:
    """Whom an answer or a decision is for, and until when, in epoch seconds.

    `session_key` is "" in the stateless era, where it is for all who show the same. `apps` says
    that the client shows pages, `who` is for the access log (`who_text`).
    """

    session_key: str
    expires: int
    apps: bool
    who: str = NOBODY

    @classmethod
    def of(cls, session: Session) -> Audience:
        """The client of a session."""
        return cls(session.key, session.expires, declares(session, UI), who_text(session))

    @classmethod
    def stateless(cls, *, apps: bool) -> Audience:
        """The clients without a session."""
        return cls("", _NEVER, apps)

    def shown(self, rules: frozenset[Rule] | None) -> str:
        """A word of small letters for what a client sees, besides what DEPENDS says."""
        apps = "apps" if self.apps else "all"
        return apps if rules is None else apps + _word(rules)


@attrs.frozen(kw_only=True)
class Keep:
    """The request and the stamp of a decision, which Envoy needs to repeat the decision."""

    request: HttpRequest
    stamp: Stamp
    audience: Audience


@attrs.frozen(kw_only=True)
class MemoEntry:
    """An entry of the memo: the values that a decision depended on, and the decision.

    `headers` are those of DEPENDS and PERSONAL that the request had, `token` is its session id,
    `version` its value of ACCEPTED, "" for none. `name` is the tool as the client calls it. The
    fields with a default are of a request that goes to its server: `renamed` is the JSON in the
    place of the name in the body (None: the name itself), `named` the value of `Mcp-Name`, if it is
    another. A call that the broker carries (`carried` is 1) stays as the client sent it. `given` is
    the caller's token for the server, in the header `given_as`, until `given_until` (epoch
    seconds).
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
    server: str
    shown: str
    who: str = NOBODY
    renamed: str | None = None
    named: str | None = None
    authority: str = ""
    path: str = ""
    speaks: str = ""
    session_id: str | None = None
    accept: str | None = None
    kind: str | None = None
    passed: str = "-"
    brought: str = ""
    carried: int | None = None
    given: str | None = None
    given_as: str | None = None
    given_until: int | None = None


@lru_cache(maxsize=1024)
def _word(rules: frozenset[Rule]) -> str:
    digest = hashlib.sha256("\n".join(sorted(rule.text for rule in rules)).encode()).hexdigest()[:24]
    return "".join(chr(ord("a") + int(digit, 16)) for digit in digest)


MEMO_FIELDS: Final = tuple(field.name for field in attrs.fields(MemoEntry))


def list_mark(audience: Audience, stamp: Stamp, packed: Packed | None, rules: frozenset[Rule] | None = None) -> str:
    """The value of X_MEMO on a list: its stamp and expiry, which say how long it is valid.

    `Audience.shown` says for whom, besides the headers of DEPENDS.

    With two checksums gzip.lua can put the compressed list into an answer with another id.
    """
    checksums = "" if packed is None else f" {packed.alone:08x}{packed.top:08x}"
    return f"{stamp.slot} {stamp.text} {stamp.mark} {audience.expires} {audience.shown(rules)} {audience.who}{checksums}"


def memo_entry(decision: Forward | Carry, keep: Keep) -> MemoEntry:
    """Make the entry of a decision about a tools/call."""
    headers = keep.request.headers
    known = {name: headers[name] for name in (*contract.DEPENDS, *contract.PERSONAL) if name in headers}
    if decision.session is None and contract.AUTHORIZATION in known and h.X_CLAIMS not in headers:
        known[contract.AUTHORIZATION] = ""  # nobody has verified it: it decides nothing (memo.lua, depends_of)
    return MemoEntry(
        token=headers.get(h.SESSION, ""),
        version=headers.get(contract.ACCEPTED, ""),
        headers=known,
        slot=keep.stamp.slot,
        stamp=keep.stamp.text,
        part=keep.stamp.part,
        mark=keep.stamp.mark,
        expires=keep.audience.expires,
        name=decision.key,
        server=decision.server.name,
        shown=keep.audience.shown(decision.rules),
        who=keep.audience.who,
        **(_sent(decision, headers) if isinstance(decision, Forward) else {"carried": 1}),
    )


def _sent(decision: Forward, headers: Mapping[str, str]) -> dict[str, Any]:
    """The fields of an entry that go into the request to the server."""
    server, named = decision.server, decision.name_header
    # Filters of Istio's may read what only last.lua takes away: the token has its own header there.
    is_ours, exchanged = h.X_SIZE in headers, server.exchanged_header
    wanted = server.forwarded if is_ours else decision.passed
    given, own = decision.given, {name: value for name, value in headers.items() if name != exchanged}
    return {
        "given": given.value if given is not None else None,
        "given_as": None if given is None else server.given_as if is_ours else exchanged,
        "given_until": int(given.until) if given is not None else None,
        "renamed": decision.sent_key if decision.sent_key != dumps(decision.key) else None,
        "named": named if named != headers.get(h.MCP_NAME) else None,
        "authority": server.hostname,
        "path": server.path,
        "speaks": decision.protocol_version,
        "session_id": decision.session_id,
        "kind": None if headers.get("content-type") == h.JSON else h.JSON,
        "passed": passed_text(wanted),
        "brought": brought_text(own, wanted),
        "accept": None if h.names_both(headers.get("accept", "")) else h.BOTH,
    }


def refusal_of(reject: Reject) -> dict[str, str]:
    """What is refused, for the access log, which sees no header that says it (contract.REFUSAL)."""
    asked = reject.data if isinstance(reject.data, dict) else {}
    words = (
        reject.outcome if reject.reason else "rejected",
        str(reject.code),
        reject.method,
        reject.server,
        reject.tool or asked.get("name") or asked.get("uri"),
    )
    return {name: h.value_of(str(word)) for name, word in zip(contract.REFUSAL_MEMBERS, words, strict=True) if word}


def refused_mark(reject: Reject) -> str:
    """The value of X_MEMO on a refusal of a call that the broker carries: for the access log."""
    said = refusal_of(reject)
    words = (said.get(name, "-").replace(" ", "%20") for name in contract.REFUSAL_MEMBERS)
    return f"refused {reject.reason or '-'} {' '.join(words)}"
