"""What the protocol and our interface ask of the gateway, as data: each row is one checkable duty.

A test that checks a duty carries its id: `@pytest.mark.duty("session.unknown-404")`.
`tests/core/test_requirements.py` holds both sides together: no duty without a test, no mark without
a duty. A duty of what is not built yet has no row.

Clauses: `basic`, `server`, `client` are pages of the MCP specification, of 2025-11-25 unless
another version is named. interface.md and seed-guide.md are the project's own papers. The section
follows.
"""

from __future__ import annotations

import enum
from typing import Final

import attrs


class Holder(enum.Flag):
    """The parts that hold a duty."""

    ROUTER = enum.auto()
    BROKER = enum.auto()
    ENVOY = enum.auto()
    MEMO = enum.auto()
    ADMIN = enum.auto()
    SOURCE = enum.auto()
    KUBE = enum.auto()
    CLI = enum.auto()


ROUTER, BROKER, ENVOY, MEMO = Holder.ROUTER, Holder.BROKER, Holder.ENVOY, Holder.MEMO
ADMIN, SOURCE, KUBE, CLI = Holder.ADMIN, Holder.SOURCE, Holder.KUBE, Holder.CLI


@attrs.frozen
class Duty:
    """One duty. The word before the dot of its id is its group; `clause` says where it is asked."""

    id: str
    clause: str
    holder: Holder
    text: str


TRANSPORT: Final = (
    Duty("transport.elsewhere", "basic/transports, Streamable HTTP", ENVOY | BROKER,
         "Another path than the endpoint gets 404, and another method than POST, GET and DELETE gets 405."),
    Duty("transport.accepted-202", "basic/transports, Sending Messages to the Server", BROKER | ENVOY,
         "A notification or an answer that the gateway accepts gets 202 and no body."),
    Duty("transport.streams-live", "basic/transports, Sending Messages to the Server", ENVOY,
         "An event stream reaches the client while its server still writes it."),
    Duty("transport.get-406", "basic/transports, Listening for Messages from the Server", BROKER,
         "A GET that does not accept event streams gets 406."),
    Duty("transport.get-primed", "basic/transports, Sending Messages to the Server", BROKER,
         "A GET stream begins with an id and no data for clients of 2025-11-25. Older ones get a comment, and a ping"
         " with an id once the gateway hears a server for them."),
    Duty("transport.keep-alive", "interface.md, Errors", BROKER,
         "A GET stream carries a comment after every 15 seconds of silence."),
    Duty("transport.one-stream", "basic/transports, Multiple Connections", BROKER,
         "Each message goes to one stream of its session and is never repeated on another."),
    Duty("transport.no-cancel", "basic/transports, Sending Messages to the Server", ENVOY | BROKER,
         "A client that disconnects cancels nothing: its server gets no notifications/cancelled and its session goes on."),
    Duty("transport.body-413", "interface.md, Errors", ENVOY,
         "A request above --max-body gets 413 and the limit; one below it arrives."),
    Duty("transport.media-415", "interface.md, Errors", BROKER,
         "A request to the broker whose content type is not application/json gets 415."),
    Duty("transport.accept", "basic/transports, Sending Messages to the Server", ROUTER | MEMO,
         "A client without Accept, or with */*, gets its calls through; one that takes JSON alone gets JSON."),
    Duty("transport.version-400", "basic/transports, Protocol Version Header", ROUTER | BROKER,
         "A request whose version header is not spoken here gets 400 and -32022 with those that are; no header is fine."),
    Duty("transport.upstream-headers", "basic/transports, Sending Messages to the Server", BROKER,
         "The broker's own requests accept JSON and events, and name session and version after initialize."),
)  # fmt: skip

