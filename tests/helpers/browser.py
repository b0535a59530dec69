"""A headless Chromium for tests, driven over the DevTools protocol through two pipes: nothing to install beside it.

The browser is the one that DINOBENCH_CHROMIUM names, or one on PATH.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium-headless-shell", "chrome-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")
SWITCHES = (
    "--headless", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
    "--disable-extensions", "--disable-background-networking", "--disable-component-update", "--no-first-run",
    "--hide-scrollbars", "--force-color-profile=srgb",
)  # fmt: skip
#: The browser reads commands from file descriptor 3 and answers on 4; Python takes care that they are the right ones.
LAUNCH = "import os, sys; r, w = map(int, sys.argv[1:3]); os.dup2(r, 103); os.dup2(w, 104); os.dup2(103, 3); "
LAUNCH += "os.dup2(104, 4); os.execv(sys.argv[3], sys.argv[3:])"
#: Seconds for an answer; a cold start on a busy machine takes the longest.
PATIENCE = 60.0


def find() -> str | None:
    """The browser's path, or None where there is none."""
    if chosen := os.environ.get("DINOBENCH_CHROMIUM"):
        return shutil.which(chosen)
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """One page in a browser of its own; `console` and `requests` fill while commands are answered."""

    def __init__(self, browser: str, width: int = 1400, height: int = 900, dark: bool = False) -> None:
        self.profile = tempfile.mkdtemp(prefix="dinobench-browser-")
        theirs, self.commands = os.pipe()
        self.answers, back = os.pipe()
        line = [sys.executable, "-c", LAUNCH, str(theirs), str(back), browser, *SWITCHES]
        environment = {**os.environ, "HOME": self.profile}  # crash reports and settings go nowhere else
        self.process = subprocess.Popen(
            [*line, f"--user-data-dir={self.profile}", "about:blank"],
            pass_fds=(theirs, back), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment,
        )  # fmt: skip
        os.close(theirs)
        os.close(back)
        self.buffer = b""
        self.count = 0
        self.session: str | None = None
        self.events: list[dict[str, Any]] = []
        [target] = [t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page"][:1]
        self.session = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.resize(width, height)
        self.dark(dark)

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(10)
        os.close(self.commands)
        os.close(self.answers)
        shutil.rmtree(self.profile, ignore_errors=True)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer; events that come before it are kept."""
        self.count += 1
        message: dict[str, Any] = {"id": self.count, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + PATIENCE
        while True:
            answer = self._receive(until, method)
            if answer.get("id") == self.count:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return dict(answer["result"])
            self.events.append(answer)

    def _receive(self, until: float, what: str) -> dict[str, Any]:
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.answers], [], [], max(0.0, until - time.monotonic()))
            assert ready, f"the browser did not answer {what} within {PATIENCE:.0f} s"
            part = os.read(self.answers, 1 << 20)
            assert part, f"the browser ended before it answered {what} (exit code {self.process.poll()})"
            self.buffer += part
        line, self.buffer = self.buffer.split(b"\0", 1)
        return dict(json.loads(line))

    def open(self, path: Path, fragment: str = "") -> None:
        """Load a file and wait until it has loaded."""
        self.call("Page.navigate", url=path.resolve().as_uri() + (f"#{fragment}" if fragment else ""))
        until = time.monotonic() + PATIENCE
        while not any(e.get("method") == "Page.loadEventFired" for e in self.events):
            self.events.append(self._receive(until, "loading"))

    def js(self, expression: str) -> Any:
        """The value of an expression in the page; its exceptions are failures."""
        done = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def press(self, key: str) -> None:
        """A key of the keyboard, to whatever has the focus."""
        text = {"Enter": "\r", " ": " "}.get(key, "")
        code = {"Enter": 13, " ": 32, "Tab": 9}[key]
        common = {"key": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def resize(self, width: int, height: int) -> None:
        phone = width < 500
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone
        )  # fmt: skip

    def dark(self, on: bool) -> None:
        """The colours that the system asks for."""
        feature = {"name": "prefers-color-scheme", "value": "dark" if on else "light"}
        self.call("Emulation.setEmulatedMedia", features=[feature])

    def screenshot(self, path: Path, whole: bool = False) -> None:
        done = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(done["data"]))

    def pdf(self, path: Path) -> None:
        done = self.call(
            "Page.printToPDF", printBackground=False, preferCSSPageSize=True, paperWidth=8.27, paperHeight=11.69
        )
        path.write_bytes(base64.b64decode(done["data"]))

    def complaints(self) -> list[str]:
        """What the page wrote to the console, what it threw, and what the browser logged against it."""
        found = []
        for event in self.events:
            about = event.get("params", {})
            if event.get("method") == "Runtime.consoleAPICalled":
                found.append(str(about["args"]))
            elif event.get("method") == "Runtime.exceptionThrown":
                found.append(str(about["exceptionDetails"]))
            elif event.get("method") == "Log.entryAdded":
                found.append(about["entry"]["text"])
        return found

    def requests(self) -> list[str]:
        """The addresses asked for, those inside the page (data:) left out."""
        sent = [e["params"]["request"]["url"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        return [url for url in sent if not url.startswith("data:")]


if __name__ == "__main__":
    print(find() or "")
    sys.exit(not find())
