"""The address of a server: through its HTTPRoute to a Service, as a gateway carries calls there.

The first failure wins (rungs 4 to 10 of resolve.py). Where a controller judges the routes of the
route's gateway (Istio), calls reach only what it has accepted; a plain Envoy takes each route.
"""

from __future__ import annotations

import attrs

from mcpgw_sidecar.resources import external
from mcpgw_sidecar.resources.kinds import GATEWAY_GROUP, HTTP_ROUTE, SERVICE
from mcpgw_sidecar.resources.lookup import Lookup, Problem, absence, is_permitted, no_grant
from mcpgw_sidecar.resources.objects import HttpRoute, Ref, Service
from mcpgw_sidecar.resources.rules import Backend, gateway_of, rule_for

CLUSTER_DOMAIN = "cluster.local"
PENDING = "RoutePending"
"""The reason while nobody has judged a route yet."""


@attrs.frozen
class Address:
    """The origin of a server (scheme, host, port), the host name by which Envoy routes to it.

    `addresses` are those of a host outside of the cluster, `remarks` what its user should know.
    """

    origin: str
    hostname: str
    addresses: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def address_of(route: HttpRoute, path: str, lookup: Lookup) -> Address | Problem:
    """The address to which calls of a path go."""
    backends = _backends(route, path)
    if isinstance(backends, Problem):
        return backends
    backend = backends[0]
    service = _service(route, backend, lookup)
    if isinstance(service, Problem):
        return service
    is_outside = service.external_name is not None
    address = _outside(route, backend, service, lookup) if is_outside else _inside(route, backend, service)
    if isinstance(address, Problem):
        return address
    return _refusal(route, lookup) or _with_remarks(address, route, backends)


def _with_remarks(address: Address, route: HttpRoute, backends: tuple[Backend, ...]) -> Address:
    return attrs.evolve(address, remarks=(*address.remarks, *_split(route, backends), *_partly(route)))


def _refusal(route: HttpRoute, lookup: Lookup) -> Problem | None:
    """Why no call reaches a route, by what controllers say of it."""
    if any(verdict.accepted for verdict in route.verdicts):
        return None
    if route.verdicts:
        said = "; ".join(dict.fromkeys(verdict.words for verdict in route.verdicts))
        message = f"HTTPRoute {route.ref} is refused by its gateway, so that no call reaches the server: {said}"
        return Problem(reason="RouteRefused", message=message)
    gateways = [gateway_of(parent, route.ref.namespace) for parent in route.parent_refs]
    if not lookup.is_judged(gateways):
        return None
    names = ", ".join("/".join(gateway) for gateway in gateways)
    return Problem(
        reason=PENDING, message=f"HTTPRoute {route.ref} was not accepted yet by the controller of Gateway {names}"
    )


def _partly(route: HttpRoute) -> tuple[str, ...]:
    """A remark for each gateway that refuses a route which another one has accepted."""
    return tuple(
        f"Gateway {'/'.join(verdict.gateway)} refuses HTTPRoute {route.ref}: {verdict.words}"
        for verdict in route.verdicts
        if not verdict.accepted
    )


def _backends(route: HttpRoute, path: str) -> tuple[Backend, ...] | Problem:
    """The backends that get calls of this path; at least one."""
    rule = rule_for(route.rules, path)
    if rule is None and route.rules and route.verdicts:
        message = f"no rule of HTTPRoute {route.ref} matches POST {path}: add one, or change the path of the MCPServer"
        return Problem(reason="NoMatchingRule", message=message)
    # A plain Envoy of ours does not look at the matches.
    backends = (rule or route.rules[0]).backends if route.rules else ()
    if not backends:
        message = f"HTTPRoute {route.ref} has no backend references: the rule for {path} needs a Service as backend"
        return Problem(reason="NoBackend", message=message)
    weighed = tuple(backend for backend in backends if backend.weight > 0)
    if not weighed:
        message = f"HTTPRoute {route.ref}: each backend of the rule for {path} has weight 0: no call reaches one"
        return Problem(reason="NoBackend", message=message)
    return weighed


