"""Which certificates are trusted when nothing else is said: the same ones by Envoy and by the sidecar."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

_BUNDLES = (  # where the systems that we run on keep theirs; Envoy has no default, and a frozen Python's is its build machine's
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


def system_bundle() -> str | None:
    """The PEM bundle that SSL_CERT_FILE names, as an absolute path, else this system's; None when there is none."""
    if named := os.environ.get("SSL_CERT_FILE"):
        return str(Path(named).resolve())  # Envoy may run elsewhere
    return next((path for path in _BUNDLES if Path(path).exists()), None)


def context(ca_file: str | None) -> ssl.SSLContext:
    """Trust in what `ca_file` holds; without it in the system's bundle, and the directory that SSL_CERT_DIR names. Raises OSError, ssl.SSLError."""
    found = ssl.create_default_context(cafile=ca_file or system_bundle())
    if ca_file is None and (directory := os.environ.get("SSL_CERT_DIR")):
        found.load_verify_locations(capath=directory)
    return found