SESSIONS: Final = (
    Duty("session.delete-version", "basic/transports, Protocol Version Header", BROKER,
         "A DELETE whose version header is not spoken here gets 400, and its session lives on."),
    Duty("session.version", "basic/lifecycle, Version Negotiation", BROKER,
         "The gateway answers initialize with the client's version when it speaks that version, else with its latest."),
    Duty("session.era-fallback", "interface.md, Errors", ROUTER | BROKER,
         "A client that asks server/discover of the stateless era gets 400 and goes on with initialize."),
    Duty("session.capabilities", "basic/lifecycle, Capability Negotiation", BROKER,
         "The gateway declares tools, and of the other capabilities and instructions what its servers have."),
    Duty("session.id-ascii", "basic/transports, Session Management", BROKER,
         "A session id is visible ASCII and fits into a header, however much the client says of itself."),
    Duty("session.id-unforgeable", "basic/transports, Session Management", BROKER | ROUTER,
         "Nobody can make or change a session id without the key."),
    Duty("session.missing-400", "basic/transports, Session Management", ROUTER | BROKER,
         "A request other than initialize without a session id gets 400."),
    Duty("session.unknown-404", "basic/transports, Session Management", ROUTER | BROKER,
         "A request with a session id that is unknown, forged or ended gets 404."),
    Duty("session.expired-404", "interface.md, Command line", ROUTER | BROKER,
         "A session ends after --session-lifetime, and its requests get 404 from then on."),
    Duty("session.delete-204", "basic/transports, Session Management", BROKER | MEMO,
         "DELETE ends a session at once and for good, in every worker of Envoy."),
    Duty("session.journal", "interface.md, Run", BROKER,
         "A restart keeps what a client subscribes to, its log level, the ends of sessions and those with servers."),
    Duty("session.upstream-delete", "basic/transports, Session Management", BROKER,
         "The gateway ends its sessions with servers when the client's session ends or expires."),
    Duty("session.ids-hidden", "interface.md, Headers that the router sets", ROUTER | ENVOY,
         "No server sees the gateway's session id, and no client sees a server's."),
    Duty("session.upstream-own", "seed-guide.md, Step 2", ROUTER | BROKER,
         "Each client has one session with each server; first calls open it once, even if they race; later ones reuse it."),
    Duty("session.upstream-client", "interface.md, Headers that the router sets", BROKER,
         "A session with a server is opened with the client's own clientInfo and capabilities, and then initialized."),
    Duty("session.upstream-version", "basic/transports, Protocol Version Header", ROUTER,
         "A server gets the version that its own session negotiated, not the client's."),
    Duty("session.upstream-unsupported", "basic/lifecycle, Version Negotiation", BROKER,
         "A server that answers initialize with a version that is not spoken here is not used, and its status says why."),
    Duty("session.heal", "interface.md, Errors", ENVOY | BROKER,
         "A call that its server refuses (404, 400, 401, 403, 410) for a forgotten session runs once, in one new session."),
    Duty("session.discovery-timeout", "interface.md, Command line", ROUTER | BROKER,
         "--discovery-timeout and a server's discoveryTimeout limit its discovery and the opening of sessions with it."),
    Duty("session.newest-credentials", "interface.md, What passes between clients and servers", ROUTER | BROKER,
         "Streams with servers, and the end of sessions with them, have the newest credentials of their client."),
    Duty("session.restart", "interface.md, Errors", ROUTER | BROKER | KUBE,
         "A client's session goes on when the sidecar was killed and started again."),
    Duty("session.key-rotation", "interface.md, Command line", BROKER,
         "The key file is made with mode 0600; its first key signs, all verify, and a change counts at once."),
    Duty("session.store", "interface.md, Command line", BROKER,
         "With --session-store every replica serves, heals and ends every session; the loss of the store costs no call."),
)  # fmt: skip