def _split(route: HttpRoute, backends: tuple[Backend, ...]) -> tuple[str, ...]:
    names = list(dict.fromkeys(f"{backend.namespace}/{backend.name}" for backend in backends))
    if len(names) == 1:
        return ()
    what = f"HTTPRoute {route.ref} splits calls among the Services {', '.join(names)}"
    if not route.verdicts:
        return (f"{what}: this gateway takes the first alone",)
    return (f"{what}: a server that keeps sessions does not know those of another, name one Service",)


def _service(route: HttpRoute, backend: Backend, lookup: Lookup) -> Service | Problem:
    if not backend.name:
        return Problem(reason="InvalidBackend", message=f"HTTPRoute {route.ref}: backend reference has no name")
    if backend.kind != SERVICE.name or backend.group:
        message = f"HTTPRoute {route.ref}: backend reference is not a Service: {backend.kind}"
        return Problem(reason="InvalidBackend", message=message)
    target, source = Ref(backend.namespace, backend.name), (GATEWAY_GROUP, HTTP_ROUTE.name, route.ref.namespace)
    if not is_permitted(source, target, "", SERVICE.name, lookup):
        return no_grant(source, target, "", SERVICE.name, lookup)
    service = lookup.service(target)
    if service is None:
        message = f"Service {target} not found: create it, or change the backend of HTTPRoute {route.ref}"
        return absence("ServiceNotFound", message, SERVICE.name, lookup)
    return service


def _outside(route: HttpRoute, backend: Backend, service: Service, lookup: Lookup) -> Address | Problem:
    host = (service.external_name or "").rstrip(".").lower()
    refused = external.refusal(host, lookup.allowed().external_names, CLUSTER_DOMAIN)
    if refused is not None:
        return Problem(reason="InvalidBackend", message=f"Service {service.ref}: externalName {host} {refused}")
    verdict = lookup.resolved(host)
    if verdict is None or verdict.fault is not None:
        fault = "is being resolved" if verdict is None else verdict.fault
        return Problem(reason="InvalidBackend", message=f"Service {service.ref}: externalName {host} {fault}")
    scheme = "https" if _is_https(route) or backend.port in service.https else "http"
    return Address(f"{scheme}://{host}{_port(backend.port)}", host, verdict.addresses)


def _inside(route: HttpRoute, backend: Backend, service: Service) -> Address | Problem:
    hostname = next((name for name in route.hostnames if name and not name.startswith("*")), None)
    if hostname is None:
        what = f"{route.hostnames[0]} is a wildcard" if route.hostnames else "it has none"
        message = f"HTTPRoute {route.ref} must have at least one hostname for MCP backend routing: {what}"
        return Problem(reason="NoHostname", message=message)
    port, remarks = backend.port, list[str]()
    if port is not None and service.ports and port not in service.ports:
        ports = ", ".join(map(str, service.ports))
        message = f"Service {service.ref} has no port {port}: change it in HTTPRoute {route.ref} to one of {ports}"
        return Problem(reason="InvalidBackend", message=message)
    if service.headless and port is not None:
        target = service.ports.get(port, port)
        if isinstance(target, int):
            port = target
        else:
            remarks.append(f"Service {service.ref} is headless: give targetPort {target} of its port {port} as a number")
    if _is_https(route):
        remarks.append("called by https, because a sectionName of its HTTPRoute says https")
    origin = f"{'https' if _is_https(route) else 'http'}://{service.ref.name}.{service.ref.namespace}.svc.{CLUSTER_DOMAIN}"
    return Address(f"{origin}{_port(port)}", hostname, remarks=tuple(remarks))


def _is_https(route: HttpRoute) -> bool:
    return any("https" in str(parent.get("sectionName", "")) for parent in route.parent_refs)


def _port(port: int | None) -> str:
    return f":{port}" if port is not None else ""
