"""The server: one page, one WebSocket, a session and a thread of its own for each that plays.

A page of another site must not play here: the Host must be an address, localhost or the name that was served under (a
name that an attacker lets point here is none), and a WebSocket's Origin must be this server's own.
"""

import asyncio
import contextlib
import io
import ipaddress
import json
import logging
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.resources import files
from typing import Any, TypeVar
from urllib.parse import urlsplit

import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from mbrl_gym.play.game import Game
from mbrl_gym.play.messages import Message, MessageError, read_message
from mbrl_gym.play.recorder import Picture
from mbrl_gym.play.session import FPS, HORIZON, Session

MOST_SESSIONS = 4
MOST_WAITING = 64  # messages between two ticks
LONGEST = 4096  # bytes of a message; longer ones end the connection
SMALL = 256  # pixels; pictures up to this are sent as they are, larger ones with JPEG's losses
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
T = TypeVar("T")
log = logging.getLogger(__name__)


def make_app(game: Game, host: str = "127.0.0.1") -> Starlette:
    """Return the application that lets browsers play ``game``.

    Args:
        game: what is played.
        host: the name it is served under, beside localhost and addresses.
    """
    page = (files("mbrl_gym.play") / "page.html").read_text(encoding="utf-8")
    playing: set[_Player] = set()

    async def show_page(request: Request) -> Response:
        if not _is_own_host(request, host):
            return PlainTextResponse(
                "not a name of this server: take its address, or start it with --host and this name\n", 400
            )
        return HTMLResponse(page, headers=HEADERS)

    async def play(websocket: WebSocket) -> None:
        if not (_is_own_host(websocket, host) and _is_own_origin(websocket)):
            await websocket.close(1008)  # before it is accepted: the browser gets a 403
            return
        await websocket.accept()
        if len(playing) >= MOST_SESSIONS:
            await _turn_away(websocket, f"{MOST_SESSIONS} are playing already: close another page, then connect again")
            return
        player = _Player(websocket, game)
        playing.add(player)
        try:
            await player.play()
        finally:
            playing.discard(player)

    return Starlette(routes=[Route("/", show_page), WebSocketRoute("/play", play)])


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 takes a free one.

    Raises:
        OSError: the port is in use, or the host is none of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family)


def make_server(game: Game, host: str = "127.0.0.1") -> uvicorn.Server:
    """Return the server of a game: ``run(sockets=[listen(host, port)])`` serves until Ctrl-C."""
    config = uvicorn.Config(
        make_app(game, host),
        ws_max_size=LONGEST,
        ws_per_message_deflate=False,  # pictures are packed already
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=3,
    )
    return uvicorn.Server(config)


# ---- who may --------------------------------------------------------------------------------------------------------


def _is_own_host(connection: HTTPConnection, host: str) -> bool:
    name = urlsplit(f"//{connection.headers.get('host', '')}").hostname or ""
    if name in ("localhost", host.lower()):
        return True
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(name)
        return True
    return False


def _is_own_origin(connection: HTTPConnection) -> bool:
    origin = urlsplit(connection.headers.get("origin", ""))
    return origin.scheme in ("http", "https") and origin.netloc.lower() == connection.headers.get("host", "").lower()


async def _turn_away(websocket: WebSocket, text: str) -> None:
    await websocket.send_text(json.dumps({"type": "refused", "text": text}))
    await websocket.close(1013)


# ---- who plays ------------------------------------------------------------------------------------------------------