LISTS: Final = (
    Duty("list.prefixed", "seed-guide.md, Flow 2", BROKER,
         "The lists hold what all servers offer; names of tools and prompts have their server's prefix in front."),
    Duty("list.order", "interface.md, Configuration file", BROKER,
         "Lists have one order, whichever server answered first."),
    Duty("list.as-written", "server/tools, Data Types", BROKER,
         "Everything of a listed item but its name arrives as its server wrote it, unknown members included."),
    Duty("list.invalid-left-out", "server/tools, Data Types", BROKER,
         "An item that clients would choke on is left out alone, and its server's status says why."),
    Duty("list.clash", "interface.md, Configuration file", BROKER,
         "The earlier server owns a name that two offer; the other loses that name alone, and log and status say so."),
    Duty("list.pages", "interface.md, Errors", BROKER | MEMO,
         "Lists are cut into pages of 1,000, and the pages hold each item once."),
    Duty("list.cursor-outlives", "server/utilities/pagination, Implementation Guidelines", BROKER,
         "A cursor goes on behind the last item that it gave after the list has changed."),
    Duty("list.cursor-32602", "server/utilities/pagination, Error Handling", BROKER | MEMO,
         "A cursor that was never given out gets -32602."),
    Duty("list.upstream-pages", "server/utilities/pagination, Operations Supporting Pagination", BROKER,
         "The broker reads all pages of a server's list; one that does not end is cut, and status says so."),
    Duty("apps.shown", "mcp-duties.md, Corrections 26", BROKER | MEMO,
         "Tools that pages alone call are shown to clients that declare io.modelcontextprotocol/ui, and to no other."),
    Duty("apps.advertised", "mcp-duties.md, Corrections 26", BROKER,
         "The known extensions are declared to servers at discovery, and those of servers are advertised to clients."),
    Duty("apps.pages", "mcp-duties.md, Corrections 27", BROKER | ROUTER,
         "A page that two servers list gets a ui:// URI of its own, in lists and in the tools that name it, which can be read."),
    Duty("apps.bare-names", "mcp-duties.md, Corrections 27", ROUTER | MEMO,
         "A client that shows pages may call a tool by its own name, if one server alone has it."),
    Duty("notify.after-listing", "server/tools, List Changed Notification", MEMO | BROKER,
         "A change of lists that a server says on a call's stream is told to clients once the new list is there."),
    Duty("list.server-gone", "seed-guide.md, Scenario 2", BROKER,
         "The tools of a server that stays away leave the list, and they come back with it."),
    Duty("list.refresh", "interface.md, Command line", BROKER,
         "A change at a server that cannot notify is found at the next --refresh-interval."),
    Duty("list.uri-alias", "server/resources, Listing Resources", BROKER | ROUTER,
         "Resources keep their URIs; one that an earlier server has too is listed and reached under an alias."),
    Duty("list.virtual", "interface.md, Configuration file", BROKER | ROUTER,
         "A virtual server, named by path or header, lists and calls its tools and nothing else."),
    Duty("list.virtual-404", "interface.md, Configuration file", BROKER | ROUTER,
         "An unknown virtual server gets 404 and never the list of everything."),
    Duty("list.memo", "interface.md, Command line", MEMO,
         "Envoy gives a list that it remembers with the client's own id, and not after it has changed."),
)  # fmt: skip

CALLS: Final = (
    Duty("call.owner", "seed-guide.md, Flow 3", ROUTER,
         "A call reaches the server that owns the tool's name."),
    Duty("call.name-alone", "seed-guide.md, Flow 3", ROUTER | MEMO,
         "A call arrives at its server byte for byte, except that the name has lost its prefix."),
    Duty("call.answer-as-written", "server/tools, Tool Result", ENVOY,
         "A server's answer, and the notifications before it, arrive at the client byte for byte."),
    Duty("call.id", "basic, Responses", ROUTER | MEMO | BROKER,
         "An answer carries the id of its request with its type and every digit."),
    Duty("call.not-twice", "interface.md, Errors", ENVOY,
         "A call that may have run, or that its server refuses in a session that lives, is never sent a second time."),
    Duty("call.idle-connections", "interface.md, Errors", ENVOY,
         "Envoy closes idle connections to servers before these do, so that no call is written to a closing one."),
    Duty("call.prompt", "server/prompts, Getting a Prompt", ROUTER,
         "prompts/get reaches the server that owns the prompt, under the prompt's own name."),
    Duty("call.resource", "server/resources, Reading Resources", ROUTER,
         "resources/read reaches the server that lists the URI, or whose template makes it with the most fixed text."),
    Duty("call.completion", "server/utilities/completion, Requesting Completions", ROUTER,
         "completion/complete reaches the server that owns the prompt or template of its ref."),
    Duty("call.silence", "interface.md, Command line", ENVOY,
         "A server that is silent for longer than --call-timeout or its callTimeout gets an error; 0 is no limit."),
    Duty("call.progress-is-life", "interface.md, Command line", ENVOY,
         "A call whose server sends progress may last longer than the limit of silence."),
    Duty("call.memo-same", "interface.md, Command line", MEMO,
         "With and without the route memo a client gets the same answers."),
    Duty("call.sidecar-down", "interface.md, Errors", MEMO | ENVOY,
         "Without the sidecar a call that is remembered runs, and any other request gets 503."),
    Duty("call.clients", "seed-guide.md, Step 3", ROUTER | BROKER,
         "The clients of the SDKs and the Inspector list and call tools through the gateway."),
    Duty("call.ping", "basic/utilities/ping, Behavior Requirements", BROKER,
         "The gateway answers a ping of a client and of a server with an empty result."),
)  # fmt: skip

