"""The keys of a local Supabase API, made at random and kept in a private file.

A hosted project has the same four: two opaque ones, which its gateway turns into tokens, and two older ones,
which are such tokens themselves (JWT, HS256). `anon` is for browsers, `service_role` for servers alone.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self
from uuid import UUID

import jwt

_YEARS = 10 * 365 * 24 * 3600
_ALGORITHM = "HS256"


@dataclass(frozen=True)
class ApiKeys:
    """Secrets: neither printed nor logged.

    Attributes:
        jwt_secret: signs every token.
        publishable: opaque key of `anon`.
        secret: opaque key of `service_role`.
        anon: legacy key of `anon`.
        service_role: legacy key of `service_role`.
    """

    jwt_secret: str = field(repr=False)
    publishable: str = field(repr=False)
    secret: str = field(repr=False)
    anon: str = field(repr=False)
    service_role: str = field(repr=False)

    @classmethod
    def random(cls) -> Self:
        """New keys, valid for years."""
        jwt_secret = secrets.token_urlsafe(40)
        return cls(
            jwt_secret=jwt_secret,
            publishable=_opaque("sb_publishable"),
            secret=_opaque("sb_secret"),
            anon=_token(jwt_secret, "anon", _YEARS),
            service_role=_token(jwt_secret, "service_role", _YEARS),
        )

    @classmethod
    def kept_in(cls, file: Path) -> Self:
        """The keys of a file (0600), which is made when there is none."""
        if not file.exists():
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as handle:
                json.dump(asdict(cls.random()), handle)
        return cls(**json.loads(file.read_text()))

    def token_of(self, key: str) -> str | None:
        """The token (JWT) that an API key stands for, None for an unknown key."""
        tokens = {
            self.publishable: self.anon,
            self.secret: self.service_role,
            self.anon: self.anon,
            self.service_role: self.service_role,
        }
        return tokens.get(key)

    def user_token(self, user: UUID, *, seconds: int = 3600) -> str:
        """A token (JWT) as Supabase Auth gives it to a person who signed in; `seconds` below 0: expired."""
        return _token(self.jwt_secret, "authenticated", seconds, sub=str(user), aud="authenticated")


def _opaque(prefix: str) -> str:
    return f"{prefix}_{secrets.token_urlsafe(16)}_{secrets.token_urlsafe(6)}"


def _token(secret: str, role: str, seconds: int, **claims: str) -> str:
    now = int(time.time())
    issued = {"iss": "supabase", "role": role, "iat": min(now, now + seconds), "exp": now + seconds, **claims}
    return jwt.encode(issued, secret, algorithm=_ALGORITHM)
