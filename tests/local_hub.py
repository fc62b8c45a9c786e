"""A Hugging Face Hub in this process, for the real clients: `with LocalHub() as hub:` and `HF_ENDPOINT=hub.url`.

Repositories are commits of whole trees in memory. It checks tokens, keeps branches and tags, takes large files by LFS before
the commit that names them (so clients need `HF_HUB_DISABLE_XET=1`), and refuses cards whose front matter the Hub would refuse.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import yaml


TOKEN = "hf_" + "t" * 34
USER = "tester"
LARGE = (".safetensors", ".parquet", ".bin")
LICENCES = {"apache-2.0", "mit", "cc-by-4.0", "cc0-1.0", "other", "unknown"}

API = re.compile(r"/api/(models|datasets|spaces)/([^/]+/[^/]+)(?:/(\w[\w-]*)(?:/(.*))?)?")
RESOLVE = re.compile(r"/(?:(datasets|spaces)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
BATCH = re.compile(r"/(?:(datasets|spaces)/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch")


class Refused(Exception):
    """An answer other than success: status, and what the Hub calls it."""

    def __init__(self, status: int, code: str, **content):
        super().__init__(code)
        self.status, self.code, self.content = status, code, content


@dataclass
class Repository:
    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, bytes], message: str) -> str:
        content = "".join(f"{path}{git_id(data)}" for path, data in sorted(files.items()))
        sha = hashlib.sha1(f"{len(self.commits)}{message}{content}".encode()).hexdigest()
        self.commits[sha], self.branches[branch] = files, sha
        self.messages.append(message)
        return sha

    def at(self, revision: str) -> tuple[str, dict[str, bytes]]:
        sha = self.branches.get(revision) or self.tags.get(revision) or revision
        if sha not in self.commits:
            raise Refused(404, "RevisionNotFound")
        return sha, self.commits[sha]

    @property
    def files(self) -> dict[str, bytes]:
        return self.at("main")[1]


def git_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def entry(path: str, data: bytes) -> dict:
    """A file as the Hub lists it."""
    listed = {"type": "file", "path": path, "size": len(data), "oid": git_id(data)}
    if path.endswith(LARGE):
        digest = hashlib.sha256(data).hexdigest()
        listed["lfs"] = {"oid": digest, "sha256": digest, "size": len(data), "pointerSize": 130}
    return listed


class LocalHub:
    """The server; `repositories` by kind and id, `requests` as it got them.

    `before(method, path)` runs before each request is answered; what it raises becomes the answer.
    """

    def __init__(self):
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.before: Callable[[str, str], None] = lambda method, path: None
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(self))
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> LocalHub:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.server.server_close()

    def model(self, name: str) -> Repository:
        return self.repositories["models", name]

    def dataset(self, name: str) -> Repository:
        return self.repositories["datasets", name]

    def find(self, kind: str, name: str, token: str | None) -> Repository:
        repository = self.repositories.get((kind, name))
        if repository is None or repository.private and token != TOKEN:
            raise Refused(401 if token is None else 404, "RepoNotFound")
        return repository

    def answer(self, method: str, url: str, body: bytes, token: str | None, wanted: str | None):
        """`(status, headers, content)`; content is JSON or bytes."""
        path, query = unquote(urlsplit(url).path), parse_qs(urlsplit(url).query)
        open_to_all = path.startswith("/lfs/") or path == "/api/validate-yaml" or "/paths-info" in path
        if method in ("POST", "PUT") and not open_to_all and token != TOKEN:
            raise Refused(401, "Unauthorized")
        if path == "/api/whoami-v2":
            if token != TOKEN:
                raise Refused(401, "Unauthorized")
            return (
                200,
                {},
                {
                    "type": "user",
                    "name": USER,
                    "fullname": USER,
                    "orgs": [],
                    "auth": {"accessToken": {"role": "write"}},
                },
            )
        if path.startswith("/lfs/"):
            self.large[path[5:]] = body
            return 200, {}, {}
        if path == "/api/validate-yaml":
            return self.validate(json.loads(body)["content"])
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        if found := BATCH.fullmatch(path):
            objects = json.loads(body)["objects"]
            for wish in objects:
                if wish["oid"] not in self.large:
                    wish["actions"] = {"upload": {"href": f"{self.url}/lfs/{wish['oid']}", "header": {}}}
            return 200, {}, {"transfer": "basic", "objects": objects}
        if found := RESOLVE.fullmatch(path):
            kind, name, revision, file = found.groups()
            return self.download(self.find(kind or "models", name, token), revision, file, wanted)
        if found := API.fullmatch(path):
            kind, name, verb, rest = found.groups()
            return self.api(kind, name, self.find(kind, name, token), verb, rest, query, method, body)
        raise Refused(404, "RepoNotFound")

    def validate(self, card: str):
        front = re.match(r"---\n(.*?)\n---", card, flags=re.S)
        data = yaml.safe_load(front[1]) if front else {}
        errors = [] if isinstance(data, dict) else ["front matter is no mapping"]
        if not errors and data.get("license", "other") not in LICENCES:
            errors.append('"license" must be one of [apache-2.0, mit, ...]')
        if errors:
            raise Refused(400, "Invalid metadata", errors=[{"message": error} for error in errors], warnings=[])
        return 200, {}, {"errors": [], "warnings": []}

    def create(self, wish: dict):
        kind = (wish.get("type") or "model") + "s"
        name = f"{wish.get('organization') or USER}/{wish['name']}"
        url = f"{self.url}/{'' if kind == 'models' else kind + '/'}{name}"
        if (kind, name) in self.repositories:
            raise Refused(409, "You already created this repo", url=url)
        private = bool(wish.get("private")) or wish.get("visibility") == "private"
        repository = self.repositories[kind, name] = Repository(private)
        repository.commit("main", {".gitattributes": b""}, "initial commit")
        return 200, {}, {"url": url, "name": name, "id": "0"}

    def download(self, repository: Repository, revision: str, file: str, wanted: str | None):
        sha, files = repository.at(revision)
        if file not in files:
            raise Refused(404, "EntryNotFound", commit=sha)
        data = files[file]
        etag = hashlib.sha256(data).hexdigest() if file.endswith(LARGE) else git_id(data)
        headers = {"X-Repo-Commit": sha, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        if part := re.match(r"bytes=(\d+)-(\d*)", wanted or ""):
            first, last = int(part[1]), int(part[2] or len(data) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            return 206, headers, data[first : last + 1]
        return 200, headers, data

    def api(
        self, kind: str, name: str, repository: Repository, verb: str | None, rest: str | None, query, method, body
    ):
        if verb == "refs":
            listed = {
                key: [{"name": name, "ref": f"refs/{where}/{name}", "targetCommit": sha} for name, sha in refs.items()]
                for key, where, refs in (("branches", "heads", repository.branches), ("tags", "tags", repository.tags))
            }
            return 200, {}, listed | {"converts": []}
        if verb in ("tag", "branch"):
            wish = json.loads(body or b"{}")
            refs, new = (repository.tags, wish["tag"]) if verb == "tag" else (repository.branches, rest)
            if new in refs:
                raise Refused(409, f"{verb} exists")
            start = rest if verb == "tag" else wish.get("startingPoint") or "main"
            refs[new] = repository.at(start)[0]
            return 200, {}, {}
        revision, _, folder = (rest or "main").partition("/")
        sha, files = repository.at(revision)
        if verb in (None, "revision"):
            siblings = [{"rfilename": path, **entry(path, data)} for path, data in files.items()]
            return 200, {}, {"id": name, "modelId": name, "sha": sha, "private": repository.private, "tags": [],
                             "downloads": 0, "likes": 0, "_id": "0", "siblings": siblings}  # fmt: skip
        if verb == "tree":
            return 200, {}, self.tree(files, folder, query.get("recursive", ["false"])[0] != "false")
        if verb == "paths-info":
            asked = (json.loads(body) if body.startswith(b"{") else parse_qs(body.decode()))["paths"]
            rows = [entry(path, files[path]) for path in asked if path in files]
            folders = [path for path in asked if any(file.startswith(path + "/") for file in files)]
            return (
                200,
                {},
                rows + [{"type": "directory", "path": path, "size": 0, "oid": "0" * 40} for path in folders],
            )
        if verb == "preupload":
            return 200, {}, {"files": [self.plan(file["path"], files) for file in json.loads(body)["files"]]}
        if verb == "commit":
            return self.take(name, repository, revision, dict(files), body)
        raise Refused(404, "RepoNotFound")

    def plan(self, path: str, files: dict[str, bytes]) -> dict:
        mode = "lfs" if path.endswith(LARGE) else "regular"
        known = entry(path, files[path]) if path in files else None
        oid = known and (known["lfs"]["oid"] if mode == "lfs" else known["oid"])
        return {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid}

    def tree(self, files: dict[str, bytes], folder: str, recursive: bool) -> list[dict]:
        under = {path: data for path, data in files.items() if not folder or path.startswith(folder + "/")}
        if not under:
            raise Refused(404, "EntryNotFound")
        parents = {"/".join(path.split("/")[:depth]) for path in under for depth in range(1, path.count("/") + 1)}
        rows = [entry(path, data) for path, data in under.items()]
        rows += [
            {"type": "directory", "path": path, "size": 0, "oid": hashlib.sha1(path.encode()).hexdigest()}
            for path in sorted(parents)
            if not folder or path.startswith(folder + "/")
        ]
        depth = folder.count("/") + 1 if folder else 0
        return rows if recursive else [row for row in rows if row["path"].count("/") == depth]

    def take(self, name: str, repository: Repository, branch: str, files: dict[str, bytes], body: bytes):
        message = ""
        for line in body.splitlines():
            item = json.loads(line)
            key, value = item["key"], item["value"]
            if key == "header":
                message = value["summary"]
                if value.get("parentCommit") not in (None, repository.branches[branch]):
                    raise Refused(412, "the branch has moved on")
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.large[value["oid"]]
            elif key == "deletedFile":
                files.pop(value["path"])
            else:
                raise Refused(400, f"unsupported {key}")
        sha = repository.commit(branch, files, message)
        return (
            200,
            {},
            {"success": True, "commitUrl": f"{self.url}/{name}/commit/{sha}", "commitOid": sha, "hookOutput": ""},
        )


def handler_of(hub: LocalHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_) -> None:
            pass

        def read(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def do_GET(self) -> None:
            body = self.read()
            hub.requests.append(f"{self.command} {self.path}")
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
            try:
                hub.before(self.command, self.path)
                status, headers, content = hub.answer(self.command, self.path, body, token, self.headers.get("Range"))
            except Refused as refused:
                status, content = refused.status, {"error": refused.code} | refused.content
                headers = {"X-Error-Code": refused.code, "X-Error-Message": refused.code}
                if "commit" in refused.content:
                    headers["X-Repo-Commit"] = refused.content["commit"]
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    return Handler
