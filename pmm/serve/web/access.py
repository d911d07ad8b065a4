"""Who may call: tokens, where a call comes from, and which site a browser was on.

Writing calls need a token of `--token-file`; without one they are taken from this machine alone.
Then the name that the server is called by has to be one of this machine too, so that no site that
points its own name here speaks through somebody's browser. A browser's call that changes something
must come from the server's own page.
"""

import hashlib
import hmac
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from pmm.errors import InputError
from pmm.storage.regular_file import open_regular

LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
OPEN = ("/health/live", "/health/ready", "/", "/openapi.json")
"""Paths that never need a token: orchestrators and the page itself, which holds no data."""
_TOKEN_BYTES = (16, 4_096)
_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip", "via")
"""What proxies say: a call that passed one does not come from this machine, whoever hands it on."""


@dataclass(frozen=True, kw_only=True)
class AccessRules:
    """Who may do what."""

    tokens: frozenset[bytes] = frozenset()
    """SHA-256 of each; none: no token is asked for."""
    reading_too: bool = False
    """Whether reading calls need the token as well."""
    names: frozenset[str] | None = LOCAL_NAMES
    """What the server may be called by, without a token; None: anything."""
    origins: frozenset[str] = frozenset()
    """Sites whose scripts may call, besides the server's own page."""


def read_tokens(path: Path) -> frozenset[bytes]:
    """The SHA-256 of each line of a token file, so that two are good while one is replaced.

    Raises:
        InputError: it cannot be read, or a token is short or no plain text.
    """
    try:
        with open_regular(path) as file:
            lines = [line.strip() for line in file.read(1 << 16).splitlines() if line.strip()]
    except OSError as error:
        raise InputError(f"the token file {path} cannot be read ({error.strerror})") from error
    least, most = _TOKEN_BYTES
    if not lines or any(not least <= len(each) <= most or not each.isascii() for each in lines):
        raise InputError(
            f"the token file {path} needs a line of {least} to {most} ASCII characters for each "
            "token. Make one: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )
    return frozenset(hashlib.sha256(each).digest() for each in lines)


def is_writing(scope: Scope) -> bool:
    """Whether a call changes something."""
    method = scope["method"]
    asks = method == "POST" and str(scope["path"]).startswith("/recommend")
    return method not in ("GET", "HEAD", "OPTIONS") and not asks


class Access:
    """Lets calls through, or answers 401 or 403."""

    def __init__(self, app: ASGIApp, rules: AccessRules) -> None:
        """Stand in front of an app."""
        self._app, self._rules = app, rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Judge a call."""
        if scope["type"] == "http":
            refusal = self._refusal(scope)
            if refusal is not None:
                status, told = refusal
                headers = {"www-authenticate": "Bearer"} if status == 401 else {}
                answer = JSONResponse({"error": told}, status, headers)
                await answer(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        rules, headers, writing = self._rules, Headers(scope=scope), is_writing(scope)
        host = headers.get("host", "")
        if not rules.tokens and rules.names is not None and _name_of(host) not in rules.names:
            return 403, (
                "this server is called by a name of its machine alone; start it with --token-file "
                "to reach it by others"
            )
        if writing and not self._is_own_site(headers, host):
            return 403, "another site may not change anything here"
        if rules.tokens and (writing or (rules.reading_too and scope["path"] not in OPEN)):
            return None if self._has_token(headers) else (401, "send Authorization: Bearer TOKEN")
        if writing and not rules.tokens and not _is_local(scope, headers):
            return 403, "changes are taken from this machine alone; start with --token-file"
        return None

    def _is_own_site(self, headers: Headers, host: str) -> bool:
        """Whether a browser sent it from the server's page or a site that is let in, or no browser.

        A proxy may end TLS, so the scheme is not compared.
        """
        origin = headers.get("origin")
        if origin is not None:
            return origin in self._rules.origins or origin.partition("://")[2] == host != ""
        return headers.get("sec-fetch-site", "none") in ("none", "same-origin")

    def _has_token(self, headers: Headers) -> bool:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        digest = hashlib.sha256(token.strip().encode("latin-1", "replace")).digest()
        # All are compared, each in constant time.
        same = [hmac.compare_digest(digest, each) for each in self._rules.tokens]
        return scheme.lower() == "bearer" and any(same)


def _name_of(host: str) -> str:
    """A Host header without its port.

    >>> _name_of("localhost:8000"), _name_of("[::1]:8000")
    ('localhost', '::1')
    """
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0].lower() if ":" in host else host.lower()


def _is_local(scope: Scope, headers: Headers) -> bool:
    client = scope.get("client")
    if client is None or any(name in headers for name in _FORWARDED):
        return False
    try:
        address = ipaddress.ip_address(client[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
