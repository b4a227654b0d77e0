"""The page's server over real sockets: what it serves, to whom, and what no client can do to it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import http.client
import io
import json
import socket
import threading
import zipfile
from pathlib import Path
from typing import Any

import aiohttp
import cv2
import numpy as np
import pytest
from view_helpers import LOOK, FakeControls, converse, get, view_frame
from waiting import PATIENCE_S, wait_until

from seg_perception.core.errors import InputError, SegPerceptionError
from seg_perception.model import load
from seg_perception.view import playback
from seg_perception.view.access import MAX_CONNECTIONS
from seg_perception.view.board import Board, Slider, ViewSettings
from seg_perception.view.server import MAX_PAGES, ViewServer


async def begin_to_look(page: Any, board: Board) -> None:
    """Frames are offered while somebody looks only."""
    await page.send_json(LOOK)
    while not board.watched(""):
        await asyncio.sleep(0.01)


async def binary(page: Any) -> tuple[dict[str, Any], np.ndarray]:
    while True:
        message = await page.receive()
        assert message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY), message
        if message.type is aiohttp.WSMsgType.BINARY:
            size = int.from_bytes(message.data[:4], "big")
            picture = cv2.imdecode(np.frombuffer(message.data[4 + size :], np.uint8), cv2.IMREAD_COLOR)
            return json.loads(message.data[4 : 4 + size]), picture


async def text(page: Any, kind: str) -> dict[str, Any]:
    while True:
        message = await page.receive()
        assert message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY), message
        if message.type is aiohttp.WSMsgType.TEXT and (document := json.loads(message.data))["type"] == kind:
            return document


def test_the_page_and_its_files_come_with_strict_headers(server: ViewServer) -> None:
    for path, kind in (("/", "text/html"), ("/app.js", "text/javascript"), ("/style.css", "text/css")):
        answer = get(server, path)
        assert answer.status == 200
        assert answer.getheader("Content-Type", "").startswith(kind)
        assert "default-src 'self'" in answer.getheader("Content-Security-Policy", "")
        assert answer.getheader("Access-Control-Allow-Origin") is None


@pytest.mark.parametrize(
    "path", ["/../server.py", "/static/../server.py", "/%2e%2e/server.py", "/app.js/..%2fx", "/etc"]
)
def test_nothing_else_is_served(server: ViewServer, path: str) -> None:
    assert get(server, path).status == 404


def test_a_frame_comes_as_asked_and_the_next_only_after_an_answer(server: ViewServer, board: Board) -> None:
    async def talk(page: Any) -> None:
        await begin_to_look(page, board)
        board.offer(view_frame(1))
        head, picture = await binary(page)
        assert (head["number"], head["view"], head["stamp_ns"]) == (1, "labels", "1001")
        assert head["shares"] == [
            {"name": "road", "color": "#804080", "share": 0.75},
            {"name": "sky", "color": "#4682b4", "share": 0.25},
        ]
        assert picture[40, 30].tolist() == [128, 64, 128]  # BGR of road's #804080
        assert picture[2, 30].tolist() == [180, 130, 70]
        board.offer(view_frame(2))
        board.offer(view_frame(3))
        await asyncio.sleep(0.3)
        await page.send_json({"type": "next", "camera": ""})
        head, _ = await binary(page)
        assert head["number"] == 3  # the newest, not the queue

    converse(server, talk)
    wait_until(lambda: not board.watched(""), "the page's end")  # frames are offered while somebody looks only
    assert board.latest("") is None


def test_pixels_sliders_and_the_lifecycle(server: ViewServer, board: Board) -> None:
    async def talk(page: Any) -> None:
        await begin_to_look(page, board)
        board.offer(view_frame(1))
        await binary(page)
        await page.send_json({"type": "pixel", "camera": "", "number": 1, "x": 0.5, "y": 0.9})
        assert (await text(page, "pixel"))["pixel"] == {
            "x": 32, "y": 43, "class": "road", "confidence": 0.8, "drivable": True,
        }  # fmt: skip
        status = await text(page, "status")
        assert status["control"] is True
        assert status["transitions"] == ["deactivate"]
        assert status["sliders"][0]["name"] == "drivable.min_confidence"
        await page.send_json({"type": "set", "name": "drivable.min_confidence", "value": 0.7})
        assert await text(page, "done")
        await page.send_json({"type": "set", "name": "drivable.min_confidence", "value": 0.95})
        assert (await text(page, "refused"))["reason"] == "the node says no"
        await page.send_json({"type": "transition", "name": "deactivate"})
        assert await text(page, "done")

    converse(server, talk)
    assert isinstance(board.controls, FakeControls)
    assert board.controls.done[0] == ("drivable.min_confidence", 0.7)
    assert board.controls.done[-1] == ("state", "deactivate")


def test_a_frame_that_is_shown_can_be_kept(server: ViewServer, board: Board) -> None:
    async def talk(page: Any) -> bytes:
        await begin_to_look(page, board)
        board.offer(view_frame(5))
        await binary(page)
        board.offer(view_frame(6, label=1))  # a newer one does not take its place
        answer = await asyncio.to_thread(get, server, "/keep?camera=&number=5")
        assert answer.status == 200
        return answer.read()

    with zipfile.ZipFile(io.BytesIO(converse(server, talk))) as archive:
        assert sorted(archive.namelist()) == ["confidence.png", "drivable.png", "frame.json", "image.png", "labels.png"]
        labels = cv2.imdecode(np.frombuffer(archive.read("labels.png"), np.uint8), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(labels, view_frame(5).labels)
        assert json.loads(archive.read("frame.json"))["stamp_ns"] == 1005
    assert get(server, "/keep?camera=&number=5").status == 404  # nobody sees it any more


def test_a_page_that_holds_a_frame_gets_no_other_and_may_ask_about_the_one_it_sees(
    server: ViewServer, board: Board
) -> None:
    async def talk(page: Any) -> None:
        await begin_to_look(page, board)
        board.offer(view_frame(1))
        await binary(page)
        await page.send_json({"type": "next", "camera": ""})
        board.offer(view_frame(2, label=1))
        await binary(page)
        # the answer for frame 2 is still on its way to the server, and so is the frame on its way to the eye
        await page.send_json({"type": "pixel", "camera": "", "number": 1, "x": 0.5, "y": 0.9})
        assert (await text(page, "pixel"))["pixel"]["class"] == "road"
        assert (await asyncio.to_thread(get, server, "/keep?camera=&number=1")).status == 200
        await page.send_json({"type": "next", "camera": ""})
        await page.send_json({"type": "pause", "paused": True})
        await text(page, "done")
        (known,) = server.pages
        assert known.credit == set()  # of the "next" that came before
        board.offer(view_frame(3))
        board.offer(view_frame(4))
        await page.send_json({"type": "next", "camera": ""})  # a step
        assert (await binary(page))[0]["number"] == 4

    converse(server, talk)


def test_changes_are_off_unless_asked_for(board: Board) -> None:
    async def talk(page: Any) -> None:
        await page.send_json({"type": "set", "name": "drivable.min_confidence", "value": 0.7})
        assert "view.control" in (await text(page, "refused"))["reason"]
        assert (await text(page, "status"))["control"] is False

    with ViewServer(board, ViewSettings()) as server:
        converse(server, talk)
    assert isinstance(board.controls, FakeControls)
    assert board.controls.done == []


@pytest.mark.parametrize(
    "message",
    [
        "", "nonsense", "[]", "{}", '{"type": "look"}', '{"type": "look", "cameras": 3}',
        '{"type": "pixel", "camera": "", "number": 1, "x": 7, "y": 0}',
        '{"type": "pixel", "camera": "", "x": 0, "y": 0}',
        '{"type": "set", "name": "a", "value": "1"}', '{"type": "set", "name": 3, "value": 1}', "[" * 3000,
        '{"type": "look", "cameras": [""], "view": "' + "x" * 500 + '", "opacity": 0.5, "width": 3}',
        '{"type": "look", "cameras": [""], "view": "overlay", "opacity": 1e308, "width": 3}',
    ],
)  # fmt: skip
def test_malformed_messages_are_refused_and_the_page_lives(server: ViewServer, message: str) -> None:
    async def talk(page: Any) -> None:
        await page.send_str(message)
        assert (await text(page, "refused"))["reason"]
        assert await text(page, "status")

    converse(server, talk)


def test_a_huge_message_ends_that_page_only(server: ViewServer) -> None:
    async def talk(page: Any) -> Any:
        await page.send_str("x" * 1_000_000)
        while (message := await page.receive()).type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
            pass
        return message.type

    assert converse(server, talk) in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSING)
    assert get(server, "/").status == 200


def test_a_flood_of_messages_ends_that_page_only(server: ViewServer) -> None:
    async def talk(page: Any) -> Any:
        for _ in range(500):
            await page.send_json({"type": "next", "camera": ""})
        while (await page.receive()).type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
            pass
        return page.close_code

    assert converse(server, talk) == aiohttp.WSCloseCode.POLICY_VIOLATION
    assert get(server, "/").status == 200


def test_a_page_may_answer_as_many_frames_as_it_gets(board: Board) -> None:
    """At 60 frames a second that is more than the messages that it may send of itself."""

    async def talk(page: Any) -> None:
        await begin_to_look(page, board)
        for number in range(1, 121):
            board.offer(view_frame(number))
            head, _ = await binary(page)
            assert head["number"] == number
            await page.send_json({"type": "next", "camera": ""})

    with ViewServer(board, ViewSettings(rate=60)) as server:
        converse(server, talk)


def test_other_origins_and_other_names_are_refused(server: ViewServer) -> None:
    own = f"127.0.0.1:{server.port}"
    assert get(server, "/", Origin=f"http://{own}").status == 200
    assert get(server, "/", Origin="http://evil.example").status == 403
    assert get(server, "/", Origin="null").status == 403
    assert get(server, "/", Host="evil.example").status == 403  # DNS rebinding
    assert get(server, "/", Host="localhost").status == 200

    with pytest.raises(aiohttp.WSServerHandshakeError):
        converse(server, lambda page: page.receive(), origin="http://evil.example")


def test_another_address_needs_the_token(board: Board) -> None:
    with ViewServer(board, ViewSettings(address="0.0.0.0")) as server:
        token = server.url.partition("token=")[2]
        assert len(token) >= 32
        assert get(server, "/").status == 403
        assert get(server, "/ws").status == 403
        assert get(server, "/?token=" + "x" * len(token)).status == 403
        assert get(server, "/?token=%ff%fe").status == 403
        answer = get(server, f"/?token={token}")
        assert answer.status == 200
        cookie = answer.getheader("Set-Cookie", "")
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert get(server, "/app.js", Cookie=f"token_{server.port}={token}").status == 200
        assert get(server, "/app.js", Cookie="token_1=another port's").status == 403


def test_a_thousand_connections_leave_the_source_alone(server: ViewServer, board: Board) -> None:
    held = []
    with contextlib.suppress(OSError):
        for _ in range(1000):
            held.append(socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S))  # noqa: PERF401
    for number in range(100):  # offering never waits for a client: none of these ever reads
        board.offer(view_frame(number))
    assert threading.active_count() < 40
    for connection in held:
        connection.close()
    assert len(held) > MAX_CONNECTIONS

    def answers() -> bool:
        try:
            return get(server, "/").status == 200
        except (OSError, http.client.HTTPException):
            return False

    wait_until(answers, "the page, once silent connections are let go")


def test_silent_connections_are_closed(server: ViewServer) -> None:
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S)
    connection.sendall(b"GET / HTTP/1.1\r\nHost: local")  # and never goes on
    with contextlib.suppress(ConnectionResetError):
        assert connection.recv(100) == b""
    connection.close()


def test_so_many_pages_and_no_more(server: ViewServer) -> None:
    async def run() -> int:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            address = f"http://127.0.0.1:{server.port}/ws"
            pages = [await session.ws_connect(address) for _ in range(MAX_PAGES)]
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await session.ws_connect(address)
            for page in pages:
                await page.close()
            return refused.value.status

    assert asyncio.run(run()) == 503


def test_a_page_that_does_not_read_holds_nobody(server: ViewServer, board: Board) -> None:
    """It owes an answer, so it gets nothing more; another page goes on getting frames."""

    async def run() -> list[int]:
        async with aiohttp.ClientSession() as session:
            address = f"http://127.0.0.1:{server.port}/ws"
            slow, quick = await session.ws_connect(address), await session.ws_connect(address)
            await begin_to_look(slow, board)
            await begin_to_look(quick, board)
            seen = []
            for number in range(1, 6):
                board.offer(view_frame(number))
                head, _ = await asyncio.wait_for(binary(quick), PATIENCE_S)
                seen.append(head["number"])
                await quick.send_json({"type": "next", "camera": ""})
            await quick.close()
            await slow.close()
            return seen

    assert asyncio.run(run()) == [1, 2, 3, 4, 5]


def test_a_frame_that_cannot_be_shown_is_told_and_the_next_one_comes(
    server: ViewServer, board: Board, caplog: pytest.LogCaptureFixture
) -> None:
    async def talk(page: aiohttp.ClientWebSocketResponse) -> int:
        await page.send_json(LOOK | {"view": "overlay"})
        while not board.watched(""):
            await asyncio.sleep(0.01)
        board.offer(dataclasses.replace(view_frame(1), labels=np.zeros((5, 5), np.uint8)))
        while "frame 1 of camera '' cannot be shown" not in caplog.text:
            await asyncio.sleep(0.01)
        board.offer(view_frame(2))
        head, _ = await binary(page)
        return int(head["number"])

    assert converse(server, talk) == 2


def test_a_status_that_cannot_be_told_is_logged_and_the_next_one_comes(
    board: Board, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> list[Slider]:
        raise RuntimeError("a parameter that is being declared anew")

    async def talk(page: aiohttp.ClientWebSocketResponse) -> dict[str, Any]:
        while "the status of a test cannot be told" not in caplog.text:
            await asyncio.sleep(0.01)
        monkeypatch.undo()
        return await text(page, "status")

    monkeypatch.setattr(board.controls, "sliders", fail)
    with ViewServer(board, ViewSettings()) as server:
        assert converse(server, talk)["sliders"][0]["name"] == "drivable.min_confidence"


def test_a_folder_is_played_over_and_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(playback, "STILL_S", 0.0)
    for name in "ab":
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((64, 64, 3), 90, np.uint8))
    (tmp_path / "c.png").write_text("no picture")
    stop = threading.Event()
    with load(size=(64, 64), threads=1) as model:
        played = playback.Playback(model, tmp_path)
        thread = threading.Thread(target=played.run, args=(stop,))
        thread.start()

        def number() -> int:
            frame = played.board.latest("")
            return 0 if frame is None else frame.number

        try:
            wait_until(lambda: number() > 4, "the third round")
            status = played.board.status()
            assert (status["state"], status["stale_s"]) == ("playing", None)  # a file cannot be late
            assert status["tables"]["playback"]["left out"] == 1  # a fault counts once
            played.pause(True)
            assert played.board.status()["state"] == "paused"
            for _ in range(2):  # one may have been on its way
                held = number()
                played.step()
                wait_until(lambda held=held: number() > held, "one frame more")

            async def come_later(page: Any) -> int:
                await page.send_json(LOOK)
                return int((await binary(page))[0]["number"])

            with ViewServer(played.board, ViewSettings()) as server:
                held = converse(server, come_later)
                wait_until(lambda: played.board.latest("") is None, "the first page's end")
                assert converse(server, come_later) == held  # and not nothing until it goes on
        finally:
            stop.set()
            thread.join()


def test_a_film_plays_in_real_time_also_where_its_clock_was_set() -> None:
    real_time = playback.RealTime()

    def due(now: float, seconds: float, source: str = "a") -> tuple[float, bool]:
        return round(real_time.due(now, source, round(seconds * 1e9)), 6), real_time.jumped

    assert due(100.0, 5.0) == (100.0, False)
    assert due(100.0, 5.1) == (100.1, False)
    assert due(100.1, 15.0) == (110.0, False)  # silence of ten seconds is a part of the film
    real_time.hold(3.0)
    assert due(113.0, 15.5) == (113.5, False)
    assert due(113.5, 3615.5) == (113.5, True)  # an hour is not waited for
    assert due(113.5, 3615.6) == (113.6, False)
    assert due(113.6, 20.0) == (113.6, True)  # and one back does not make the rest rush by
    assert due(113.6, 20.2) == (113.8, False)
    assert due(113.8, 0.0, "b") == (113.8, False)  # another film of a folder
    assert due(113.8, 0.1, "b") == (113.9, False)


def test_a_port_in_use_is_said(server: ViewServer, board: Board) -> None:
    with pytest.raises(SegPerceptionError, match=rf"port {server.port}: .* Name another port"):
        ViewServer(board, ViewSettings(port=server.port))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"port": 70000}, "view port 70000"),
        ({"rate": 0.0}, "view rate 0"),
        ({"address": "localhost"}, "an IP address"),
    ],
)
def test_wrong_settings(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ViewSettings(**options)