NOTIFICATIONS: Final = (
    Duty("notify.list-changed", "server/tools, List Changed Notification", BROKER,
         "A change of a list that a client sees is told to it once, whether the configuration or a server changed."),
    Duty("notify.updated", "server/resources, Subscriptions", BROKER,
         "An update of a resource reaches the client that subscribed and no other, under the URI that it knows."),
    Duty("notify.subscription-kept", "server/resources, Subscriptions", BROKER,
         "A subscription is repeated in a healed session with the server; one that was taken back is not."),
    Duty("notify.level", "server/utilities/logging, Setting Log Level", BROKER,
         "A client's log level reaches every server that it has or will have a session with; an unknown one gets -32602."),
    Duty("notify.from-client", "basic/utilities/cancellation, Cancellation Flow", BROKER,
         "A client's notifications reach the servers of its session as they were written, and no others."),
    Duty("notify.client-progress", "basic/utilities/progress, Progress Flow", BROKER,
         "Progress of a client reaches the server that gave the token, under the server's own token."),
    Duty("notify.server-cancelled", "basic/utilities/cancellation, Cancellation Flow", ENVOY | BROKER,
         "A server's cancellation of its own request names that request as the client knows it."),
    Duty("notify.slow-reader", "basic/transports, Listening for Messages from the Server", BROKER,
         "A client that does not read its stream loses the oldest messages, and nobody else loses any."),
)  # fmt: skip

SERVER_REQUESTS: Final = (
    Duty("ask.answer-returns", "client/elicitation, Protocol Messages", ENVOY | ROUTER,
         "A server's request reaches the client that called, and the answer reaches the server that asked, and no other."),
    Duty("ask.id-alone", "basic, Responses", ENVOY | ROUTER,
         "Of a server's request and its answer only the id is exchanged."),
    Duty("ask.stranger-400", "basic/transports, Session Management", ROUTER,
         "A client cannot answer a request that another session was asked."),
    Duty("ask.nobody-waits-400", "basic/transports, Sending Messages to the Server", ROUTER,
         "An answer that no server waits for gets 400 and a JSON-RPC error."),
    Duty("ask.outside-call", "basic/transports, Listening for Messages from the Server", BROKER,
         "A request that a server sends outside of a call reaches the stream of the client in whose session it asks."),
    Duty("ask.restart", "interface.md, Errors", ROUTER,
         "An answer finds its server when the sidecar was killed in the meantime, and through another replica."),
)  # fmt: skip

RESUMPTION: Final = (
    Duty("resume.at-server", "basic/transports, Resumability and Redelivery", ROUTER | ENVOY,
         "A GET with the last event id of a call's stream goes on at the server that wrote it, under the server's own id."),
    Duty("resume.ids-unique", "basic/transports, Resumability and Redelivery", ENVOY | BROKER,
         "The id of an event names its server and session, so that no two streams of a client share one."),
    Duty("resume.own-alone", "basic/transports, Resumability and Redelivery", ROUTER | BROKER,
         "Nobody is sent the messages of another stream or of another session's stream."),
    Duty("resume.missed", "basic/transports, Resumability and Redelivery", BROKER,
         "A resumed GET stream brings what went down with it and what changed since, also over a restart of the sidecar."),
)  # fmt: skip

BATCHES: Final = (
    Duty("batch.each", "2025-03-26 basic, Batching", BROKER | ROUTER,
         "Each message of a batch is decided and answered as if it had come alone."),
    Duty("batch.array", "2025-03-26 basic/transports, Sending Messages to the Server", BROKER,
         "A client that takes no events gets the answers as one array, and 202 without a body when there are none."),
    Duty("batch.initialize", "2025-03-26 basic/lifecycle, Initialization", BROKER,
         "An initialize in a batch gets -32600."),
    Duty("batch.refused", "interface.md, Command line", ROUTER | BROKER,
         "With --batches refuse a batch gets 400 and -32600."),
    Duty("batch.later-400", "2025-06-18 basic/transports, Sending Messages to the Server", ROUTER | BROKER,
         "A batch of a client of a later version, or without a session, gets 400 and -32600."),
)  # fmt: skip