class _Player:
    """A connection and its session. All that touches the session happens in the one thread of ``_worker``."""

    def __init__(self, websocket: WebSocket, game: Game) -> None:
        self._websocket, self._game = websocket, game
        self._worker = ThreadPoolExecutor(1, "mbrl-gym-play")
        self._waiting: list[Message] = []
        self._notices: list[str] = []
        self._sent = 0  # frames
        self._news, self._shown = asyncio.Event(), asyncio.Event()

    async def play(self) -> None:
        """Play until the connection ends."""
        session = None
        try:
            session = await self._run(lambda: Session(self._game))
            await self._websocket.send_text(json.dumps(introduction(self._game)))
            await self._converse(session)
        except WebSocketDisconnect:
            pass
        except Exception:
            log.exception("a session ended by an error")
            with contextlib.suppress(Exception):  # it may be gone already
                await _turn_away(self._websocket, "the session ended by an error: the terminal says which")
        finally:
            if session is not None:
                await asyncio.shield(self._run(session.close))
            self._worker.shutdown(wait=False)

    async def _converse(self, session: Session) -> None:
        """Listen and show, until one of the two ends."""
        tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._show(session))]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    async def _listen(self) -> None:
        while True:
            received = await self._websocket.receive()
            if received["type"] == "websocket.disconnect":
                return
            try:
                self._take(received.get("text"))
            except MessageError as error:
                self._say(str(error))

    def _take(self, text: str | None) -> None:
        """Keep a message for the next tick.

        Raises:
            MessageError: it is none, or there are too many.
        """
        if text is None:
            raise MessageError("a message must be text, not bytes")
        message = read_message(text)
        if message.type == "ack":
            if message.fields["frame"] == self._sent:
                self._shown.set()
            return
        if len(self._waiting) >= MOST_WAITING:
            raise MessageError(f"more than {MOST_WAITING} messages came between two steps; some were left out")
        self._waiting.append(message)
        self._news.set()

    def _say(self, text: str) -> None:
        """Tell something with the next frame; what is repeated is told once."""
        if text not in self._notices:
            self._notices.append(text)
        self._news.set()

    async def _show(self, session: Session) -> None:
        """Tick and send, never before the frame before was shown: who is slow to draw plays slowly and misses none."""
        clock = asyncio.get_running_loop().time
        while True:
            due = clock() + 1 / session.fps
            messages, self._waiting = self._waiting, []
            notices, self._notices = self._notices, []
            self._news.clear()
            header, pictures = await self._run(partial(turn, session, messages, notices))
            self._sent += 1
            self._shown.clear()
            await self._websocket.send_text(json.dumps({**header, "frame": self._sent}, allow_nan=False))
            await self._websocket.send_bytes(pictures)
            await self._shown.wait()
            await asyncio.sleep(max(0.0, due - clock()))
            if session.paused:  # then nothing changes by itself
                await self._news.wait()

    async def _run(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, function)


def turn(session: Session, messages: list[Message], notices: list[str]) -> tuple[dict[str, Any], bytes]:
    """Do what messages say, tick, and return a frame's header, plain JSON, and its pictures, one after the other.

    The header says how long each picture is, and repeats the ``notices``.
    """
    for message in messages:
        try:
            message.apply(session)
        except ValueError as error:
            session.notices.append(str(error))
    frame = session.tick()
    pictures = {side: _encoded(picture) for side, picture in frame.pictures.items()}
    numbers = {**frame.numbers, "notices": [*frame.numbers["notices"], *notices]}
    sizes = [{"side": side, "mime": mime, "bytes": len(data)} for side, (mime, data) in pictures.items()]
    return {"type": "frame", **numbers, "pictures": sizes}, b"".join(data for _, data in pictures.values())


def introduction(game: Game) -> dict[str, Any]:
    """Return what a page needs to know before the first frame, plain JSON."""
    return {
        "type": "hello",
        "name": game.name,
        "model": type(game.stored.model).__name__,
        "real": None if game.real is None else game.stored.real_id or "an environment without an id",
        "no_real": game.no_real if game.real is None else "",
        "buttons": [{"label": button.label, "keys": button.keys} for button in game.keys.buttons],
        "sliders": [vars(slider) for slider in game.keys.sliders],
        "policy": game.policy_name if game.policy else None,
        "record": game.record is not None,
        "most_fps": FPS[1],
        "most_horizon": HORIZON[1],
    }


def _encoded(picture: Picture) -> tuple[str, bytes]:
    """Return the MIME type and the bytes of a picture."""
    file = io.BytesIO()
    if max(picture.shape[:2]) <= SMALL:
        Image.fromarray(picture).save(file, "PNG", compress_level=1)
        return "image/png", file.getvalue()
    Image.fromarray(picture).save(file, "JPEG", quality=85)
    return "image/jpeg", file.getvalue()
