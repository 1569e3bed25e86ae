"""The exceptions and exit codes of the program: each says whose fault an error is.

Expected failures of a request are values (`model.decisions.Reject`), never exceptions. The
exceptions are::

    GatewayError
    ├── ConfigurationError    the operator wrote something that cannot work       exit 64
    │   └── UnreadableError   a file could not be read at all; it may come back
    ├── UnavailableError      a port, file or program that we need is missing     exit 69
    │   └── TakenError        another program has the port
    ├── RefusedError          the other side answered, and its answer is no       exit 1
    ├── ApiError              the Kubernetes API refused or did not answer        no exit
    └── UpstreamError         an MCP server did not do what the protocol asks     no exit

Any other exception is a bug of ours: exit 70, with its traceback.
"""

from __future__ import annotations

EXIT_REFUSED = 1
EXIT_USAGE = 64
EXIT_UNAVAILABLE = 69
EXIT_BUG = 70
EXIT_SIGNAL_BASE = 128


class GatewayError(Exception):
    """An error that this program raises on purpose; its text is for the user."""


class ConfigurationError(GatewayError):
    """The configuration cannot work; `problems` holds one line each, with place and remedy."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class UnreadableError(ConfigurationError):
    """The configuration could not even be read; the reason may pass by itself."""


class UnavailableError(GatewayError):
    """Something outside of the program that it needs is missing; the text names the remedy."""


class TakenError(UnavailableError):
    """Another program listens at the address."""


class RefusedError(GatewayError):
    """The other side understood the request of a command and refused it."""


class UpstreamError(GatewayError):
    """A request of the broker to an MCP server failed.

    `reason` is a CamelCase word for status and metrics, `status` the HTTP status of the answer if
    there was one, `words` the server's own error message, `data` the data of its JSON-RPC error.
    """

    def __init__(
        self, reason: str, message: str, *, status: int | None = None, words: str = "", data: object = None
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.status = status
        self.words = words
        self.data = data


class ApiError(GatewayError):
    """A request to the Kubernetes API failed. `status` is the HTTP status, 0 without an answer."""

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


def first_in(error: BaseException) -> BaseException:
    """The first of a group of errors, however deep; any other error itself."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def upstream_in(group: BaseException) -> UpstreamError:
    """The failure of a server that a group of errors is about."""
    inner = first_in(group)
    return inner if isinstance(inner, UpstreamError) else UpstreamError("BadAnswer", str(inner))


def words_of(error: BaseException) -> str:
    """The text of an error, else of its cause.

    Libraries wrap the cause (a refused certificate, say) in errors without a text.
    """
    inner: BaseException | None = error
    while inner is not None:
        if str(inner):
            return str(inner)
        inner = inner.__cause__ or inner.__context__
    return type(error).__name__
