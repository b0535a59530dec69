"""A Hugging Face hub on loopback: the few routes that its client asks for files by, and their refusals."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save as safetensors

ROUTE = re.compile(r"/(?P<model>[\w.-]+/[\w.-]+)/resolve/(?P<revision>[^/]+)/(?P<file>[\w.-]+)")


def commit(name: str) -> str:
    """A commit's forty digits, made of any word."""
    return hashlib.sha1(name.encode()).hexdigest()


@dataclass
class Hub:
    """Models by name, each with its files by commit; `main` is the commit last added."""

    url: str = ""
    models: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    revisions: dict[str, dict[str, str]] = field(default_factory=dict)
    gated: dict[str, int] = field(default_factory=dict)  # status with which a model is refused
    broken: dict[str, int] = field(default_factory=dict)  # status of a server in trouble
    slow: float = 0.0  # seconds between two pieces of a file
    asked: list[tuple[str, str]] = field(default_factory=list)  # method and path of each request

    def add(self, model: str, files: dict[str, bytes], revision: str = "main") -> str:
        """Returns the commit under which the files are to be had, beside `revision` and its first seven digits."""
        sha = commit(f"{model} {revision} {sorted(files)} {len(self.models.get(model, {}))}")
        self.models.setdefault(model, {})[sha] = files
        self.revisions.setdefault(model, {}).update({revision: sha, sha: sha, sha[:7]: sha})
        return sha

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        match = ROUTE.fullmatch(path.partition("?")[0])
        if match is None or match["model"] not in self.models:
            return 401, {"X-Error-Code": "RepoNotFound"}, b""  # the hub does not tell strangers what is not there
        if status := self.broken.get(match["model"]):
            return status, {}, b""
        if status := self.gated.get(match["model"]):
            return status, {"X-Error-Code": "GatedRepo"}, b""
        sha = self.revisions[match["model"]].get(match["revision"])
        if sha is None:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        headers = {"X-Repo-Commit": sha}
        content = self.models[match["model"]][sha].get(match["file"])
        if content is None:
            return 404, {**headers, "X-Error-Code": "EntryNotFound"}, b""
        return 200, {**headers, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}, content

    @property
    def fetched(self) -> list[str]:
        """Names of the files that were sent, in order."""
        return [path.rpartition("/")[2] for method, path in self.asked if method == "GET"]


@contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._send(body=False)

        def do_GET(self) -> None:
            self._send(body=True)

        def _send(self, body: bool) -> None:
            if ROUTE.fullmatch(self.path):  # the rest are the client's own affairs
                hub.asked.append((self.command, self.path))
            status, headers, content = hub.answer(self.path)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if not body:
                return
            try:
                step = 1 << 16 if hub.slow else max(len(content), 1)
                for start in range(0, len(content), step):
                    self.wfile.write(content[start : start + step])
                    time.sleep(hub.slow)
            except OSError:  # who asked is gone
                self.close_connection = True

        def log_message(self, *args: Any) -> None: ...

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

    server = Server(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def go_online(monkeypatch: pytest.MonkeyPatch, url: str, cache: Path) -> None:
    """Let the hub's client of this process ask `url`, and keep what it gets in `cache`."""
    from huggingface_hub import constants

    for name, value in (("ENDPOINT", url), ("HF_HUB_OFFLINE", False), ("HF_HUB_CACHE", str(cache))):
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    for variable in ("HF_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)


def online(url: str, cache: Path) -> dict[str, str]:
    """The same for a command's environment."""
    return {"HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0", "HF_HUB_CACHE": str(cache), "NO_PROXY": "127.0.0.1"}


def sharded(tensors: dict[str, Any], parts: int = 2) -> dict[str, bytes]:
    """Tensors as a sharded save: the parts and their index, by file name."""
    names = sorted(tensors)
    files, places = {}, {}
    for i in range(parts):
        part = f"model-{i + 1:05}-of-{parts:05}.safetensors"
        mine = names[i::parts]
        files[part] = safetensors({n: tensors[n].contiguous() for n in mine})
        places |= dict.fromkeys(mine, part)
    index = {"metadata": {"total_size": 0}, "weight_map": places}
    return {**files, "model.safetensors.index.json": json.dumps(index).encode()}
