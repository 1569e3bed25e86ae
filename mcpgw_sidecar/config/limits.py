"""Reads `limits` of a configuration or an access document."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from mcpgw_sidecar.config.units import parse_duration
from mcpgw_sidecar.model.access import EACH, SESSIONS, CallLimit, Limits, LimitService, Rate
from mcpgw_sidecar.model.plain import mapping, text, texts

MAX_COUNT = 1_000_000
MAX_CALLS = 16  # limits of calls: each costs every call some microseconds
MAX_GLOBS, MAX_GLOB = 20, 100
MAX_SOCKET = 107  # bytes of the path of a socket, of the system
MAX_TIMEOUT = 5.0  # seconds of the rate limit service
_SERVICE_FORM = "{url: http://HOST:8081, domain: mcpgw}"
_FORM = "{newSessions: {perSecond: 50, burst: 1000}, calls: [{perMinute: 600, each: [caller]}]}"


def read_limits(value: Any) -> Limits:  # noqa: ANN401  # whatever the file holds
    """The limits. Raises ValueError with the remedy."""
    given = mapping(value, "limits", ("newSessions", "calls", "streams", "service"), _FORM)
    calls = given.get("calls", [])
    if not isinstance(calls, list) or len(calls) > MAX_CALLS:
        raise ValueError(f"calls must be a list of at most {MAX_CALLS} limits, like {_FORM}")
    limits = tuple(_call_limit(each, f"calls[{index}]") for index, each in enumerate(calls))
    return Limits(
        new_sessions=_sessions(given["newSessions"]) if "newSessions" in given else SESSIONS,
        calls=limits,
        streams=_streams(given["streams"]) if "streams" in given else None,
        service=_service(given["service"]) if "service" in given else None,
    )


def _streams(value: Any) -> int:  # noqa: ANN401
    given = mapping(value, "streams", ("perCaller",), "{perCaller: 50}")
    return _count(given.get("perCaller"), "streams.perCaller")


def _service(value: Any) -> LimitService:  # noqa: ANN401
    given = mapping(value, "service", ("url", "domain", "timeout", "caFile", "failClosed"), _SERVICE_FORM)
    url = text(given.get("url"), "service.url", f"write where it is, like {_SERVICE_FORM}")
    if not _is_place(url):
        raise ValueError(f"service.url: {url!r:.80} cannot be used: write http://HOST:PORT, https://HOST:PORT or unix:/PATH")
    if "caFile" in given and not url.startswith("https:"):
        raise ValueError("service.caFile is for an https url")
    fails_closed = given.get("failClosed", False)
    if not isinstance(fails_closed, bool):
        raise ValueError("service.failClosed must be true or false")  # noqa: TRY004  # the collector of errors takes one kind
    seconds = parse_duration(text(given.get("timeout", "100ms"), "service.timeout", "write it like 100ms"))
    if not 0 < seconds <= MAX_TIMEOUT:
        raise ValueError(f"service.timeout must be above 0 and at most {MAX_TIMEOUT:.0f}s: every call waits for it")
    return LimitService(
        url=url,
        domain=text(given.get("domain", "mcpgw"), "service.domain", "write the domain of its rules"),
        timeout=seconds,
        ca_file=text(given["caFile"], "service.caFile", "write the path of a file") if "caFile" in given else None,
        fails_closed=fails_closed,
    )


def _is_place(url: str) -> bool:
    """Whether a URL names a host and a port, or an absolute path of a socket, and nothing else."""
    if url.startswith("unix:"):
        path = url.removeprefix("unix:")
        return (
            path.startswith("/")
            and not path.startswith("//")
            and len(path.encode()) <= MAX_SOCKET
            and not set(path) & {*"?#"}
        )
    try:
        parts = urlsplit(url)
        has_place = bool(parts.hostname) and bool(parts.port) and url.isascii()
    except ValueError:
        return False
    rest = (parts.path.strip("/"), parts.query, parts.fragment, parts.username, parts.password)
    return parts.scheme in {"http", "https"} and has_place and not any(rest)


def _sessions(value: Any) -> Rate | None:  # noqa: ANN401
    given = mapping(value, "newSessions", ("perSecond", "burst"), _FORM)
    if "perSecond" not in given:
        raise ValueError("newSessions needs perSecond: how many sessions of one address; 0 for no limit")
    count = _count(given["perSecond"], "newSessions.perSecond", least=0)
    return Rate(count=count, seconds=1.0, burst=_count(given.get("burst", count), "newSessions.burst")) if count else None


def _call_limit(value: Any, place: str) -> CallLimit:  # noqa: ANN401
    given = mapping(value, place, ("perMinute", "burst", "each", "tools", "servers"), _FORM)
    if "perMinute" not in given:
        raise ValueError(f"{place} needs perMinute: how many calls")
    count = _count(given["perMinute"], f"{place}.perMinute")
    each = texts(given.get("each", []), f"{place}.each")
    if unknown := set(each) - set(EACH):
        raise ValueError(f"{place}.each: {min(unknown)!r} is none of {', '.join(EACH)}")
    return CallLimit(
        rate=Rate(count=count, seconds=60.0, burst=_count(given.get("burst", count), f"{place}.burst")),
        each=tuple(key for key in EACH if key in each),
        tools=_globs(given.get("tools", []), f"{place}.tools"),
        servers=_globs(given.get("servers", []), f"{place}.servers"),
    )


def _count(value: Any, place: str, least: int = 1) -> int:  # noqa: ANN401
    if type(value) is not int or not least <= value <= MAX_COUNT:
        raise ValueError(f"{place} must be a whole number from {least} to {MAX_COUNT}")
    return value


def _globs(value: Any, place: str) -> tuple[str, ...]:  # noqa: ANN401
    globs = texts(value, place)
    if len(globs) > MAX_GLOBS or any(len(each) > MAX_GLOB or not each.isprintable() for each in globs):
        raise ValueError(f"{place}: at most {MAX_GLOBS} names, each of at most {MAX_GLOB} printable characters")
    return tuple(globs)