ERRORS: Final = (
    Duty("error.tool-not-found", "seed-guide.md, Scenario 1", ROUTER,
         "An unknown tool gets -32601 and the message Tool not found, with the name in data."),
    Duty("error.malformed-400", "interface.md, Errors", ROUTER | BROKER,
         "A body that is no JSON gets 400 and -32700, and one that is no single JSON-RPC message 400 and -32600."),
    Duty("error.params-32602", "server/tools, Error Handling", ROUTER | BROKER,
         "A request without the parameters that it needs gets -32602."),
    Duty("error.method-32601", "basic, Responses", BROKER,
         "An unknown method gets -32601."),
    Duty("resources.links", "server/tools, Resource Links", ROUTER,
         "A URI that no list has is read at a server that this session has called: one that lists its place, else the first that knows it."),
    Duty("error.unknown-item", "server/prompts, Error Handling; server/resources, Error Handling", ROUTER,
         "An unknown prompt gets -32602, and an unknown resource -32002."),
    Duty("error.unreachable", "seed-guide.md, Scenario 2", ENVOY | ROUTER,
         "A call to a server that is away gets an error with HTTP 200, the call's id, and the server in message and data."),
    Duty("error.silent", "interface.md, Errors", ENVOY | MEMO,
         "A call that its server does not answer in time gets an error that names server, tool and limit."),
    Duty("error.unauthorized", "interface.md, Errors", ROUTER,
         "A server that refuses the client's credentials is named, and the session goes on."),
    Duty("error.neighbours", "seed-guide.md, Scenario 2", ENVOY | BROKER,
         "Whatever one server does wrong, the calls to the others succeed, and it is used again when it is well."),
    Duty("error.sidecar-503", "interface.md, Errors", ENVOY,
         "Without the sidecar Envoy answers 503 with a JSON-RPC error that says so."),
    Duty("error.not-yet-503", "interface.md, Errors", ROUTER | ENVOY,
         "What is not known yet, a configuration or a route, gets 503 and never the 404 that ends a session."),
)  # fmt: skip

HEADERS: Final = (
    Duty("header.names", "interface.md, Headers that the router sets", ROUTER | MEMO,
         "The x-mcp-* headers at a server are the method, the name as the client wrote it, and the server's name."),
    Duty("header.authority-path", "interface.md, Headers that the router sets", ROUTER,
         "A server gets its own hostname as :authority, and path and query of its URL."),
    Duty("header.forged", "interface.md, Headers that the router sets", ENVOY,
         "What only the router may say is removed from clients' requests before anything reads it."),
    Duty("header.to-server", "interface.md, What passes between clients and servers", BROKER | ROUTER,
         "No Origin, no header of the gateway's own and no cookie of another client reaches a server."),
    Duty("header.memo-hidden", "interface.md, What passes between clients and servers", ENVOY,
         "No client and no server sees the headers by which Envoy and the sidecar talk."),
)  # fmt: skip

