"""Who may connect to the page's server and ask it, and how many at a time."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import urlsplit

from aiohttp import web

from seg_perception.view.page import Limit

MAX_CONNECTIONS: Final = 64
FIRST_REQUEST_S: Final = 5.0  # a connection that asks for nothing is closed
_REQUESTS_A_SECOND: Final = 200  # of all clients

_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "frame-ancestors 'none'; form-action 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Access:
    """Lets connections and requests in, or closes and refuses them; what is answered carries strict headers.

    Every method runs on the thread of the server's event loop, and none waits.

    Args:
        token: what each request must bring; '': none, but it must ask for this machine's loopback address by name.
    """

    def __init__(self, token: str) -> None:
        self._token = token
        self._requests = Limit(_REQUESTS_A_SECOND)
        self._silent: set[Any] = set()  # connections that have asked for nothing yet

    def bounded(self, make_handler: web.Server) -> Callable[[], asyncio.Protocol]:
        """For the loop's `create_server`: a handler for each new connection, while there are not too many."""

        def make() -> asyncio.Protocol:
            if len(make_handler.connections) >= MAX_CONNECTIONS:
                return _Refuse()
            handler = make_handler()
            self._silent.add(handler)
            asyncio.get_running_loop().call_later(FIRST_REQUEST_S, self._close_if_silent, handler)
            return handler

        return make

    def _close_if_silent(self, handler: Any) -> None:
        if handler in self._silent:
            self._silent.discard(handler)
            if handler.transport is not None:
                handler.transport.abort()

    @web.middleware
    async def guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """The application's middleware: refuse the request, or pass it on."""
        self._silent.discard(request.protocol)
        reason, status = self._why_refused(request), 403
        if reason is None and not self._requests.another():
            reason, status = f"more than {_REQUESTS_A_SECOND} requests a second", 429
        if reason is not None:
            refusal = web.Response(status=status, text=reason + "\n", headers=_HEADERS)
            refusal.force_close()
            return refusal
        try:
            response = await handler(request)
        except web.HTTPException as error:
            response = web.Response(status=error.status, text=f"{error.status} {error.reason}\n")
        if isinstance(response, web.WebSocketResponse):
            return response
        response.headers.update(_HEADERS)
        if self._token and request.query.get("token"):
            response.set_cookie(_cookie_of(request), self._token, httponly=True, samesite="Strict")
        return response

    def _why_refused(self, request: web.Request) -> str | None:
        if self._token:
            given = request.query.get("token") or request.cookies.get(_cookie_of(request)) or ""
            if not hmac.compare_digest(given.encode(errors="replace"), self._token.encode()):
                return "a token is needed: open the address that was printed when the page began to be served"
        elif not _is_loopback_name(request.host):  # a name that an attacker's DNS points here
            return f"{request.host[:80]!r} is not this machine's loopback address"
        if len(request.headers.getall("Host", ())) > 1:
            return "a request has one Host"
        origin = request.headers.get("Origin")
        if origin is not None and _place_of(origin) != request.host:
            return "requests from other origins are refused"
        return None


def _cookie_of(request: web.Request) -> str:
    """Cookies are of a host, whatever the port: two nodes of one machine would take each other's away."""
    own = None if request.transport is None else request.transport.get_extra_info("sockname")
    return f"token_{own[1]}" if own else "token"


class _Refuse(asyncio.Protocol):
    """Too many connections: closed at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


def _is_loopback_name(host: str) -> bool:
    """Whether a Host is this machine, and nothing but a name and a port."""
    try:
        parts = urlsplit(f"//{host}")
        name, _ = parts.hostname or "", parts.port
        if parts.netloc != host or "@" in host:
            return False
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _place_of(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None
