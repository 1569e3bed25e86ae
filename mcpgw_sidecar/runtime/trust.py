"""Which certificates are trusted when nothing else is said: the same ones by Envoy and by the sidecar."""

from __future__ import annotations

import os
from pathlib import Path

_BUNDLES = (  # where the systems that we run on keep theirs; Envoy has no default, and a frozen Python's is its build machine's
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


def system_bundle() -> str | None:
    """The PEM bundle of this system, or the one that SSL_CERT_FILE names; None when there is none."""
    return os.environ.get("SSL_CERT_FILE") or next((path for path in _BUNDLES if Path(path).exists()), None)