SECURITY: Final = (
    Duty("security.one-reading", "interface.md, Errors", ROUTER | BROKER | MEMO,
         "A message that two parsers could read in two ways (case of keys, charset, encoding, repeated headers) is refused."),
    Duty("security.memory", "interface.md, Status and metrics", BROKER | ADMIN,
         "Messages of servers for clients that do not read are limited in bytes; what is dropped is counted and said in /status."),
    Duty("security.envoy-admin", "interface.md, Command line", ENVOY,
         "Envoy's admin endpoint, which can end Envoy, is a UNIX socket unless somebody wants a port."),
    Duty("security.external-names", "interface.md, MCPServer", SOURCE,
         "A Service of type ExternalName reaches only names that the operator allows, and never the pod, its node or another Service."),
    Duty("security.answers-headers", "interface.md, What passes between clients and servers", ENVOY,
         "No client gets cookies, redirects, challenges or words about origins of a server."),
    Duty("security.own-answer", "interface.md, Errors", ENVOY,
         "What a server sends on a call's answer answers that call alone, unless the server is trusted."),
    Duty("security.local-sockets", "interface.md, Ports and sockets", BROKER | ROUTER,
         "Broker and router are sockets in --envoy-dir, for whoever may enter it, unless other addresses are given."),
    Duty("security.descriptors", "issue 19", BROKER,
         "However many streams and notifications clients send, there are sockets left for calls, Envoy and the admin port."),
    Duty("security.status-here", "issue 19", ADMIN,
         "/status is for the sidecar's own machine, and for whoever has the token of --admin-token-file."),
    Duty("security.admin-host", "interface.md, Command line", ADMIN,
         "The admin port answers addresses, localhost, the machine's name and --admin-host, and no other Host."),
    Duty("security.no-tunnel", "basic, Notifications", BROKER,
         "Servers get the notifications of clients that the protocol has, rebuilt from their known members, and no other."),
    Duty("security.no-shadowing", "interface.md, Configuration file", BROKER,
         "A name that begins with another server's prefix belongs to that server, whoever stands earlier."),
    Duty("security.origin-403", "basic/transports, Security Warning", ROUTER | BROKER,
         "A foreign Origin gets 403; one of this host, of --allowed-origin, or none, may call."),
    Duty("security.host-421", "interface.md, Command line", ROUTER | BROKER,
         "A foreign Host gets 421; loopback names, the gateway's address and --public-host may call."),
    Duty("security.cors", "interface.md, Command line", ENVOY,
         "Pages of an allowed Origin may read answers, and pages of others may not."),
    Duty("security.fail-closed", "interface.md, Headers that the router sets", ENVOY,
         "No Host, no header and no path of a client leads past the router to a server."),
    Duty("security.call-secrets", "interface.md, Logs", ROUTER | BROKER | ENVOY,
         "Arguments, session ids and tokens stand in no log, at no level."),
    Duty("security.credentials", "interface.md, What passes between clients and servers", SOURCE | BROKER | ADMIN,
         "Credentials, keys, and queries of URLs stand in no log, status, error or representation of a value."),
    Duty("security.credential-own", "interface.md, Configuration file", BROKER,
         "A server's credential goes with the broker's own requests alone, never with a client's call."),
    Duty("security.upstream-tls", "interface.md, Configuration file", BROKER | ENVOY,
         "A server whose certificate nobody vouches for, is of another host or has expired gets no call."),
    Duty("security.tickets", "basic/transports, Session Management", BROKER,
         "What seals a server's session opens for its own client session, server and URL alone."),
)  # fmt: skip

CONFIGURATION: Final = (
    Duty("config.keys", "interface.md, Configuration file", SOURCE,
         "The file's keys, durations and sizes mean what the interface says; a list of no servers is fine."),
    Duty("config.errors-placed", "interface.md, Configuration file", SOURCE,
         "Every error is told with line, key and remedy; an empty file, an unknown key and a double name are errors."),
    Duty("config.credential-file", "interface.md, Configuration file", BROKER,
         "A credentialFile is found beside the configuration and read again when it changes."),
    Duty("config.environment", "interface.md, Command line", CLI,
         "Every option of `run` has a variable MCPGW_<OPTION>, and the command line wins over it."),
    Duty("config.options-64", "interface.md, Command line", CLI,
         "An option that cannot work is refused at the start with exit code 64 and words that name it."),
)  # fmt: skip

RELOAD: Final = (
    Duty("reload.live", "interface.md, Command line", SOURCE | BROKER,
         "Servers that are added, moved, changed, disabled or removed count without a restart."),
    Duty("reload.last-good", "interface.md, Configuration file", SOURCE,
         "A broken file leaves the last good configuration; an ERROR line, status and a metric tell it."),
    Duty("reload.every-save", "interface.md, Configuration file", SOURCE,
         "A file is followed however it is saved, also when it was deleted and comes back."),
    Duty("reload.calls-go-on", "interface.md, Command line", ENVOY | SOURCE,
         "A change of the configuration breaks no call in flight, and no call to a server that stays."),
    Duty("reload.envoy-refuses", "interface.md, Status and metrics", SOURCE | ADMIN,
         "Status says whether Envoy accepted its files; what it refuses is told, and it goes on with what it had."),
)  # fmt: skip

