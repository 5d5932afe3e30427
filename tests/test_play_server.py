"""The server of the page: who may connect, what messages are, and that no client harms another."""

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest
from test_play import Real, walk
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from mbrl_gym.play import Session
from mbrl_gym.play.messages import LONGEST, MESSAGES, MessageError, read_message
from mbrl_gym.play.server import MOST_SESSIONS, MOST_WAITING, listen, make_server, turn

WAIT = 20  # seconds; for what must come


@contextmanager
def serving(game, host="127.0.0.1"):
    """A server in a thread; yields its port."""
    listening = listen("127.0.0.1", 0)
    server = make_server(game, host)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(WAIT)
        listening.close()
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def port():
    """The port of a game that all tests may share, with reality and fast."""
    with serving(walk(Real, fps=60)) as found:
        yield found


class Client:
    """A page, as far as the server sees."""

    def __init__(self, port, origin=None, host=None):
        host = host or f"127.0.0.1:{port}"
        origin = f"http://{host}" if origin is None else origin
        line = socket.create_connection(("127.0.0.1", port), WAIT)
        self.socket = connect(f"ws://{host}/play", origin=origin or None, sock=line).__enter__()
        self.hello = json.loads(self.socket.recv(WAIT))

    def frame(self, ack=True):
        """The next frame's header and pictures."""
        header, pictures = json.loads(self.socket.recv(WAIT)), self.socket.recv(WAIT)
        if ack:
            self.say("ack", frame=header["frame"])
        return header, pictures

    def until(self, condition):
        """The first header that satisfies ``condition``."""
        for _ in range(300):
            header, _ = self.frame()
            if condition(header):
                return header
        raise AssertionError("no frame satisfied the condition")

    def told(self, text):
        """Wait until a notice says ``text``."""
        return self.until(lambda header: any(text in notice for notice in header["notices"]))

    def say(self, kind, **fields):
        self.socket.send(json.dumps({"type": kind, **fields}))

    def gone(self):
        """The text with which it is turned away; "" where none comes before the connection is closed."""
        text = ""
        try:
            while True:
                message = self.socket.recv(WAIT)
                if isinstance(message, str) and (data := json.loads(message))["type"] == "refused":
                    text = data["text"]
        except ConnectionClosed:
            return text

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.socket.close()


def page(port, host=None):
    """The status, the headers and the text of the page."""
    headers = {} if host is None else {"Host": host}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/", headers=headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=WAIT) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read().decode()


# Who may


def test_the_page_is_one_file_that_loads_nothing(port):
    status, headers, text = page(port)
    assert status == 200
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "http://" not in text
    assert "https://" not in text
    assert 'src="' not in text


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:9", "192.168.7.7:8000"])
def test_the_page_goes_by_addresses_and_localhost(port, host):
    assert page(port, host)[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example"]
)
def test_a_name_that_an_attacker_lets_point_here_is_refused(port, host):
    status, _, text = page(port, host)
    assert status == 400
    assert "start it with --host" in text
    with pytest.raises(InvalidStatus, match="403"):
        Client(port, host=host)


def test_a_name_that_it_is_served_under_is_its_own():
    with serving(walk(), host="My.Machine") as port:
        assert page(port, "my.machine:5")[0] == 200
        assert page(port, "other.machine")[0] == 400


@pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1:1", "null", "", "file://127.0.0.1"])
def test_a_foreign_origin_is_refused(port, origin):
    with pytest.raises(InvalidStatus, match="403"):
        Client(port, origin)


def test_its_own_origin_may_come_through_a_tunnel_with_tls(port):
    with Client(port, "https://localhost:9", "localhost:9") as client:
        assert client.hello["name"] == "walk"


def test_a_port_in_use_is_an_error():
    with listen("127.0.0.1", 0) as one, pytest.raises(OSError, match="in use"):
        listen("127.0.0.1", one.getsockname()[1])


# Frames


def test_a_client_is_told_what_there_is_to_play(port):
    with Client(port) as client:
        hello = client.hello
    assert (hello["type"], hello["model"], hello["no_real"]) == ("hello", "Walk", "")
    assert hello["buttons"][0] == {"label": "action = -2", "keys": ["ArrowLeft"]}
    assert hello["real"] == "an environment without an id"
    assert hello["sliders"] == [{"label": "action", "low": -2.0, "high": 2.0, "rest": 0.0, "whole": False}]
    assert (hello["policy"], hello["record"]) == (None, False)


