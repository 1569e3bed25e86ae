"""Opens the session store of a URL (optional extra `redis`: coredis, imported at first use)."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from mcpgw_sidecar.directory.redislink import RedisLink
from mcpgw_sidecar.directory.redisstore import RedisStore
from mcpgw_sidecar.errors import ConfigurationError

_SCHEMES = {"redis": "redis", "rediss": "rediss", "valkey": "redis", "valkeys": "rediss"}
_REMEDY = "write redis:// or valkey:// (with TLS rediss:// or valkeys://) and HOST:PORT"


@contextlib.asynccontextmanager
async def opened(url: str) -> AsyncIterator[RedisStore]:
    """The store of a URL. A store that does not answer is no error.

    Raises ConfigurationError for a URL that is none of a store.
    """
    scheme, _, rest = url.partition("://")
    name = f"{scheme}://{rest.rpartition('@')[2]}"
    if scheme not in _SCHEMES or not rest:
        raise ConfigurationError([f"--session-store {name}: {_REMEDY}"])
    try:
        import coredis  # noqa: PLC0415  # it takes 0.4 s and 18 MB, and most sidecars do not need it
    except ModuleNotFoundError as error:
        if error.name != "coredis":
            raise
        raise ConfigurationError(["--session-store needs coredis: pip install coredis"]) from None
    try:
        redis = coredis.Redis.from_url(f"{_SCHEMES[scheme]}://{rest}", decode_responses=True, verify_version=False)
    except ValueError as error:
        raise ConfigurationError([f"--session-store {name}: {error}; {_REMEDY}"]) from None
    async with redis:
        yield RedisStore(RedisLink(name, redis))
