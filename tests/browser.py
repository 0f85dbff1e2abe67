"""A real Chromium without a window, spoken to through the DevTools protocol over two pipes."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")

OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-extensions",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-breakpad",
    "--disable-crash-reporter",
    "--remote-debugging-pipe",
)

START = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
for wanted, end in zip((3, 4), ends):
    os.dup2(end, wanted)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Starts the browser, which reads commands from descriptor 3 and writes answers to 4."""

PATIENCE = 60
"""Seconds after which a browser counts as stuck."""


class PageError(AssertionError):
    """A script of the page raised an error, or the page did not answer."""


class Browser:
    """One tab."""

    def __init__(self, to: int, answers: int) -> None:
        self._to, self._answers, self._rest, self._number = to, answers, b"", 0
        self.console: list[str] = []
        """Errors and warnings of the console, and exceptions of scripts."""
        self.requests: list[str] = []
        """Addresses that were requested."""
        self._events: list[dict[str, Any]] = []
        target = self._send("Target.createTarget", url="about:blank")["targetId"]
        attached = self._send("Target.attachToTarget", targetId=target, flatten=True)
        self._session: str | None = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._send(f"{domain}.enable")

    _session: str | None = None

    def open(self, path: Path, hash_: str = "") -> None:
        """Open a file, and wait until it is loaded."""
        for address in ("about:blank", f"{path.resolve().as_uri()}{hash_}"):
            self._events.clear()
            self._send("Page.navigate", url=address)
            self._wait_for("Page.loadEventFired")

    def run(self, script: str) -> Any:
        """The value of an expression, or of the promise that it is, as JSON has it."""
        found = self._send(
            "Runtime.evaluate",
            expression=script,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        if "exceptionDetails" in found:
            details = found["exceptionDetails"]
            thrown = details.get("exception", {}).get("description") or details["text"]
            raise PageError(f"{script}: {thrown}")
        return found["result"].get("value")

    def wait_until(self, script: str, seconds: float = 20) -> Any:
        """Wait until an expression is true."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            value = self.run(script)
            if value:
                return value
            time.sleep(0.02)
        raise PageError(f"not true within {seconds} s: {script}")

    def key(self, key: str) -> None:
        """Press and release a key."""
        text = {"text": key} if len(key) == 1 else {}
        code = {"Enter": 13, "Escape": 27, "Tab": 9}
        text = {"text": "\r"} if key == "Enter" else text
        common = {"key": key, "windowsVirtualKeyCode": code.get(key, 0)}
        self._send("Input.dispatchKeyEvent", type="keyDown", **common, **text)
        self._send("Input.dispatchKeyEvent", type="keyUp", **common)

    def show(self, width: int, height: int, *, dark: bool = False, phone: bool = False) -> None:
        """Set the size of the window, and whether the page is dark."""
        self._send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=phone,
        )
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._send("Emulation.setEmulatedMedia", features=scheme)

    def screenshot(self, path: Path) -> None:
        """Write what is seen as PNG."""
        data = self._send("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(data))

    def _send(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise PageError(f"{method}: {answer['error']['message']}")
                result: dict[str, Any] = answer["result"]
                return result
            self._note(answer)

    def _wait_for(self, event: str) -> None:
        while not any(one["method"] == event for one in self._events):
            self._note(self._read())

    def _note(self, event: dict[str, Any]) -> None:
        self._events.append(event)
        method, found = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            details = found["exceptionDetails"]
            self.console.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Runtime.consoleAPICalled" and found["type"] in ("error", "warning"):
            self.console.append(str([one.get("value") for one in found["args"]]))
        elif method == "Log.entryAdded" and found["entry"]["level"] in ("error", "warning"):
            self.console.append(found["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(found["request"]["url"])

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            if not select.select([self._answers], [], [], PATIENCE)[0]:
                raise PageError(f"the browser has not answered for {PATIENCE} s")
            more = os.read(self._answers, 1 << 20)
            if not more:
                raise PageError("the browser has ended")
            self._rest += more
        message, _, self._rest = self._rest.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer


@contextmanager
def chromium(*options: str) -> Iterator[Browser]:
    """A browser with one tab, started with more options; skips the test where there is none."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None or os.name != "posix":
        pytest.skip("needs Chromium")
    commands, to = os.pipe()
    answers, back = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [program, *OPTIONS, *options, f"--user-data-dir={profile}"]
        process = subprocess.Popen(
            [sys.executable, "-c", START, str(commands), str(back), *command],
            pass_fds=(commands, back),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "HOME": profile},
        )
        os.close(commands)
        os.close(back)
        try:
            yield Browser(to, answers)
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # it has several processes
            os.close(to)
            os.close(answers)
            process.wait(20)
