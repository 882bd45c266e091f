"""A Hugging Face Hub on this machine: repositories in memory, over the part of the Hub's HTTP protocol that its clients use.

``huggingface_hub``, ``datasets``, ``transformers`` and SAELens reach it through ``HF_ENDPOINT``. It answers as the Hub does in
what clients depend on: a commit for every revision, ETags, ranges, a redirect for large files, the codes in ``X-Error-Code``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

#: Files with these endings are large files (LFS), whatever their size: the Hub redirects to where they are stored.
LARGE = (".safetensors", ".parquet", ".npz", ".pt", ".bin")

_API = re.compile(r"/api/(models|datasets)/(.+?)(?:/(revision|tree|paths-info|preupload|commit)/([^/]+)(?:/(.*))?)?")
_RESOLVE = re.compile(r"/(datasets/)?([^/]+(?:/[^/]+)?)/resolve/([^/]+)/(.+)")
_LFS_BATCH = re.compile(r"/(?:datasets/)?(.+)\.git/info/lfs/objects/batch")
_STORED = re.compile(r"/stored/([0-9a-f]{64})")


@dataclass
class Repository:
    """A repository: its commits by hash, and the commit of every branch.

    ``gated``: files are given only to users in ``accepted``; what there is can be seen by all, as on the Hub.
    """

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    accepted: tuple[str, ...] = ()

    def commit(self, files: Mapping[str, bytes], branch: str = "main") -> str:
        """Make these the files of a branch and return the hash of the commit."""
        digest = hashlib.sha1(repr((len(self.commits), sorted(files))).encode())
        for name in sorted(files):
            digest.update(files[name])
        self.commits[digest.hexdigest()] = dict(files)
        self.branches[branch] = digest.hexdigest()
        return digest.hexdigest()

    def hash_of(self, revision: str) -> str | None:
        """The commit that a branch or a hash stands for."""
        return self.branches.get(revision, revision if revision in self.commits else None)


@dataclass
class Fault:
    """What goes wrong: requests whose path matches ``pattern`` are refused with ``status``, or their answer is ``cut``.

    ``times``: how many requests it happens to; ``kept``: the share of the answer that arrives.
    """

    pattern: str
    times: int
    status: int | None = None
    cut: bool = False
    kept: float = 0.5
    headers: Mapping[str, str] = field(default_factory=dict)


class Problem(Exception):
    """An answer that is an error: its status, and the code that clients tell errors apart by."""

    def __init__(self, status: int, code: str = "", message: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message = status, message
        self.headers = {**({"X-Error-Code": code} if code else {}), "X-Error-Message": message, **(headers or {})}


class Hub:
    """The server with its repositories; runs in threads until :meth:`stop`.

    Attributes:
        repositories: by ``("models" | "datasets", name)``.
        users: user names by token.
        requests: methods and paths of what was asked, in order.
        statuses: of the answers.
    """

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.users: dict[str, str] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.statuses: list[int] = []
        self.connections: set[socket.socket] = set()
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self.port = 0
        self.start()
        self.url = f"http://127.0.0.1:{self.port}"
        self.storage = f"http://localhost:{self.port}/stored"  # another host, as the Hub's: clients keep their token from it

    def start(self) -> None:
        """Open the port, the same as before if there was one."""
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), _Handler)
        self._server.daemon_threads = True
        self._server.hub = self  # type: ignore[attr-defined]
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def add(self, kind: str, name: str, files: Mapping[str, bytes] | Path, **settings: Any) -> Repository:
        """Make a repository of files by path, or of those in a folder."""
        if isinstance(files, Path):
            files = {path.relative_to(files).as_posix(): path.read_bytes() for path in files.rglob("*") if path.is_file()}
        repository = Repository(**settings)
        repository.commit(files)
        self.repositories[kind, name] = repository
        return repository

    @contextmanager
    def fault(self, pattern: str, times: int = 1_000, **settings: Any) -> Iterator[Fault]:
        """A :class:`Fault` for the length of the block."""
        fault = Fault(pattern, times, **settings)
        self._faults.append(fault)
        try:
            yield fault
        finally:
            self._faults.remove(fault)

    def note(self, method: str, path: str) -> Fault | None:
        """Record a request, and say what goes wrong with it."""
        with self._lock:
            self.requests.append((method, path))
            for fault in self._faults:
                if fault.times > 0 and re.search(fault.pattern, path) and not (fault.cut and method == "HEAD"):
                    fault.times -= 1
                    return fault
        return None

    def stop(self) -> None:
        """Close the port and the open connections: nobody reaches the Hub."""
        self._server.shutdown()
        self._server.server_close()
        for connection in list(self.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """The block finds no Hub."""
        self.stop()
        try:
            yield
        finally:
            self.start()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def setup(self) -> None:
        super().setup()
        self.hub.connections.add(self.connection)

    def finish(self) -> None:
        self.hub.connections.discard(self.connection)
        with suppress(OSError):  # the client has gone
            super().finish()

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_HEAD(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def do_PUT(self) -> None:
        self._answer(self._put)

    def log_message(self, *_: Any) -> None:
        """Nothing is logged; :attr:`Hub.requests` has the requests."""

    @property
    def hub(self) -> Hub:
        return self.server.hub

    @property
    def user(self) -> str | None:
        return self.hub.users.get(self.headers.get("Authorization", "").removeprefix("Bearer "))

    def _answer(self, method: Any) -> None:
        self._body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._fault = self.hub.note(self.command, self.path)
        try:
            if self._fault is not None and self._fault.status is not None:
                raise Problem(self._fault.status, message="", headers=self._fault.headers)
            if self.user is None and "Authorization" in self.headers:
                raise Problem(401, message="Invalid credentials in Authorization header")
            method(urlsplit(self.path).path)
        except Problem as problem:
            self._send(json.dumps({"error": problem.message}).encode(), problem.headers, problem.status)

    def _send(self, data: bytes, headers: Mapping[str, str] | None = None, status: int = 200) -> None:
        headers = {"Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})}
        self.hub.statuses.append(status)
        self.send_response(status, HTTPStatus(status).phrase)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self._fault is not None and self._fault.cut:
            self.wfile.write(data[: int(len(data) * self._fault.kept)])
            self.close_connection = True
        else:
            self.wfile.write(data)

    def _send_json(self, value: Any) -> None:
        self._send(json.dumps(value).encode())

    # ------------------------------------------------------------------------------------------------------ reading

    def _get(self, path: str) -> None:
        if match := _RESOLVE.fullmatch(path):
            self._file("datasets" if match[1] else "models", *(unquote(part) for part in match.groups()[1:]))
        elif match := _STORED.fullmatch(path):
            self._bytes(self.hub.large[match[1]], {"ETag": f'"{match[1]}"'})
        elif path == "/api/whoami-v2":
            self._send_json({"type": "user", "name": self._require_user(), "orgs": [], "auth": {"accessToken": {}}})
        elif (match := _API.fullmatch(path)) and match[3] in (None, "revision"):
            self._info(match[1], match[2], unquote(match[4] or "main"))
        elif match and match[3] == "tree":
            self._tree(match[1], match[2], unquote(match[4]), unquote(match[5] or ""))
        else:
            raise Problem(404, message=f"no such address: {path}")

    def _file(self, kind: str, name: str, revision: str, path: str) -> None:
        repository, commit = self._at(kind, name, revision)
        if repository.gated and self.user not in repository.accepted:
            raise Problem(
                403 if self.user else 401,
                "GatedRepo",
                f"Access to {name} is restricted. You must have access to it and be authenticated to access it.",
            )
        headers = {"X-Repo-Commit": commit}
        if (data := repository.commits[commit].get(path)) is None:
            raise Problem(404, "EntryNotFound", "Entry not found", headers)
        if not path.endswith(LARGE):
            return self._bytes(data, {**headers, "ETag": f'"{_blob_id(data)}"'})
        oid = hashlib.sha256(data).hexdigest()
        self.hub.large[oid] = data
        linked = {"X-Linked-Size": str(len(data)), "X-Linked-ETag": f'"{oid}"', "Location": f"{self.hub.storage}/{oid}"}
        return self._send(b"", {**headers, **linked}, 302)

    def _bytes(self, data: bytes, headers: Mapping[str, str]) -> None:
        """The file, or the range of it that is asked for."""
        headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", **headers}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            return self._send(data, headers)
        start, end = int(wanted[1]), min(int(wanted[2] or len(data) - 1), len(data) - 1)
        if start > end:
            return self._send(b"", {"Content-Range": f"bytes */{len(data)}"}, 416)
        return self._send(data[start : end + 1], {**headers, "Content-Range": f"bytes {start}-{end}/{len(data)}"}, 206)

    def _info(self, kind: str, name: str, revision: str) -> None:
        repository, commit = self._at(kind, name, revision)
        siblings = [{"rfilename": path} for path in sorted(repository.commits[commit])]
        about = {"_id": "1", "id": name, "author": name.partition("/")[0], "sha": commit, "private": False, "disabled": False}
        self._send_json({**about, "gated": repository.gated and "auto", "downloads": 0, "tags": [], "siblings": siblings})

    def _tree(self, kind: str, name: str, revision: str, folder: str) -> None:
        repository, commit = self._at(kind, name, revision)
        entries = _entries(repository.commits[commit])
        inside = {path: entry for path, entry in entries.items() if not folder or path.startswith(f"{folder}/")}
        if folder and not inside:
            raise Problem(404, "EntryNotFound", f"{folder} does not exist", {"X-Repo-Commit": commit})
        asked = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower()
        if asked not in ("true", "1"):
            depth = folder.count("/") + 1 if folder else 0
            inside = {path: entry for path, entry in inside.items() if path.count("/") == depth}
        self._send_json(list(inside.values()))

    # ------------------------------------------------------------------------------------------------------ writing

    def _post(self, path: str) -> None:
        if path == "/api/repos/create":
            self._create()
        elif path == "/api/validate-yaml":
            self._send_json({"errors": [], "warnings": []})
        elif _LFS_BATCH.fullmatch(path):
            self._lfs_batch()
        elif (match := _API.fullmatch(path)) and match[3] == "paths-info":
            repository, commit = self._at(match[1], match[2], unquote(match[4]))
            entries = _entries(repository.commits[commit])
            self._send_json([entries[one] for one in self._asked_paths() if one in entries])
        elif match and match[3] == "preupload":
            self._require_user()
            files = json.loads(self._body)["files"]
            modes = [(one["path"], "lfs" if one["path"].endswith(LARGE) else "regular") for one in files]
            self._send_json({"files": [{"path": one, "uploadMode": mode, "shouldIgnore": False} for one, mode in modes]})
        elif match and match[3] == "commit":
            self._commit(match[1], match[2], unquote(match[4]))
        else:
            raise Problem(404, message=f"no such address: {path}")

    def _create(self) -> None:
        user, wanted = self._require_user(), json.loads(self._body)
        kind = f"{wanted.get('type') or 'model'}s"
        name = f"{wanted.get('organization') or user}/{wanted['name']}"
        if not name.startswith(f"{user}/"):
            raise Problem(403, message=f"You don't have the rights to create a {kind[:-1]} under this namespace")
        url = f"{self.hub.url}/{'datasets/' if kind == 'datasets' else ''}{name}"
        if (kind, name) in self.hub.repositories:
            return self._send(json.dumps({"error": "You already created this repo", "url": url}).encode(), status=409)
        self.hub.add(kind, name, {".gitattributes": b""})
        return self._send_json({"url": url, "name": name, "id": "1"})

    def _lfs_batch(self) -> None:
        self._require_user()
        objects = [
            {**one, "actions": {"upload": {"href": f"{self.hub.storage}/{one['oid']}"}}}
            for one in json.loads(self._body)["objects"]
        ]
        self._send_json({"transfer": "basic", "objects": objects})

    def _put(self, path: str) -> None:
        oid = hashlib.sha256(self._body).hexdigest()
        if (match := _STORED.fullmatch(path)) is None or match[1] != oid:
            raise Problem(400, message=f"{path} got the content {oid}")
        self.hub.large[oid] = self._body
        self._send(b"")

    def _commit(self, kind: str, name: str, branch: str) -> None:
        user = self._require_user()
        repository, commit = self._at(kind, name, branch)
        if not name.startswith(f"{user}/"):
            raise Problem(403, message="Forbidden: you have no write access")
        files = dict(repository.commits[commit])
        for line in self._body.splitlines():
            key, value = (entry := json.loads(line))["key"], entry["value"]
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
        made = repository.commit(files, branch)
        self._send_json({"success": True, "commitOid": made, "commitUrl": f"{self.hub.url}/{name}/commit/{made}"})

    # ------------------------------------------------------------------------------------------------------ common

    def _require_user(self) -> str:
        if self.user is None:
            raise Problem(401, message="Invalid username or password.")
        return self.user

    def _at(self, kind: str, name: str, revision: str) -> tuple[Repository, str]:
        """A repository and the commit of a revision. One that is missing gives 401, as one that is private."""
        if (repository := self.hub.repositories.get((kind, name))) is None:
            raise Problem(401, "RepoNotFound", "Repository not found")
        if (commit := repository.hash_of(revision)) is None:
            raise Problem(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repository, commit

    def _asked_paths(self) -> list[str]:
        if self.headers.get("Content-Type", "").startswith("application/json"):
            return json.loads(self._body)["paths"]
        return parse_qs(self._body.decode())["paths"]


def _entries(files: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    """Files and folders by path, as the Hub describes them."""
    found: dict[str, dict[str, Any]] = {}
    for path, data in sorted(files.items()):
        for parent in reversed(Path(path).parents[:-1]):
            found.setdefault(parent.as_posix(), {"type": "directory", "path": parent.as_posix(), "oid": "0" * 40, "size": 0})
        found[path] = {"type": "file", "path": path, "oid": _blob_id(data), "size": len(data)}
        if path.endswith(LARGE):
            found[path]["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return found


def _blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