def test_a_frame_is_a_header_and_its_pictures(port):
    with Client(port) as client:
        header, data = client.frame()
    assert [picture["side"] for picture in header["pictures"]] == ["dream", "real"]
    assert {picture["mime"] for picture in header["pictures"]} == {"image/jpeg"}
    assert sum(picture["bytes"] for picture in header["pictures"]) == len(data)
    second = data[header["pictures"][0]["bytes"] :]
    assert data[:2] == second[:2] == b"\xff\xd8"
    assert (header["step"], header["dream"]["reward"]) == (1, 10.0)


def test_small_pictures_lose_nothing():
    played = Session(walk())
    played._dream.draw = lambda: np.zeros((210, 160, 3), np.uint8)
    header, data = turn(played, [], ["a notice"])
    assert header["pictures"] == [{"side": "dream", "mime": "image/png", "bytes": len(data)}]
    assert data[1:4] == b"PNG"
    assert header["notices"] == ["a notice"]


def test_no_frame_is_sent_before_the_last_one_was_shown(port):
    with Client(port) as client:
        header, _ = client.frame(ack=False)
        client.say("ack", frame=header["frame"] + 1)  # another one's
        client.say("press", key="ArrowRight")
        with pytest.raises(TimeoutError):
            client.socket.recv(0.5)
        client.say("ack", frame=header["frame"])
        header, _ = client.frame()
        assert (header["frame"], header["step"], header["action"]) == (2, 2, [2.0])


def test_while_it_is_paused_only_what_happens_is_sent(port):
    with Client(port) as client:
        client.say("pause", on=True)
        header = client.until(lambda header: header["paused"])
        with pytest.raises(TimeoutError):
            client.socket.recv(0.5)
        client.say("step")
        assert client.frame()[0]["step"] == header["step"] + 1
        client.say("press", key="ArrowRight")
        assert client.frame()[0]["step"] == header["step"] + 1
        client.say("pause", on=False)
        assert client.until(lambda header: header["stepped"])["action"] == [2.0]


def test_every_message_is_understood(tmp_path):
    policy = lambda obs, memory, begins, deterministic: (np.array([1.0], np.float32), None)  # noqa: E731
    with serving(walk(Real, policy=policy, record=tmp_path, fps=60)) as port, Client(port) as client:
        assert (client.hello["policy"], client.hello["record"]) == ("Policy", True)
        client.say("press", key="ArrowRight")
        client.until(lambda header: header["action"] == [2.0])
        client.say("release", key="ArrowRight")
        client.say("slide", number=0, value=-1)
        client.until(lambda header: header["action"] == [-1.0])
        client.say("press", key="ArrowLeft")
        client.say("release_all")
        client.say("fps", fps=59)
        client.say("horizon", steps=77)
        client.say("sample", on=False)
        client.until(lambda header: (header["fps"], header["horizon"], header["sample"]) == (59, 77, False))
        client.say("policy", on=True)
        client.say("record", on=True)
        client.until(lambda header: header["action"] == [1.0] and header["recording"])
        client.say("record", on=False)
        client.told("recorded: play-0001")
        client.say("resync")
        client.until(lambda header: header["since_real"] < header["step"])
        client.say("reset")
        assert client.until(lambda header: header["step"] == 1)["since_real"] == 1
    assert {path.name for path in (tmp_path / "play-0001").iterdir()} == {"play.gif", "play.npz"}


# What is no message

BAD = [
    ("", "must be JSON"),
    ("press", "must be JSON"),
    ("[" * 400, "must be JSON"),
    ('{"type": "slide", "number": 0, "value": NaN}', "must be JSON, with finite numbers"),
    ('{"type": "slide", "number": 0, "value": -Infinity}', "must be JSON, with finite numbers"),
    ('{"type": "slide", "number": 0, "value": 1e999}', "value: a finite number"),
    ('{"type": "slide", "number": 0, "value": true}', "value: a finite number"),
    ('{"type": "slide", "number": 0.5, "value": 1}', "number: a whole number"),
    ('{"type": "horizon", "steps": true}', "steps: a whole number"),
    ('{"type": "horizon", "steps": 12345678901}', "steps: a whole number"),
    ('{"type": "pause", "on": 1}', "on: true or false"),
    ('{"type": "pause"}', "on: true or false"),
    ('{"type": "press", "key": 7}', "key: a short text"),
    ('{"type": "press", "key": "' + "x" * 33 + '"}', "key: a short text"),
    ('{"type": "reset", "folder": "/etc"}', "no other fields"),
    ('{"type": "record", "on": true, "path": "/etc"}', "must have on: true or false"),
    ('{"type": "close"}', "a type that is known"),
    ('{"type": ["reset"]}', "a type that is known"),
    ("[1, 2]", "a type that is known"),
    ("null", "a type that is known"),
    ('{"type": "reset"' + " " * LONGEST + "}", f"at most {LONGEST} characters"),
]