READINESS: Final = (
    Duty("ready.configuration", "interface.md, Ports and sockets", ADMIN,
         "/readyz is 503 and names the reason until there is a configuration."),
    Duty("ready.dead-servers", "interface.md, Ports and sockets", ADMIN,
         "/readyz waits no longer for dead servers than two seconds, and names those that are missing."),
    Duty("ready.envoy", "interface.md, Ports and sockets", ADMIN,
         "/readyz is 503 with Envoy's words as long as Envoy refuses its files."),
    Duty("ready.files", "interface.md, Ports and sockets", ADMIN,
         "/readyz is 503 as long as Envoy's files cannot be written."),
    Duty("ready.keys", "interface.md, Ports and sockets", ADMIN,
         "/readyz is 503 as long as no session key is valid; the last good ones count, also after a restart."),
    Duty("ready.watches", "interface.md, Ports and sockets", ADMIN | KUBE,
         "/readyz is 503, in Kubernetes, as long as a kind that the API has was never listed."),
    Duty("ready.draining", "interface.md, Ports and sockets", ADMIN,
         "/readyz is 503 and says draining after SIGTERM."),
    Duty("restart.sessions", "interface.md, Errors", ENVOY,
         "A plain restart of the sidecar under load ends no session of the official SDKs, and fails none of their calls."),
    Duty("restart.soak", "docs/failures.md", ENVOY | ROUTER | BROKER,
         "Under load, servers, sidecars, Envoys and stores that restart, hang, forget and change cost what is written, and nothing else."),
    Duty("restart.streams", "interface.md, Errors", ENVOY | BROKER,
         "After a restart the streams of the official SDKs are open again, and bring what changes."),
    Duty("drain.calls", "interface.md, Command line", ROUTER | BROKER,
         "SIGTERM ends streams and loses no call in flight, and the process ends with 0."),
    Duty("drain.limit", "interface.md, Command line", BROKER,
         "A client that stops reading does not hold the end beyond --drain-time."),
    Duty("drain.second-signal", "interface.md, Command line", CLI,
         "A second signal n ends the process at once with 128+n."),
)  # fmt: skip

STATUS: Final = (
    Duty("status.document", "interface.md, Status and metrics", ADMIN,
         "/status has the members that the interface names."),
    Duty("status.one-server", "interface.md, Ports and sockets", ADMIN,
         "/status/NAMESPACE/NAME shows one server, and an unknown one gets 404 with a hint."),
    Duty("status.long-names", "interface.md, Status and metrics", BROKER | ADMIN,
         "A tool whose name has more than 64 characters is listed; status, check and log warn with the name."),
    Duty("status.what-went-wrong", "interface.md, Status and metrics", ADMIN | BROKER,
         "A server that does not work stands in status with its reason and a message."),
    Duty("metrics.requests", "interface.md, Status and metrics", ADMIN | BROKER | ENVOY,
         "mcpgw_requests_total counts requests by method, server, tool and outcome, wherever they were answered."),
    Duty("metrics.reloads", "interface.md, Status and metrics", SOURCE | ADMIN,
         "mcpgw_config_reloads_total counts loads of the configuration by outcome."),
    Duty("metrics.gauges", "interface.md, Status and metrics", ADMIN,
         "Gauges tell sessions, streams and which server is ready."),
    Duty("log.guide", "seed-guide.md, Step 4 and Step 5", ROUTER | BROKER | KUBE,
         "The log has the guide's lines to the letter."),
    Duty("log.level", "seed-guide.md, MCP Router Logs", CLI,
         "LOG_LEVEL=-4 in the environment turns the debug lines on."),
    Duty("log.quiet", "interface.md, Logs", ROUTER | BROKER,
         "Nothing is logged per request at INFO."),
)  # fmt: skip

