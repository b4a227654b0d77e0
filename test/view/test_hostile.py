"""What a hostile client of the page can try beside test_server's floods: raw bytes on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import socket
import struct
import tracemalloc
import zlib
from typing import Any

import aiohttp
import pytest
from view_helpers import LOOK, FakeControls, converse, get, view_frame
from waiting import PATIENCE_S, wait_until

from seg_perception.view.board import Board
from seg_perception.view.server import ViewServer


def raw(server: ViewServer, request: bytes) -> bytes:
    """All that comes back until the server closes, as it does with every client that is silent."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as connection:
        connection.sendall(request)
        answer = b""
        with contextlib.suppress(ConnectionError):
            while part := connection.recv(65536):
                answer += part
        return answer


def lives(server: ViewServer) -> None:
    wait_until(lambda: get(server, "/").status == 200, "a page")  # 429 for the second after a flood


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "127.0.0.1@evil.example", "evil.example@127.0.0.1", "[::1", "[", "",
     "127.0.0.1:80:80", "127.0.0.1/evil.example", "localhost.", "0x7f000001", "2130706433"],
)  # fmt: skip
def test_a_host_that_is_not_exactly_this_machine_is_refused(server: ViewServer, host: str) -> None:
    """A name that an attacker's DNS points to 127.0.0.1 must not reach the page (DNS rebinding)."""
    assert get(server, "/", Host=host).status in (400, 403)
    assert get(server, "/ws", Host=host).status in (400, 403)
    lives(server)


@pytest.mark.parametrize("origin", ["null", "http://[", "http://evil.example", "file://", "http://127.0.0.1:1", ""])
def test_an_origin_that_is_not_the_page_is_refused(server: ViewServer, origin: str) -> None:
    assert get(server, "/ws", Origin=origin).status == 403
    lives(server)


