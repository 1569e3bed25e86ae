"""An issuer of tokens: keys, a JWKS by HTTP, and tokens as good or bad as a test wants."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

ISSUER, AUDIENCE = "https://idp.example/realms/agents", "https://gw.example/mcp"


class Issuer:
    """Serves its keys; `published` are those in its JWKS, `status` is that of its answers."""

    def __init__(self, name: str = ISSUER) -> None:
        self.name = name
        self.keys: dict[str, Any] = {}
        self.published: list[str] = []
        self.status, self.asked = 200, 0
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked += 1
                body = issuer.jwks().encode()
                self.send_response(issuer.status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/keys"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.new_key("k1")

    def new_key(self, ident: str, *, publish: bool = True, alg: str = "ES256") -> None:
        is_rsa = alg.startswith(("RS", "PS"))
        self.keys[ident] = rsa.generate_private_key(65537, 2048) if is_rsa else ec.generate_private_key(ec.SECP256R1())
        if publish:
            self.published.append(ident)

    def jwks(self) -> str:
        keys = []
        for ident in self.published:
            public = self.keys[ident].public_key()
            is_rsa = isinstance(public, rsa.RSAPublicKey)
            algorithm = jwt.algorithms.RSAAlgorithm if is_rsa else jwt.algorithms.ECAlgorithm
            keys.append({**json.loads(algorithm.to_jwk(public)), "kid": ident, "use": "sig"})
        return json.dumps({"keys": keys})

    def token(self, key: str = "k1", alg: str = "ES256", header: dict[str, Any] | None = None, **claims: Any) -> str:
        """A token; a claim that is None is left out."""
        now = int(time.time())
        whole = {"iss": self.name, "aud": AUDIENCE, "sub": "alice", "iat": now, "exp": now + 300} | claims
        payload = {name: value for name, value in whole.items() if value is not None}
        return jwt.encode(payload, self.keys[key], algorithm=alg, headers={"kid": key, **(header or {})})

    def unsigned(self, **claims: Any) -> str:
        """A token with `alg: none`."""
        now = int(time.time())
        payload = {"iss": self.name, "aud": AUDIENCE, "sub": "alice", "exp": now + 300} | claims
        return jwt.encode(payload, None, algorithm="none", headers={"kid": "k1"})

    def confused(self) -> str:
        """A token of HS256, whose secret is the public key."""
        pem = self.keys["k1"].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        head, payload, _ = self.token().split(".")
        del head
        start = jwt.utils.base64url_encode(b'{"alg":"HS256","typ":"JWT","kid":"k1"}').decode() + "." + payload
        mac = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
        return f"{start}.{jwt.utils.base64url_encode(mac.sign(start.encode(), pem)).decode()}"

    def entry(self, file: Path | None = None, **more: Any) -> dict[str, Any]:
        """The issuer in an access document."""
        where = {"jwksUri": self.url} if file is None else {"jwksFile": str(file)}
        return {"issuer": self.name, "audiences": [AUDIENCE], **where, **more}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
