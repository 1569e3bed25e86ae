"""The certificates that Envoy and the sidecar trust by default: the same for both."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

# The paths of common systems. Envoy has no default, and a frozen Python has its build machine's.
_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


def system_bundle() -> str | None:
    """The path of the PEM bundle: that of SSL_CERT_FILE, made absolute, else the system's.

    None when there is no bundle.
    """
    if path := os.environ.get("SSL_CERT_FILE"):
        return str(Path(path).resolve())  # Envoy may run elsewhere
    return next((path for path in _BUNDLES if Path(path).exists()), None)


def context(ca_file: str | None) -> ssl.SSLContext:
    """A TLS context that trusts `ca_file`, or without it the system's bundle and SSL_CERT_DIR.

    Raises OSError, ssl.SSLError.
    """
    tls_context = ssl.create_default_context(cafile=ca_file or system_bundle())
    if ca_file is None and (directory := os.environ.get("SSL_CERT_DIR")):
        tls_context.load_verify_locations(capath=directory)
    return tls_context
