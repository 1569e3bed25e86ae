"""A certificate authority of our own for the webhook.

The API server trusts it by the caBundle; nobody else needs to.
"""

from __future__ import annotations

import datetime as dt
import ssl
import tempfile
from pathlib import Path

import attrs
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mcpgw_sidecar import PROGRAM

AUTHORITY_LIFE = dt.timedelta(days=365)
SERVER_LIFE = dt.timedelta(days=7)
SKEW = dt.timedelta(minutes=5)  # by which the clock of the API server may be behind ours


@attrs.frozen
class Authority:
    """The certificate of an authority and its key, both PEM."""

    certificate: bytes
    key: bytes = attrs.field(repr=False)

    def check(self) -> ec.EllipticCurvePrivateKey:
        """The private key. Raises ValueError for an authority that cannot be used."""
        try:
            key = serialization.load_pem_private_key(self.key, password=None)
            public_key = x509.load_pem_x509_certificate(self.certificate).public_key()
        except (TypeError, UnsupportedAlgorithm) as error:
            # An encrypted key, or one of an unknown kind.
            raise ValueError(f"the authority's key cannot be read: {error}") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != public_key:
            raise ValueError("the authority's key is not that of its certificate")
        return key

    def due(self, now: dt.datetime) -> bool:
        """Whether the authority should be replaced: a third of its life or less is left."""
        return _due(x509.load_pem_x509_certificate(self.certificate), now)


@attrs.frozen
class ServerIdentity:
    """The webhook's certificate with its TLS context, and the authority that signed it."""

    context: ssl.SSLContext
    signer: Authority
    certificate: x509.Certificate

    def due(self, now: dt.datetime) -> bool:
        """Whether the certificate should be replaced."""
        return _due(self.certificate, now)


def make_authority(now: dt.datetime, life: dt.timedelta = AUTHORITY_LIFE) -> Authority:
    """A new authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{PROGRAM} webhook")])
    builder = _builder(name, name, key.public_key(), now, life)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    certificate = builder.sign(key, hashes.SHA256())
    return Authority(certificate.public_bytes(serialization.Encoding.PEM), _pem(key))


def make_server(signer: Authority, names: list[str], now: dt.datetime) -> ServerIdentity:
    """A server certificate for DNS names, with its TLS context.

    Raises ValueError when `signer` cannot sign.
    """
    authority = x509.load_pem_x509_certificate(signer.certificate)
    signing_key = signer.check()
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    builder = _builder(subject, authority.subject, key.public_key(), now, SERVER_LIFE)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()), critical=False
    )
    certificate = builder.sign(signing_key, hashes.SHA256())
    return ServerIdentity(_context(certificate.public_bytes(serialization.Encoding.PEM), _pem(key)), signer, certificate)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: dt.datetime,
    life: dt.timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _due(certificate: x509.Certificate, now: dt.datetime) -> bool:
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    return now >= certificate.not_valid_after_utc - life / 3


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    kind, none = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, kind, none)


def _context(certificate: bytes, key: bytes) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    # The standard library reads keys only from files. This file is in memory where possible, and
    # removed at once.
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as directory:  # noqa: S108
        path = Path(directory) / "pair.pem"
        path.touch(mode=0o600)
        path.write_bytes(certificate + key)
        context.load_cert_chain(path)
    return context
