"""A headless Chromium, driven over the pipe of its DevTools protocol: no port, no package, no process left behind.

    with Browser(find()) as browser:
        page = browser.open(path)
        page.wait("document.title")
        page.value("1 + 1")

Commands go in through file descriptor 3 and answers and events come out of 4, as JSON that ends with a zero byte.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PATIENCE = 90.0  # seconds that any one thing may take on a slow and busy machine
# Puts the pipe's ends at descriptors 3 and 4 (they come in at 10 and above) and becomes the browser.
BECOME = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execvp(sys.argv[3], sys.argv[3:])"
)
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe"),
    *("--no-first-run", "--no-default-browser-check", "--disable-extensions", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--metrics-recording-only", "--mute-audio", "--hide-scrollbars"),
    *("--disable-background-timer-throttling", "--disable-renderer-backgrounding", "--disable-breakpad"),
    *("--force-color-profile=srgb", "--password-store=basic", "--use-mock-keychain"),
)


def find() -> str | None:
    """The browser to test with: $BROWSER if that is of the Chromium family, else the first on the path, else None."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    for name in (os.environ.get("BROWSER", ""), *names):
        if any(kind in name.lower() for kind in ("chrom", "edge")) and (found := shutil.which(name)):
            return found
    return None


class Browser:
    """A browser with a profile of its own, both gone after `close` (or the end of a `with` block)."""

    def __init__(self, program: str) -> None:
        self.profile = tempfile.mkdtemp(prefix="report-browser-")
        their_input, self._out = _high(os.pipe())
        self._in, their_output = _high(os.pipe())
        environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
        command = [program, *FLAGS, f"--user-data-dir={self.profile}", "about:blank"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", BECOME, str(their_input), str(their_output), *command],
            pass_fds=(their_input, their_output),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=environment | {"HOME": self.profile},
        )
        os.close(their_input)
        os.close(their_output)
        os.set_blocking(self._in, False)
        self._ready = selectors.DefaultSelector()
        self._ready.register(self._in, selectors.EVENT_READ)
        self._rest = b""
        self._number = 0
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def send(self, method: str, parameters: dict[str, Any] | None = None, session: str | None = None) -> dict[str, Any]:
        """The result of a command; events that come before it are kept in `events`."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters or {}}
        if session is not None:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data) :]
        until = time.monotonic() + PATIENCE
        while True:
            answer = self._receive(until, method)
            if answer.get("id") != self._number:
                self.events.append(answer)
            elif "error" in answer:
                raise RuntimeError(f"{method}: {answer['error']['message']}")
            else:
                return answer["result"]

    def _receive(self, until: float, what: str) -> dict[str, Any]:
        while b"\0" not in self._rest:
            if not self._ready.select(max(0.0, until - time.monotonic())):
                raise TimeoutError(f"the browser did not answer {what} within {PATIENCE:.0f} s")
            chunk = os.read(self._in, 1 << 20)
            if not chunk:
                raise RuntimeError(f"the browser ended during {what} (exit status {self._process.poll()})")
            self._rest += chunk
        message, self._rest = self._rest.split(b"\0", 1)
        return json.loads(message)

    def open(
        self, path: Path, *, width: int = 1200, height: int = 900, dark: bool = False, script: bool = True
    ) -> Page:
        """A new tab that has loaded the file `path`."""
        target = self.send("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self.send("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        page = Page(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.send(f"{domain}.enable")
        page.size(width, height)
        page.dark(dark)
        if not script:
            page.send("Emulation.setScriptExecutionDisabled", {"value": True})
        page.send("Page.navigate", {"url": path.resolve().as_uri()})
        page.until(lambda: any(e["method"] == "Page.loadEventFired" for e in page.events()), "the page to load")
        return page

    def close(self) -> None:
        """End the browser and everything it started, and remove its profile."""
        with contextlib.suppress(OSError, RuntimeError, TimeoutError):
            self.send("Browser.close")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for handle in (self._in, self._out):
            os.close(handle)
        self._ready.close()
        until = time.monotonic() + PATIENCE
        while self.processes() and time.monotonic() < until:
            time.sleep(0.02)
        shutil.rmtree(self.profile, ignore_errors=True)

    def processes(self) -> list[int]:
        """Processes that name this browser's profile (where there is /proc to look)."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if self.profile.encode() in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
        return found


class Page:
    """A tab: what it says to the console, what it asks of the network, and what a user can do to it."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session

    def send(self, method: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
        return self._browser.send(method, parameters, self._session)

    def events(self) -> list[dict[str, Any]]:
        return [e for e in self._browser.events if e.get("sessionId") == self._session]

    def complaints(self) -> list[str]:
        """Exceptions, and what was written to the console or the log of the browser."""
        self.value("0")  # what was under way is there now
        kinds = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [json.dumps(e["params"]) for e in self.events() if e["method"] in kinds]

    def requests(self) -> list[str]:
        """Addresses asked for since the tab was opened."""
        self.value("0")
        return [e["params"]["request"]["url"] for e in self.events() if e["method"] == "Network.requestWillBeSent"]

    def value(self, expression: str) -> Any:
        """The value of a JavaScript expression (of a promise, what it becomes)."""
        options = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        result = self.send("Runtime.evaluate", options)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def wait(self, expression: str) -> Any:
        """The value of `expression` once it is true."""
        found: list[Any] = []

        def true() -> bool:
            found[:] = [self.value(expression)]
            return bool(found[0])

        self.until(true, expression)
        return found[0]

    def until(self, condition: Any, what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {PATIENCE:.0f} s in vain for {what}")
            self.send("Page.getLayoutMetrics")  # lets events in
            time.sleep(0.01)

    def press(self, key: str, code: int, text: str = "") -> None:
        """Press and release a key, on whatever has the focus."""
        about = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": code}
        self.send("Input.dispatchKeyEvent", {"type": "keyDown", **about, **({"text": text} if text else {})})
        self.send("Input.dispatchKeyEvent", {"type": "keyUp", **about})

    def click(self, selector: str) -> None:
        """Click with the mouse on the middle of an element."""
        at = self.value(
            "(e => { e.scrollIntoView({block: 'center'}); const b = e.getBoundingClientRect();"
            "return {x: b.x + b.width / 2, y: b.y + b.height / 2}; })"
            f"(document.querySelector({json.dumps(selector)}))"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", {"type": kind, "button": "left", "clickCount": 1, **at})

    def size(self, width: int, height: int, *, phone: bool = False) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self.send("Emulation.setDeviceMetricsOverride", metrics)

    def dark(self, on: bool) -> None:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if on else "light"}
        self.send("Emulation.setEmulatedMedia", {"features": [scheme]})

    def picture(self, *, whole: bool = False) -> bytes:
        """A screenshot as PNG."""
        return base64.b64decode(self.send("Page.captureScreenshot", {"captureBeyondViewport": whole})["data"])


def _high(pipe: tuple[int, int]) -> tuple[int, int]:
    """The same pipe at descriptors from 10 on, clear of those that the browser wants."""
    moved = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in pipe]
    for end in pipe:
        os.close(end)
    return moved[0], moved[1]
