"""Whose fault it is, and how the program ends.

Expected failures of a request are values (`model.decisions.Reject`), never exceptions. Exceptions say whose fault it was::

    GatewayError
    ├── ConfigurationError    the operator wrote something that cannot work       exit 64
    │   └── UnreadableError   a file could not be read at all; it may come back
    ├── UnavailableError      a port, file or program that we need is missing     exit 69
    ├── RefusedError          the other side answered, and its answer is no       exit 1
    ├── ApiError              the Kubernetes API refused or did not answer        never ends the program
    └── UpstreamError         an MCP server did not do what the protocol asks     never ends the program

Everything else that is raised is a bug of ours: exit 70, with its traceback.
"""

from __future__ import annotations

EXIT_REFUSED = 1
EXIT_USAGE = 64
EXIT_UNAVAILABLE = 69
EXIT_BUG = 70
EXIT_SIGNAL_BASE = 128


class GatewayError(Exception):
    """What this program raises on purpose; its text is meant for the user."""


class ConfigurationError(GatewayError):
    """The configuration cannot work; `problems` holds one line each, with place and remedy."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class UnreadableError(ConfigurationError):
    """The configuration could not even be read; that may pass by itself."""


class UnavailableError(GatewayError):
    """Something outside that is needed to go on is not there; the text names the remedy."""


class RefusedError(GatewayError):
    """What a command asked for was understood and refused."""


class UpstreamError(GatewayError):
    """An MCP server failed the broker.

    `reason` is one CamelCase word for status and metrics; `status` the HTTP status that it answered with, if it did; `words` are
    the server's own.
    """

    def __init__(self, reason: str, message: str, *, status: int | None = None, words: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.status = status
        self.words = words


class ApiError(GatewayError):
    """The Kubernetes API did not do what it was asked. `status` is its HTTP status, 0 when it could not be asked at all."""

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


def words_of(error: BaseException) -> str:
    """What an error says; libraries wrap the telling one (a refused certificate, say) into others without words."""
    inner: BaseException | None = error
    while inner is not None:
        if str(inner):
            return str(inner)
        inner = inner.__cause__ or inner.__context__
    return type(error).__name__
