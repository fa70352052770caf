"""A door with a token, for a viewer that other machines can reach.

The page's server has no notion of who asks. So it listens on this machine only, and the door passes on the connections
of those who know the token: as ``?token=...`` in the first address, and from then on as a cookie.
"""

import asyncio
import hmac
import http.cookies
import threading
import urllib.parse
from collections.abc import Coroutine

COOKIE = "usd_viewer_token"
LONGEST_HEAD = 1 << 16
PATIENCE = 10.0
"""Seconds that somebody may take to say what they want."""
REFUSAL = (
    b"HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
    b"This viewer asks for a token. Open the address that the training printed, with ?token=... at its end.\n"
)


class Gate:
    """Listens at ``host`` and ``port`` and passes on to ``inner``, a port of this machine, who knows the token."""

    def __init__(self, host: str, port: int, inner: int, token: str) -> None:
        self.host, self.port, self.inner, self.token = host, port, inner, token
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="viewer-gate", daemon=True)
        self._thread.start()
        self._server = self._do(asyncio.start_server(self._admit, host, port, limit=LONGEST_HEAD))
        self.port = int(self._server.sockets[0].getsockname()[1])

    def _do(self, work: Coroutine[object, object, asyncio.Server]) -> asyncio.Server:
        try:
            return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)
        except OSError:
            self.loop.call_soon_threadsafe(self.loop.stop)
            raise

    def close(self) -> None:
        """Let nobody in any more."""
        self.loop.call_soon_threadsafe(self._server.close)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(5)

    async def _admit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
            if not knows_token(head, self.token):
                writer.write(REFUSAL)
                await writer.drain()
                return
            await self._pass_on(head, reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # they went away, or never said what they want
        finally:
            writer.close()

    async def _pass_on(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Connect both sides until one of them closes; the first answer sets the cookie."""
        from_page, to_page = await asyncio.open_connection("127.0.0.1", self.inner)
        to_page.write(head)
        try:
            answer = await from_page.readuntil(b"\r\n")
            cookie = f"Set-Cookie: {COOKIE}={self.token}; Path=/; HttpOnly; SameSite=Strict\r\n"
            writer.write(answer + cookie.encode())
            both = [
                asyncio.ensure_future(pump(reader, to_page)),
                asyncio.ensure_future(pump(from_page, writer)),
            ]
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            for side in both:
                side.cancel()
        finally:
            to_page.close()


async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """Hand on bytes until there are no more, at the pace of the receiver."""
    try:
        while data := await source.read(1 << 16):
            target.write(data)
            await target.drain()
    except OSError:
        pass  # closed from the other side


def knows_token(head: bytes, token: str) -> bool:
    """Return whether the head of an HTTP request carries the token, in its address or as the cookie."""
    lines = head.decode("latin-1").split("\r\n")
    parts = lines[0].split(" ")
    query = urllib.parse.urlsplit(parts[1]).query if len(parts) > 1 else ""
    offered = urllib.parse.parse_qs(query).get("token", [])
    for line in lines[1:]:
        name, _, value = line.partition(":")
        if name.strip().lower() == "cookie":
            offered += _cookies(value)
    return any(hmac.compare_digest(item.encode(), token.encode()) for item in offered)


def _cookies(text: str) -> list[str]:
    """Return the values of our cookie in a header."""
    jar: http.cookies.SimpleCookie = http.cookies.SimpleCookie()
    try:
        jar.load(text.strip())
    except http.cookies.CookieError:
        return []
    return [jar[COOKIE].value] if COOKIE in jar else []
