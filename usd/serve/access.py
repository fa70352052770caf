"""Who may come in: checks of every request before the service sees it.

On this machine's own address nobody needs a token, so a page of some other site that the user has open must not be
able to speak in the user's name: the Host header has to name this machine (a foreign name that was made to resolve to
127.0.0.1 does not), and what changes something must not come from another site. On any other address every request
needs the token: as ``Authorization: Bearer``, or as the cookie that the page gets for ``?token=...``.
"""

import hmac
import http.cookies
import ipaddress
import urllib.parse
from collections.abc import Mapping

from fastapi import HTTPException
from starlette.datastructures import Headers, QueryParams
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "usd_serve_token"
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
READING = ("GET", "HEAD", "OPTIONS")
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Headers of every answer."""


def is_loopback(host: str) -> bool:
    """Return whether an address is reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def host_name(header: str) -> str:
    """Return the name in a Host header, without its port and in small letters; empty where there is none."""
    try:
        return urllib.parse.urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


def offered_tokens(headers: Mapping[str, str], query: Mapping[str, str]) -> list[str]:
    """Return the tokens that a request carries: in its authorization, its cookie, its address."""
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    jar: http.cookies.SimpleCookie = http.cookies.SimpleCookie()
    try:
        jar.load(headers.get("cookie", ""))
    except http.cookies.CookieError:
        jar.clear()
    found = [bearer.strip()] if scheme.lower() == "bearer" else []
    found += [jar[COOKIE].value] if COOKIE in jar else []
    return found + ([query["token"]] if "token" in query else [])


def refusal(scope: Scope, token: str, host: str) -> tuple[int, str] | None:
    """Return the status and reason that a request is refused with; None where it may come in."""
    headers = Headers(scope=scope)
    known = offered_tokens(headers, QueryParams(scope["query_string"]))
    if token and not any(hmac.compare_digest(one.encode(), token.encode()) for one in known):
        return (
            401,
            "a token is needed: open the address that usd serve printed, or send Authorization: Bearer",
        )
    if not token and host_name(headers.get("host", "")) not in (*LOCAL_NAMES, host):
        return 403, "this service is for its own machine, by the name localhost or 127.0.0.1"
    if scope["method"] not in READING and is_cross_site(headers):
        return 403, "another site's page may not change anything here"
    return None


def is_cross_site(headers: Mapping[str, str]) -> bool:
    """Return whether a browser says that a request comes from another site's page."""
    origin = headers.get("origin")
    if origin is not None and urllib.parse.urlsplit(origin).netloc.lower() != headers.get("host", "").lower():
        return True
    return headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none")


class AccessControl:
    """ASGI middleware: lets in who may come in, and no more than ``limit`` bytes of a request's body."""

    def __init__(self, app: ASGIApp, token: str, host: str, limit: int) -> None:
        self.app, self.token, self.host, self.limit = app, token, host, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            answer = self.answer(scope)
            if answer is None:
                await self.app(scope, self._limited(receive), _with_headers(send))
            else:
                await answer(scope, receive, _with_headers(send))

    def answer(self, scope: Scope) -> Response | None:
        """Return the answer to a request that goes no further: a refusal, or the cookie for a token."""
        refused = refusal(scope, self.token, self.host)
        if refused is not None:
            return JSONResponse({"detail": refused[1]}, refused[0])
        length = Headers(scope=scope).get("content-length", "0")
        if not length.isdecimal() or int(length) > self.limit:
            return JSONResponse({"detail": self._too_large()}, 413, {"Connection": "close"})
        if self.token and scope["path"] == "/" and b"token=" in scope["query_string"]:
            answer = RedirectResponse("/", 303)  # the token leaves the address bar, and the history
            answer.set_cookie(COOKIE, self.token, httponly=True, samesite="strict")
            return answer
        return None

    def _too_large(self) -> str:
        return f"the request is too large; expected at most {self.limit / 1e6:.0f} MB"

    def _limited(self, receive: Receive) -> Receive:
        """Return ``receive`` that ends a body which is longer than its header said, or said nothing."""
        count = 0

        async def counted() -> Message:
            nonlocal count
            message = await receive()
            count += len(message.get("body", b""))
            if count > self.limit:
                raise HTTPException(413, self._too_large())
            return message

        return counted


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            given = {name.lower() for name, _ in message["headers"]}
            more = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
            message = {
                **message,
                "headers": [*message["headers"], *(item for item in more if item[0] not in given)],
            }
        await send(message)

    return sending
