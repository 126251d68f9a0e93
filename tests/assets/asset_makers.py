# SPDX-License-Identifier: Apache-2.0
"""Carriers, catalogues and a web server that misbehaves on request, all on this machine."""

import hashlib
import io
import os
import tarfile
import threading
import types
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from medrecon.assets.catalogue import Asset, Carrier, License, Url
from medrecon.plugins import hookimpl
from medrecon.plugins.manager import Plugins

CONTENT = bytes(range(256)) * 300
TERMS = License("my-terms", "My Terms", "Me", "Look, do not touch.", "https://example.org/terms")


def isolate(tmp_path, monkeypatch):
    """A home of our own, and a pip that knows no index but the folder ``links``."""
    monkeypatch.setenv("MEDRECON_HOME", str(tmp_path / "home"))
    (tmp_path / "links").mkdir()
    for name in list(os.environ):
        if name.startswith("PIP_") or name.lower() in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "links"))


def wheel(path, members):
    info = "carrier-1.0.dist-info"
    members = {
        **members,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: carrier\nVersion: 1.0\nRequires-Python: >=99\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    file = path / "carrier-1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as z:
        for name, data in members.items():
            z.writestr(name, data)
    return file


def sdist(path, members):
    file = path / "carrier-1.0.tar.gz"
    with tarfile.open(file, "w:gz") as t:
        for name, data in members.items():
            info = tarfile.TarInfo(f"carrier-1.0/{name}")
            info.size = len(data)
            t.addfile(info, io.BytesIO(data))
    return file


def sha(data):
    return hashlib.sha256(data).hexdigest()


def carrier(file, member="carrier/w.bin", archive_sha=None):
    kind = "wheel" if file.suffix == ".whl" else "sdist"
    return Carrier("carrier", "1.0", kind, archive_sha or sha(file.read_bytes()), member, file.stat().st_size)


def thing(*sources, name="thing", content=CONTENT, digest=None, acceptance=None, kind="weights"):
    return Asset(name, kind, "a thing", "MIT", "", len(content), digest or sha(content), sources, acceptance)


def offer(monkeypatch, *entries):
    """Make these the whole catalogue."""
    plugin = types.ModuleType("a_plugin")
    plugin.medrecon_assets = hookimpl(lambda: [TERMS, *entries])
    plugin.medrecon_assets.__name__ = "medrecon_assets"
    monkeypatch.setattr("medrecon.builtins.ASSETS", ())
    monkeypatch.setattr("medrecon.builtins.shipped_assets", list)
    registry = Plugins([("makers", "tests 1.0", lambda: plugin)])
    assert registry.problems == []
    monkeypatch.setattr("medrecon.plugins.manager.plugins", lambda: registry)


def official(server, name="w.bin"):
    return Url(server.url(f"/official/{name}"))


def kept(home):
    """Names of the files below the home that are no assets."""
    files = [p for p in home.rglob("*") if p.is_file() or p.name.startswith(".")] if home.exists() else []
    return sorted(p.name for p in files if "assets" not in p.relative_to(home).parts)


class FileServer:
    """Serves ``files`` {path: bytes}.

    Attributes:
        log: (path, Range header, Authorization header) of every request.
        ranges: whether Range is honoured.
        cuts: bytes after which the next responses with a body of a file break off, one each, None = whole.
        hang: paths that accept and never answer.
        redirects: path -> address.
    """

    def __init__(self):
        self.files, self.log, self.ranges, self.cuts, self.hang = {}, [], True, [], set()
        self.redirects = {}
        self._stop = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer._answer(self)

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def url(self, path="", user=""):
        return f"http://{user}127.0.0.1:{self.http.server_port}{path}"

    def index(self, monkeypatch, file, user="", links=None):
        """Be the package index that has this archive."""
        monkeypatch.delenv("PIP_NO_INDEX", raising=False)
        monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
        monkeypatch.setenv("PIP_INDEX_URL", self.url("/simple", user))
        self.files[f"/files/{file.name}"] = file.read_bytes()
        links = links or [f"../../files/{file.name}#sha256={sha(file.read_bytes())}"]
        self.files["/simple/carrier/"] = "".join(f'<a href="{x}">{x}</a>' for x in links).encode()

    def close(self):
        self._stop.set()
        self.http.shutdown()
        self.http.server_close()

    def paths(self):
        return [path for path, *_ in self.log]

    def _answer(self, request):
        wanted = request.headers.get("Range")
        self.log.append((request.path, wanted, request.headers.get("Authorization")))
        if request.path in self.hang:
            self._stop.wait(30)
            return
        if request.path in self.redirects:
            request.send_response(302)
            request.send_header("Location", self.redirects[request.path])
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        body = self.files.get(request.path)
        if body is None:
            request.send_error(404)
            return
        first = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.ranges else 0
        if first and first >= len(body):
            request.send_error(416)
            return
        request.send_response(206 if first else 200)
        request.send_header("Content-Type", "text/html" if request.path.endswith("/") else "application/octet-stream")
        request.send_header("Content-Length", str(len(body) - first))
        if first:
            request.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
        request.end_headers()
        cut = self.cuts.pop(0) if self.cuts and not request.path.endswith("/") else None
        request.wfile.write(body[first:] if cut is None else body[first : first + cut])
