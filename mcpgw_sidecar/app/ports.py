"""Opens the ports of a sidecar; those of one that drains, as soon as it gives them up."""

from __future__ import annotations

import attrs
import httpx2
import trio

from mcpgw_sidecar.app.readiness import DRAINING
from mcpgw_sidecar.app.settings import Settings
from mcpgw_sidecar.errors import TakenError, UnavailableError
from mcpgw_sidecar.model.hosts import reachable
from mcpgw_sidecar.observability.logs import get_logger
from mcpgw_sidecar.runtime.listeners import Address, open_listener
from mcpgw_sidecar.runtime.systemd import ServiceManager

log = get_logger(__name__)

AGAIN = 0.02  # seconds between two attempts to open the ports of a sidecar that drains
ASKING = 1.0  # seconds for the holder of a port to say what it does


@attrs.frozen
class Ports:
    """The listeners, with their real addresses."""

    router: tuple[trio.SocketListener, Address]
    broker: tuple[trio.SocketListener, Address]
    admin: tuple[trio.SocketListener, Address]


async def wait_ports(settings: Settings, manager: ServiceManager) -> Ports:
    """Open the ports.

    After `kill` and a new start, the sidecar before may still serve what it has begun; this one is
    ready by then. Raises UnavailableError for a port that another program has.
    """
    return Ports(
        router=await _wait_open(settings, settings.router, "--router-address", manager),
        broker=await _wait_open(settings, settings.broker, "--broker-address", manager),
        admin=await _wait_open(settings, settings.admin_address, "--admin-address", manager),
    )


async def _wait_open(
    settings: Settings, address: Address, option: str, manager: ServiceManager
) -> tuple[trio.SocketListener, Address]:
    given, is_told = manager.take(address), False
    while True:
        try:
            return await open_listener(address, option, given)
        except TakenError:
            answer = await _wait_readyz(settings.admin_address)
        if DRAINING not in answer:
            try:
                return await open_listener(address, option)  # it may have given its ports up since
            except TakenError as error:
                if not answer:
                    raise
                msg = f"{error}; or end the sidecar that serves here with SIGTERM first: the next one takes over from it"
                raise UnavailableError(msg) from None
        if not is_told:
            is_told = True
            log.info("Waiting for the sidecar that drains to give up its ports", address=str(address))
        await trio.sleep(AGAIN)


async def _wait_readyz(admin: Address) -> str:
    """What a sidecar with this admin address says of itself; "" if there is none."""
    try:
        async with httpx2.AsyncClient(timeout=ASKING, trust_env=False) as http:
            answer = await http.get(f"http://{attrs.evolve(admin, host=reachable(admin.host))}/readyz")
    except httpx2.HTTPError:
        return ""
    return answer.text