KUBERNETES: Final = (
    Duty("kube.restricted", "Kubernetes, Pod Security Standards", KUBE,
         "Each pod that is printed or shipped is admitted in a namespace of the level restricted."),
    Duty("kube.columns", "interface.md, MCPServer", KUBE,
         "kubectl get mcpserver shows the printer columns of the interface; short names work."),
    Duty("kube.configmap", "seed-guide.md, Generated Configuration", KUBE,
         "The ConfigMap mcp-gateway-config holds the servers in the guide's shape, and is mended when somebody changes it."),
    Duty("kube.route-resolved", "interface.md, MCPServer", KUBE,
         "Name, URL and hostname of a server come from its MCPServer and HTTPRoute, and follow them and the Service live."),
    Duty("kube.grant", "interface.md, MCPServer", KUBE,
         "A reference into another namespace needs a ReferenceGrant there, for the route and for its backend."),
    Duty("kube.credential", "interface.md, MCPServer", KUBE,
         "A credentialRef is used, followed when the Secret changes, and never written to status or ConfigMap."),
    Duty("kube.ready-truth", "interface.md, MCPServer", KUBE,
         "Ready tells how the broker sees a server and what to do; one that cannot be resolved is left out alone."),
    Duty("kube.schema", "interface.md, MCPServer", KUBE,
         "The API server refuses a spec that the interface does not allow, and a change of toolPrefix."),
    Duty("kube.route-condition", "interface.md, MCPServer", KUBE,
         "The HTTPRoute says who uses it, under our own controllerName and beside the conditions of others."),
    Duty("kube.older-wins", "interface.md, Configuration file", KUBE,
         "Of two MCPServers for one route the older wins, and the other's status names it."),
    Duty("kube.write-changes", "interface.md, MCPServer", KUBE,
         "Nothing is written to the cluster without a change, and no object more than once a second."),
    Duty("kube.virtual", "interface.md, What it is called", KUBE,
         "An MCPVirtualServer is served live, and its status names the tools that no server offers."),
    Duty("kube.api-away", "interface.md, Ports and sockets", KUBE,
         "While the Kubernetes API is away the last configuration serves, status says it, and watching goes on by itself."),
    Duty("kube.one-writer", "interface.md, MCPServer", KUBE,
         "One sidecar writes status and ConfigMap; another takes over when it ends."),
    Duty("kube.follower", "interface.md, Command line", KUBE,
         "--config=configmap:NS/NAME follows a ConfigMap live, keeps the last good one and takes no files from it."),
    Duty("kube.rights", "interface.md, Command line", KUBE,
         "The rights that `manifests` prints are what is needed and no more."),
    Duty("kube.webhook", "interface.md, Command line", KUBE,
         "The webhook injects the sidecar into pods that ask for it, and into no others."),
    Duty("kube.istio", "seed-guide.md, Envoy Configuration", KUBE | ENVOY,
         "Istio's Envoy accepts what `manifests` prints and serves calls by it; other hosts of the gateway are left alone."),
)  # fmt: skip

COMMANDS: Final = (
    Duty("cli.exit-64", "interface.md, Command line", CLI | SOURCE,
         "Bad usage and a bad or missing configuration at the start end with 64."),
    Duty("cli.exit-69", "interface.md, Command line", CLI,
         "A port or directory that cannot be had ends with 69 and names its option."),
    Duty("cli.check", "interface.md, Command line", CLI | SOURCE,
         "`check` counts the servers of a good file, and ends with 64 and every error for a bad one."),
    Duty("cli.status", "interface.md, Command line", CLI,
         "`status` shows servers, conflicts and Envoy's verdict, as a table or as JSON."),
    Duty("cli.tools", "interface.md, Command line", CLI,
         "`tools` lists and calls tools through a gateway, and its exit code tells a refusal from an absence."),
    Duty("cli.demo", "interface.md, Command line", CLI,
         "`demo` starts everything, prints the URL for clients, and leaves nothing behind."),
    Duty("cli.inject", "interface.md, Command line", CLI | KUBE,
         "`inject` adds the sidecar once and leaves everything else in a manifest as it was."),
    Duty("cli.manifests", "interface.md, Command line", CLI | KUBE,
         "`manifests` prints what lies in k8s/, and its options reach what they are for."),
)  # fmt: skip

DUTIES: Final = (
    *TRANSPORT,
    *SESSIONS,
    *LISTS,
    *CALLS,
    *NOTIFICATIONS,
    *SERVER_REQUESTS,
    *RESUMPTION,
    *BATCHES,
    *ERRORS,
    *HEADERS,
    *SECURITY,
    *CONFIGURATION,
    *RELOAD,
    *READINESS,
    *STATUS,
    *KUBERNETES,
    *COMMANDS,
)
