"""A small OpenID Connect issuer: discovery and keys over HTTP, and tokens signed by them. A fake that really signs."""

from __future__ import annotations

import json
import time
from typing import Any

from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

AUDIENCE = "checkrein"
Key = RSAKey | ECKey | OKPKey | OctKey


class OidcIssuer:
    """Serve it; then `url` is its issuer. What it publishes may be changed between two requests."""

    def __init__(self) -> None:
        self.url = ""
        self.keys: dict[str, Key] = {"k1": RSAKey.generate_key(2048, {"kid": "k1", "use": "sig"})}
        self.published: list[str] = ["k1"]
        self.discovery: dict[str, Any] = {}
        self.status = 200
        self.redirect = ""
        self.asked: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        path = scope["path"]
        self.asked.append(path)
        if path == "/.well-known/openid-configuration":
            answer = {"issuer": self.url, "jwks_uri": f"{self.url}/jwks", **self.discovery}
        else:
            answer = {"keys": [self.keys[kid].as_dict(private=False) for kid in self.published]}
        headers = [(b"content-type", b"application/json")]
        if self.redirect:
            headers.append((b"location", self.redirect.encode()))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})

    @property
    def fetched(self) -> int:
        """How often its keys were."""
        return self.asked.count("/jwks")

    def add(self, kid: str, key: Key | None = None) -> None:
        self.keys[kid] = key or RSAKey.generate_key(2048, {"kid": kid, "use": "sig"})
        self.published.append(kid)

    def token(self, *, kid: str = "k1", alg: str = "RS256", typ: str | None = "JWT", **claims: Any) -> str:
        """A token for bob, good for an hour; a claim that is None is left out."""
        now = int(time.time())
        told = {"iss": self.url, "aud": AUDIENCE, "sub": "bob", "iat": now, "exp": now + 3600, **claims}
        header = {"alg": alg, "kid": kid}
        if typ is not None:
            header["typ"] = typ
        held = {name: value for name, value in told.items() if value is not None}
        return jwt.encode(header, held, self.keys[kid], algorithms=[alg], default_type=None)