@pytest.mark.parametrize(("text", "rule"), BAD)
def test_what_is_no_message_is_refused(text, rule):
    with pytest.raises(MessageError) as error:
        read_message(text)
    assert rule in str(error.value)


def test_messages_name_no_paths():
    assert {field for fields, _ in MESSAGES.values() for field in fields} == {
        "key",
        "number",
        "value",
        "on",
        "fps",
        "steps",
    }


def test_the_game_goes_on_after_what_is_no_message(port):
    with Client(port) as client:
        for text, rule in BAD:
            client.socket.send(text)
            client.told(rule)
        client.socket.send(b"\x00\x01")
        client.told("must be text, not bytes")
        client.say("press", key="KeyQ")
        client.told("key must be one of ArrowLeft, ArrowRight")
        client.say("record", on=True)
        client.told("nothing can be recorded")
        client.say("horizon", steps=-1)
        client.told("horizon must be 1 to")
        assert client.frame()[0]["stepped"]


def test_of_too_many_messages_some_are_left_out(port):
    with Client(port) as client:
        client.frame(ack=False)
        for _ in range(MOST_WAITING + 1):
            client.say("step")
        client.say("ack", frame=1)
        client.told("messages came between two steps")


def test_a_huge_message_ends_its_own_connection_alone(port):
    with Client(port) as client, Client(port) as other:
        client.socket.send("x" * 10_000)
        assert client.gone() == ""
        assert other.frame()[0]["step"] == 1


# Who plays


def test_two_clients_play_two_games(port):
    with Client(port) as one, Client(port) as two:
        one.say("press", key="ArrowRight")
        assert one.until(lambda header: header["action"] == [2.0])["dream"]["reward"] > 10.0
        one.say("pause", on=True)
        one.until(lambda header: header["paused"])
        for _ in range(3):
            header, _ = two.frame()
        assert (header["step"], header["paused"], header["dream"]["reward"]) == (3, False, 10.0)


def test_there_are_places_for_a_few_and_a_dropped_connection_frees_its_own(caplog):
    with serving(walk(Real, fps=60)) as port:
        clients = [Client(port) for _ in range(MOST_SESSIONS)]
        refused = Client(port)
        assert refused.hello["type"] == "refused"
        assert f"{MOST_SESSIONS} are playing already" in refused.hello["text"]
        assert refused.gone() == ""
        clients[0].frame(ack=False)
        clients[0].socket.socket.close()  # no goodbye
        clients[1].frame()
        for _ in range(100):
            late = Client(port)
            if late.hello["type"] == "hello":
                break
            time.sleep(0.1)
        assert late.frame()[0]["step"] == 1
        assert clients[1].frame()[0]["step"] == 2
        for client in [*clients[1:], late]:
            client.socket.close()
    assert caplog.text == ""


def test_a_session_is_closed_with_its_connection(tmp_path):
    made = []

    def real():
        made.append(Real())
        return made[-1]

    with serving(walk(real, record=tmp_path)) as port, Client(port) as client:
        client.say("record", on=True)
        client.until(lambda header: header["recording"])
    assert made[-1].closed
    assert (tmp_path / "play-0001" / "play.gif").is_file()


def test_one_that_thinks_keeps_nobody_waiting():
    thinks, goes_on = threading.Event(), threading.Event()

    def policy(obs, memory, begins, deterministic):
        thinks.set()
        assert goes_on.wait(WAIT)
        return np.zeros(1, np.float32), None

    with serving(walk(policy=policy)) as port, Client(port) as slow, Client(port) as other:
        slow.say("policy", on=True)
        slow.frame()
        assert thinks.wait(WAIT)
        assert other.frame()[0]["step"] == 1
        assert page(port)[0] == 200
        goes_on.set()
        slow.until(lambda header: header["policy"])


def test_a_session_that_breaks_ends_alone(caplog):
    def policy(*arguments):
        raise RuntimeError("broken")

    with serving(walk(policy=policy)) as port, Client(port) as broken, Client(port) as other:
        broken.frame()
        broken.say("policy", on=True)
        assert "ended by an error" in broken.gone()
        assert other.frame()[0]["step"] == 1
    assert "broken" in caplog.text


def test_a_game_that_cannot_begin_says_so(caplog):
    with serving(walk(partial(Real, steps=1), context=3)) as port:
        client = Client(port)
        assert client.hello == {"type": "refused", "text": "the session ended by an error: the terminal says which"}
        assert client.gone() == ""
    assert "no real episode lasted" in caplog.text
