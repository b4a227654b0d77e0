"""A page in the browser on what a source sees: one small server on a thread of its own.

Safe by default: it listens on 127.0.0.1; on any other address every request needs a token. There is no
cross-origin access, every message is checked, and connections, sizes and rates are bounded, so that no client
can slow the source: a page gets a new frame only after it has answered for the one before.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib.resources import files
from typing import Any, Final

from aiohttp import WSCloseCode, WSMsgType, web
from aiohttp.http_exceptions import HttpProcessingError

from seg_perception.core.errors import SegPerceptionError
from seg_perception.view.access import Access
from seg_perception.view.board import Board, PictureCache, ViewSettings, kept, pixel
from seg_perception.view.page import SHOWN, BadMessageError, LookMessage, Page, parse_message

log = logging.getLogger(__name__)

_http_log = logging.getLogger(f"{__name__}.http")
_http_log.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError)))
"""Of aiohttp, which would print the traceback of its parser for each request that is none; the answer is 400."""

MAX_PAGES: Final = 24
MAX_MESSAGE_BYTES: Final = 4096
STATUS_PERIOD_S: Final = 0.5
STALE_S: Final = 1.0  # a picture that is older, by this and the time between two of them, is called stale

_STATIC: Final = {
    "/": ("index.html", "text/html"),
    "/app.js": ("app.js", "text/javascript"),
    "/style.css": ("style.css", "text/css"),
}


class ViewServer:
    """Serves a board until it is closed; `with` does so.

    Args:
        board: what is shown.
        settings: where and how.

    Attributes:
        pages: those that look now; touched on the server's thread only.

    Raises:
        SegPerceptionError: the port cannot be had.
    """

    def __init__(self, board: Board, settings: ViewSettings) -> None:
        self._board = board
        self._settings = settings
        self._token = secrets.token_urlsafe(24) if settings.open_to_others else ""
        self._cache = PictureCache()
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="view-encode")
        self.pages: set[Page] = set()
        self._access = Access(self._token)
        self._loop = asyncio.new_event_loop()
        self._ready: threading.Event = threading.Event()
        self._failure: BaseException | None = None
        self.port = settings.port
        self._thread = threading.Thread(target=self._run, name="view", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise SegPerceptionError(
                f"the page cannot be served on {settings.address} port {settings.port}: {self._failure}; "
                "is another node or page there? Name another port (view.port, --port)"
            ) from self._failure

    @property
    def url(self) -> str:
        """To open in a browser, with the token where one is needed."""
        host = "127.0.0.1" if self._settings.address == "0.0.0.0" else self._settings.address  # noqa: S104
        host = f"[{host}]" if ":" in host else host
        return f"http://{host}:{self.port}/" + (f"?token={self._token}" if self._token else "")

    def close(self) -> None:
        """Stop serving; calling it twice is harmless."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(timeout=5.0)
        self._encoder.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> ViewServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- the server's thread ---

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException as error:  # noqa: BLE001  told to who started the server
            self._failure = error
        finally:
            self._ready.set()
            self._loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        application = web.Application(middlewares=[self._access.guard], client_max_size=MAX_MESSAGE_BYTES)
        for path in _STATIC:
            application.router.add_get(path, self._file)
        application.router.add_get("/ws", self._page)
        application.router.add_get("/keep", self._keep)
        options: dict[str, Any] = {
            "access_log": None,
            "logger": _http_log,
            "keepalive_timeout": 5.0,
            "lingering_time": 0.0,
        }
        runner = web.AppRunner(application, handle_signals=False, **options)
        await runner.setup()
        assert runner.server is not None
        bounded = self._access.bounded(runner.server)
        server = await self._loop.create_server(bounded, self._settings.address, self._settings.port, backlog=64)
        self.port = server.sockets[0].getsockname()[1]
        self._board.on_frame(self._told)
        self._ready.set()
        await self._stop.wait()
        self._board.on_frame(None)
        server.close()
        for page in list(self.pages):
            await page.socket.close(code=WSCloseCode.GOING_AWAY, message=b"the source ends")
        await runner.cleanup()

    def _told(self, camera: str) -> None:
        """On the source's thread."""
        with contextlib.suppress(RuntimeError):  # the loop has just been closed
            self._loop.call_soon_threadsafe(self._wake, camera)

    def _wake(self, camera: str) -> None:
        for page in self.pages:
            if camera in page.looks:
                page.fresh.set()

    # --- what is answered ---

    async def _file(self, request: web.Request) -> web.Response:
        name, kind = _STATIC[request.path]
        text = (files("seg_perception.view") / "static" / name).read_text(encoding="utf-8")
        return web.Response(text=text, content_type=kind, charset="utf-8")

    async def _keep(self, request: web.Request) -> web.Response:
        camera = request.query.get("camera", "")
        number = request.query.get("number", "")
        seen = (frame for page in self.pages for frame in page.shown.get(camera, ()))
        frame = next((frame for frame in seen if str(frame.number) == number), None)
        if frame is None:
            raise web.HTTPNotFound
        content = await self._loop.run_in_executor(self._encoder, kept, frame)
        name = f"frame_{re.sub(r'[^A-Za-z0-9_.-]', '_', camera) or 'camera'}_{frame.number}.zip"
        return web.Response(
            body=content,
            content_type="application/zip",
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )

    async def _page(self, request: web.Request) -> web.StreamResponse:
        if len(self.pages) >= MAX_PAGES:
            return web.Response(status=503, text=f"{MAX_PAGES} pages look already\n")
        # pings are answered below, so that they count as messages do; compressed messages are not agreed on
        socket = web.WebSocketResponse(max_msg_size=MAX_MESSAGE_BYTES, heartbeat=15.0, compress=False, autoping=False)
        await socket.prepare(request)
        page = Page(socket)
        self.pages.add(page)
        tasks = [asyncio.create_task(self._send_status(page)), asyncio.create_task(self._send_frames(page))]
        try:
            await self._receive(page)
        finally:
            self.pages.discard(page)
            for camera in page.looks:
                self._board.unwatch(camera)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return socket

    async def _receive(self, page: Page) -> None:
        async for message in page.socket:
            if not page.may_speak():
                await page.socket.close(code=WSCloseCode.POLICY_VIOLATION, message=b"too many messages")
                return
            if message.type in (WSMsgType.PING, WSMsgType.PONG):
                if message.type is WSMsgType.PING:
                    await page.socket.pong(message.data)
                continue
            if message.type is not WSMsgType.TEXT:
                await page.socket.close(code=WSCloseCode.UNSUPPORTED_DATA, message=b"text messages are accepted")
                return
            try:
                answer = await self._answer(page, parse_message(message.data))
            except BadMessageError as error:
                answer = {"type": "refused", "reason": str(error)}
            if answer is not None:
                await page.send(json.dumps(answer))

    async def _answer(self, page: Page, message: Any) -> dict[str, Any] | None:
        if isinstance(message, LookMessage):
            self._look(page, message)
            return None
        kind = message.type
        if kind == "next":
            if message.camera in page.looks:  # of others nothing is kept: names are free, memory is not
                page.credit.add(message.camera)
                page.fresh.set()
            return None
        if kind == "pixel":
            frame = page.frame(message.camera, message.number)
            found = None if frame is None else pixel(frame, message.x, message.y)
            return {"type": "pixel", "camera": message.camera, "pixel": found}
        if kind == "pause":
            page.paused = message.paused
            if page.paused and self._board.status().get("state") not in ("playing", "paused"):
                page.hold()  # what it sees now, not what comes next; what is played stops, and is shown where it does
        controls = self._board.controls
        if controls is None:
            return {"type": "refused", "reason": "this source cannot be controlled"}
        if kind in ("pause", "step"):  # these move a file's playback, not a robot
            act: Callable[[], str] = (lambda: controls.pause(message.paused)) if kind == "pause" else controls.step
        elif not self._settings.control:
            return {"type": "refused", "reason": "changes are off: start with view.control: true (--control)"}
        elif kind == "set":
            act = lambda: controls.set_parameter(message.name, message.value)  # noqa: E731
        else:
            act = lambda: controls.change_state(message.name)  # noqa: E731
        try:
            reason = await self._loop.run_in_executor(None, act)
        except SegPerceptionError as error:
            reason = str(error)
        return {"type": "refused" if reason else "done", "reason": reason, "of": kind}

    def _look(self, page: Page, message: LookMessage) -> None:
        known = self._board.cameras()
        wanted = {camera: message.look for camera in message.cameras if camera in known}
        for camera in wanted.keys() - page.looks.keys():
            self._board.watch(camera)
            page.credit.add(camera)
        for camera in page.looks.keys() - wanted.keys():
            self._board.unwatch(camera)
            page.shown.pop(camera, None)
        changed = page.looks != wanted
        page.looks = wanted
        if changed:
            held = page.shown.keys() & wanted.keys() if page.paused else set()
            page.again |= held
            page.sent = {camera: number for camera, number in page.sent.items() if camera in held}
            page.credit |= wanted.keys() - held
        page.fresh.set()

    # --- what is sent ---

    async def _send_status(self, page: Page) -> None:
        while True:
            try:
                status = json.dumps(self._status_for(page), allow_nan=False)  # which is no JSON
            except Exception:  # the next may be told again; till then the page calls what it knows old
                log.exception("the status of %s cannot be told", self._board.title)
            else:
                await page.send(status)
            await asyncio.sleep(STATUS_PERIOD_S)

    def _status_for(self, page: Page) -> dict[str, Any]:
        controls = self._board.controls
        return {
            "type": "status",
            "title": self._board.title,
            "cameras": self._board.cameras(),
            "control": controls is not None and self._settings.control,
            "sliders": [] if controls is None else [asdict(slider) for slider in controls.sliders()],
            "transitions": [] if controls is None else list(controls.transitions()),
            "status": self._board.status(),
            "stale_s": STALE_S + 1.0 / self._settings.rate,
            "ages": {  # of what this page has been sent
                camera: round(time.monotonic() - page.shown[camera][-1].seen_at, 2)
                for camera in page.looks
                if camera in page.shown
            },
        }

    async def _send_frames(self, page: Page) -> None:
        """A frame for each camera that the page has answered for, at most `rate` times a second, newest only."""
        period = 1.0 / self._settings.rate
        while True:
            await page.fresh.wait()
            page.fresh.clear()
            for camera, look in list(page.looks.items()):
                again = camera in page.again and camera in page.shown
                frame = page.shown[camera][-1] if again else self._board.latest(camera)
                if not again:
                    if frame is None or camera not in page.credit or page.sent.get(camera) == frame.number:
                        continue
                    page.credit.discard(camera)
                assert frame is not None
                page.again.discard(camera)
                page.sent[camera] = frame.number
                held = page.held
                try:
                    content = await self._loop.run_in_executor(self._encoder, self._cache.get, frame, look)
                except Exception:  # the page goes on, and calls what it has stale
                    log.exception("frame %d of camera %r cannot be shown", frame.number, camera)
                    page.credit.add(camera)
                    continue
                if not again and held != page.held:  # meanwhile
                    page.sent.pop(camera, None)
                    continue
                if not again:
                    page.shown.setdefault(camera, deque(maxlen=SHOWN)).append(frame)
                await page.send(content)
            await asyncio.sleep(period)
