"""A headless Chromium, driven over its DevTools protocol by a plain WebSocket."""

import json
import os
import shutil
import subprocess
import time
import urllib.request
from contextlib import contextmanager

from websockets.sync.client import connect

NAMES = ("chromium", "chromium-browser", "google-chrome")


def find_chromium():
    """The browser that $CHROMIUM names, or the first one in the path; None where there is none."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


def until(condition, seconds=20.0, what="condition"):
    """The first true value of ``condition()``; fails where none comes."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"{what} did not come true within {seconds} s")


class Tab:
    """A page, and what its console said."""

    def __init__(self, url):
        self._socket = connect(url, max_size=2**26, ping_interval=None).__enter__()
        self._count = 0
        self.errors = []
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        """The result of a command; events on the way are looked at for errors."""
        self._count += 1
        self._socket.send(json.dumps({"id": self._count, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(timeout=20))
            if message.get("id") == self._count:
                assert "error" not in message, message
                return message["result"]
            self._note(message)

    def _note(self, event):
        method, params = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.errors.append(params["exceptionDetails"])
        if method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"])
        if method == "Runtime.consoleAPICalled" and params["type"] == "error":
            self.errors.append(params["args"])

    def open(self, url):
        self.call("Page.navigate", url=url)
        until(lambda: self.value("document.readyState == 'complete' && location.href") == url, what="loading")

    def value(self, expression):
        """The JSON value of a JavaScript expression."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def text(self, element):
        return self.value(f"document.getElementById({element!r}).textContent")

    def click(self, element):
        self.value(f"document.getElementById({element!r}).click()")

    def key(self, code, down):
        self.call("Input.dispatchKeyEvent", type="rawKeyDown" if down else "keyUp", code=code, key=code)

    def size(self, width, height, dark=False):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def close(self):
        self._socket.close()


class Browser:
    def __init__(self, port):
        self._port = port

    def tab(self):
        """A new page."""
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}/json/new?about:blank", method="PUT")
        with urllib.request.urlopen(request, timeout=20) as answer:
            return Tab(json.load(answer)["webSocketDebuggerUrl"])


@contextmanager
def browser(binary, folder):
    """A running browser with a profile of its own in ``folder``."""
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    options += ["--remote-debugging-port=0", f"--user-data-dir={folder}", "--window-size=1280,1000"]
    process = subprocess.Popen([binary, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port_file = folder / "DevToolsActivePort"
        until(lambda: port_file.is_file() and port_file.read_text().count("\n"), 40, "the browser's start")
        yield Browser(int(port_file.read_text().split()[0]))
    finally:
        process.terminate()
        process.wait(20)