def test_two_hosts_are_refused(server: ViewServer) -> None:
    answer = raw(server, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
    assert answer.split(b" ")[1] in (b"400", b"403")


@pytest.mark.parametrize(
    "smuggled",
    [
        (
            b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            b"GET /keep?camera=&number=1 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        ),
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
    ],
    ids=["two lengths", "a space before the colon", "negative length", "huge header", "huge path", "TLS", "version"],
)
def test_requests_that_are_none_get_no_page(server: ViewServer, smuggled: bytes) -> None:
    answer = raw(server, smuggled)
    assert b" 200 " not in answer.split(b"\r\n", 1)[0]
    assert answer.count(b"HTTP/1.") <= 1  # nothing that was hidden in it is answered
    lives(server)


def test_a_body_is_not_taken_in(server: ViewServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
    with contextlib.suppress(ConnectionError):
        connection.request("POST", "/ws", body=b"x" * 5_000_000)
        assert connection.getresponse().status in (405, 413)
    lives(server)


def _upgraded(server: ViewServer, extensions: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S)
    connection.sendall(
        b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n" + extensions + b"\r\n"
    )
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += connection.recv(1)
    assert b" 101 " in answer
    assert b"permessage-deflate" not in answer.lower()
    return connection


def _frame(kind: int, payload: bytes) -> bytes:
    """A masked frame of a client; the mask is zero."""
    long = struct.pack(">Q", len(payload)) if len(payload) > 125 else b""
    return bytes([kind, 0x80 | (127 if long else len(payload))]) + long + bytes(4) + payload


def _ends(connection: socket.socket) -> None:
    with contextlib.suppress(ConnectionError):
        wait_until(lambda: not connection.recv(65536), "the end")


def test_a_compression_bomb_ends_that_page_only(server: ViewServer) -> None:
    """Compression is not agreed on, so a frame that claims it is an error, whatever it would expand to."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = packer.compress(bytes(50_000_000)) + packer.flush(zlib.Z_SYNC_FLUSH)
    with _upgraded(server, b"Sec-WebSocket-Extensions: permessage-deflate\r\n") as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(_frame(0xC1, bomb[:3000]))
        _ends(connection)
    lives(server)


@pytest.mark.parametrize(
    "frames",
    [
        bytes([0x81, 0x80 | 127]) + struct.pack(">Q", 2**62) + bytes(4),  # says it will be 4 exabytes
        b"".join([_frame(0x01, b"{"), *[_frame(0x00, b" " * 100)] * 100]),  # in pieces without an end
        _frame(0x82, b"bytes"),
        _frame(0x83, b"no such kind"),
        bytes([0x81, 5]) + b"plain",  # not masked
        _frame(0x81, b"\xff\xfe"),  # not UTF-8
        _frame(0x89, b"p") * 500,  # pings
        _frame(0x8A, b"p") * 500,  # pongs that nobody asked for
    ],
    ids=["exabytes", "pieces", "bytes", "kind", "unmasked", "no text", "pings", "pongs"],
)
def test_frames_that_are_not_the_pages_end_it(server: ViewServer, frames: bytes) -> None:
    with _upgraded(server) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(frames)
        _ends(connection)
    lives(server)


@pytest.mark.parametrize(
    "message",
    [
        '{"type": "set", "name": "drivable.min_confidence", "value": NaN}',
        '{"type": "set", "name": "drivable.min_confidence", "value": Infinity}',
        '{"type": "set", "name": "drivable.min_confidence", "value": 1e999}',
        '{"type": "set", "name": "drivable.min_confidence", "value": true}',
        '{"type": "set", "name": {"a": 1}, "value": 1}',
        '{"type": "look", "cameras": [""], "view": "mask", "opacity": -1, "width": 320}',
        '{"type": "look", "cameras": [""], "view": "mask", "opacity": 0.5, "width": NaN}',
        '{"type": "pixel", "camera": "", "number": 1, "x": -0.1, "y": 0.5}',
        '{"type": "pixel", "camera": "", "number": 1, "x": NaN, "y": 0.5}',
        "[" * 4000,
        "1" * 4000,
    ],
)
def test_numbers_that_are_none_are_refused(server: ViewServer, board: Board, message: str) -> None:
    async def talk(page: Any) -> str:
        await page.send_str(message)
        while True:
            text = json.loads((await page.receive()).data)
            if text["type"] != "status":
                return str(text["type"])

    assert converse(server, talk) == "refused"
    controls = board.controls
    assert isinstance(controls, FakeControls)
    assert controls.done == []


@pytest.mark.parametrize("number", ["-1", "1e9", "NaN", "0x1", "1%00", "../../etc/passwd", "9" * 3000])
def test_a_frame_that_nobody_sees_cannot_be_kept(server: ViewServer, board: Board, number: str) -> None:
    board.offer(view_frame(1))
    assert get(server, f"/keep?camera=&number={number}").status in (400, 404)
    assert get(server, f"/keep?camera=..%2F..%2F&number={number}").status in (400, 404)
    assert get(server, f"/keep?camera=%0d%0aSet-Cookie:%20a&number={number}").status in (400, 404)


def test_names_that_are_asked_for_are_not_kept(server: ViewServer) -> None:
    async def talk(page: Any) -> None:
        await page.send_json(LOOK)
        for k in range(40):
            await page.send_json({"type": "next", "camera": f"{k}{'x' * 90}"})
        await page.send_json({"type": "pixel", "camera": "", "number": 1, "x": 0.5, "y": 0.5})
        while json.loads((await page.receive()).data)["type"] != "pixel":
            pass
        (known,) = server.pages
        assert known.credit <= {""}

    converse(server, talk)


def test_a_flood_of_requests_is_answered_shortly(server: ViewServer) -> None:
    statuses = [get(server, "/app.js").status for _ in range(20)]
    assert set(statuses) == {200}

    async def flood() -> set[int]:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=20)) as session:

            async def one() -> int:
                try:
                    async with session.get(f"http://127.0.0.1:{server.port}/style.css") as answer:
                        return answer.status
                except aiohttp.ClientError:
                    return 0

            return set(await asyncio.gather(*(one() for _ in range(1500))))

    assert asyncio.run(flood()) <= {0, 200, 429}
    lives(server)


def test_random_bytes(server: ViewServer) -> None:
    tracemalloc.start()
    for _ in range(30):
        raw_bytes = os.urandom(2000)
        with (
            contextlib.suppress(ConnectionError),
            socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as connection,
        ):
            connection.sendall(raw_bytes)
    assert tracemalloc.get_traced_memory()[0] < 50_000_000
    tracemalloc.stop()
    lives(server)
