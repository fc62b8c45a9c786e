"""Served over HTTP: the handler of an Inference Endpoint and the Space without the package, and `interest-lm serve`."""

from __future__ import annotations

import json
import shutil
import socket
import sys
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import uvicorn
from published import REQUEST
from transformers import AutoTokenizer

from interest_lm.data.log import InterestLog
from interest_lm.data.prepare import prepare
from interest_lm.modeling_interest import InterestModel
from interest_lm.pipeline_interest import InterestPipeline
from interest_lm.processing_interest import InterestProcessor
from interest_lm.publishing import handler as handler_module
from interest_lm.publishing import serve as serve_module
from interest_lm.publishing.export import save_checkpoint
from interest_lm.publishing.handler import EndpointHandler
from interest_lm.publishing.push import HANDLER, push_model
from interest_lm.publishing.space import write_space


EMPTY = {"history": []}


@pytest.fixture(scope="module")
def pipe(trained):
    return InterestPipeline(model=trained.model, processor=trained.processor, task="user-interest", device="cpu")


@pytest.fixture(scope="module")
def handler(pipe):
    return EndpointHandler(pipe=pipe)


def near(found, expected) -> None:
    """Equal but for rounding in floats."""
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            near(found[key], expected[key])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected):
            near(one, other)
    else:
        assert found == (pytest.approx(expected, abs=1e-5, rel=1e-5) if isinstance(expected, float) else expected)


# The handler


def test_a_request_and_a_list_are_answered(handler, pipe):
    near(handler({"inputs": REQUEST}), pipe(REQUEST))
    requests = [EMPTY, REQUEST, REQUEST | {"top_k": 1}]
    near(handler({"inputs": requests}), pipe(requests, batch_size=3))
    near(
        handler({"inputs": REQUEST, "parameters": {"top_k": 1, "horizon_days": 3}}),
        pipe(REQUEST, top_k=1, horizon_days=3),
    )


BODIES = {
    "no object": ([REQUEST], "expected a JSON object"),
    "no inputs": ({"history": []}, "expected a JSON object"),
    "unknown key": ({"inputs": EMPTY, "model": "x"}, "unknown key 'model', expected inputs, parameters"),
    "parameters": ({"inputs": EMPTY, "parameters": [1]}, "`parameters` is [1], expected an object"),
    "parameter": ({"inputs": EMPTY, "parameters": {"batch_size": 9}}, "unknown parameter 'batch_size'"),
    "empty": ({"inputs": []}, "`inputs` is an empty list"),
    "too many": ({"inputs": [EMPTY] * 65}, "`inputs` has 65 requests, expected at most 64"),
    "no request": ({"inputs": "Heat"}, "'Heat' is no request, expected an object"),
    "no history": ({"inputs": [EMPTY, {"candidates": []}]}, "request 1: `history` is None, expected a list of events"),
    "time": ({"inputs": {"history": [{"title": "x", "timestamp": "soon"}]}}, "history[0]: `timestamp` is 'soon'"),
    "long history": ({"inputs": {"history": [{}] * 5001}}, "`history` has 5001 entries, expected at most 5000"),
    "candidates": ({"inputs": EMPTY | {"candidates": [{}] * 2001}}, "`candidates` has 2001 entries, expected at most"),
    "all together": ({"inputs": [{"history": [{}] * 4001}] * 5}, "`inputs` has 20005 events and candidates"),
    "long text": (
        {"inputs": [EMPTY, {"history": [{"title": "x" * 10_001}]}]},
        "request 1: a text has 10001 characters, expected at most 10000: 'xxxx",
    ),
    "long key": ({"inputs": {"history": [{"y" * 10_001: 1}]}}, "a text has 10001 characters"),
    "half a character": ({"inputs": EMPTY | {"candidates": [{"title": "\ud800"}]}}, "a text is no Unicode: '\\ud800'"),
    "deep": ({"inputs": {"history": [{"categories": [[[[["x"]]]]]}]}}, "nested deeper than 6 levels"),
    "infinite": ({"inputs": {"history": [{"title": "x", "value": float("inf")}]}}, "inf is no finite number"),
    "top_k": ({"inputs": EMPTY, "parameters": {"top_k": 0}}, "`top_k` is 0, expected 1 or more"),
}  # fmt: skip


@pytest.mark.parametrize("case", BODIES)
def test_a_bad_body_is_one_line(handler, case):
    body, message = BODIES[case]
    with pytest.raises(ValueError) as raised:
        handler(body)
    assert str(raised.value).startswith(message) and "\n" not in str(raised.value) and len(str(raised.value)) < 300


# What an endpoint does with `handler.py`: loads it from the repository's folder and answers POST / with what it returns.
ENDPOINT = """
import importlib.util, json, sys, threading, urllib.error, urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer

folder, bodies = sys.argv[1], json.loads(sys.argv[2])
spec = importlib.util.spec_from_file_location("handler", folder + "/handler.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
handler = module.EndpointHandler(folder)

class Endpoint(BaseHTTPRequestHandler):
    def do_POST(self):
        try:
            status, answer = 200, handler(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        except ValueError as error:
            status, answer = 400, {"error": str(error)}
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

server = HTTPServer(("127.0.0.1", 0), Endpoint)
threading.Thread(target=server.serve_forever, daemon=True).start()
for body in bodies:
    request = urllib.request.Request(f"http://127.0.0.1:{server.server_port}/", json.dumps(body).encode())
    try:
        answer = 200, json.load(urllib.request.urlopen(request))
    except urllib.error.HTTPError as error:
        answer = error.code, json.load(error)
    print(json.dumps(answer))
"""


def test_the_handler_runs_from_a_repository_without_the_package(trained, pipe, run_without_package, tmp_path):
    folder = shutil.copytree(trained.folder, tmp_path / "repository", ignore=shutil.ignore_patterns("base", "adapter"))
    shutil.copyfile(HANDLER, folder / "handler.py")
    bodies = [{"inputs": REQUEST}, {"inputs": [EMPTY, REQUEST]}, {"inputs": {"history": "Heat"}}]
    printed = run_without_package(ENDPOINT, folder, json.dumps(bodies))
    (first, one), (second, several), (third, refused) = (json.loads(line) for line in printed.splitlines()[-3:])
    assert (first, second, third) == (200, 200, 400)
    near(one, pipe(REQUEST))
    near(several, pipe([EMPTY, REQUEST], batch_size=2))
    assert refused == {"error": "`history` is 'Heat', expected a list of events"}


# `interest-lm serve`


class Served(uvicorn.Server):
    """Runs an application in a thread; a context that ends when it does."""

    def __init__(self, app):
        super().__init__(uvicorn.Config(app, log_level="error", lifespan="off"))
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.listening = threading.Event()
        self.thread = threading.Thread(target=self.run, kwargs={"sockets": [self.socket]}, daemon=True)

    async def startup(self, sockets=None):
        await super().startup(sockets)
        self.listening.set()

    def __enter__(self):
        self.thread.start()
        assert self.listening.wait(30)
        return self

    def __exit__(self, *_):
        self.should_exit = True
        self.thread.join()

    def ask(self, path: str, body=None):
        """`(status, answer)` of GET, or of POST where a body is given, as JSON or as bytes."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.socket.getsockname()[1]}{path}", data) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)


@pytest.fixture(scope="module")
def served(trained):
    with Served(serve_module.load_app(str(trained.folder))) as server:
        yield server


def test_serve_answers_as_an_endpoint_does(served, handler):
    assert served.ask("/health") == (200, {"status": "ok", "model": "films", "routes": ["/"]})
    for body in ({"inputs": REQUEST}, {"inputs": [EMPTY, REQUEST], "parameters": {"top_k": 1}}):
        status, answer = served.ask("/", body)
        assert status == 200
        near(answer, handler(body))


def test_serve_says_what_is_wrong(served, handler):
    assert served.ask("/", b"{") == (400, {"error": "the body is not JSON"})
    assert served.ask("/", b"[" * 100_000) == (400, {"error": "the body is not JSON"})
    assert served.ask("/", b'{"inputs": "\xff"}') == (400, {"error": "the body is not JSON"})
    for body, message in BODIES.values():
        status, answer = served.ask("/", body)
        assert status == 400 and answer["error"].startswith(message)
    for path, body in (("/nowhere", EMPTY), ("/profile", {"user": "x"}), ("/docs", None), ("/", None)):
        assert served.ask(path, body)[0] in (404, 405)


def test_serve_reads_no_endless_body(handler):
    with Served(serve_module.make_app(handler, "films", max_bytes=1000)) as server:
        assert server.ask("/", b" " * 1001) == (413, {"error": "the body has more than 1000 bytes"})
        assert server.ask("/", {"inputs": EMPTY})[0] == 200


def test_serve_answers_many_at_once(served, handler):
    bodies = [{"inputs": REQUEST | {"horizon_days": days}} for days in range(1, 13)]
    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(lambda body: served.ask("/", body), bodies))
    for body, (status, answer) in zip(bodies, answers):
        assert status == 200
        near(answer, handler(body))


@pytest.fixture(scope="module")
def world(tiny_bert, tmp_path_factory):
    """A log and an untrained checkpoint that fits it."""
    folder = tmp_path_factory.mktemp("served")
    prepare("synthetic", [], folder / "data", world={"num_users": 30, "num_items": 40, "seed": 1}, quiet=True)
    log = InterestLog.load(folder / "data")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_items": log.num_items, "max_history": 20}
    model = InterestModel.from_text_pretrained(str(tiny_bert), domains=log.tree, **sizes)
    processor = InterestProcessor.from_model(model, AutoTokenizer.from_pretrained(tiny_bert), log.item_ids.tolist())
    save_checkpoint(model, processor, folder / "model")
    return folder, log


def test_serve_tells_of_a_logs_people(world):
    folder, log = world
    users = [str(user) for user in log.user_ids[:2]]
    with Served(serve_module.load_app(str(folder / "model"), folder / "data")) as server:
        assert server.ask("/health")[1]["routes"] == ["/", "/profile", "/recommend"]
        status, profile = server.ask("/profile", {"user": users[0]})
        assert status == 200 and profile["user"] == users[0] and profile["domains"]
        status, lists = server.ask("/recommend", {"users": users, "top_k": 3})
        assert status == 200 and [entry["user"] for entry in lists] == users
        assert [len(entry["ranking"]) for entry in lists] == [3, 3]
        bad = [
            ("/profile", {"user": "nobody"}, "user 'nobody' is not in"),
            ("/profile", {}, 'expected {"user": ID}'),
            ("/profile", {"user": 3}, "`user` is 3, expected an id"),
            ("/profile", {"user": users[0], "at": "soon"}, "`at` is 'soon', expected seconds"),
            ("/profile", {"user": users[0], "level": 1}, "unknown key 'level'"),
            ("/profile", [1], "expected a JSON object with user, at"),
            ("/recommend", {"users": []}, 'expected {"users": [ID, ...]} with 1 to 64 ids'),
            ("/recommend", {"users": users * 33}, 'expected {"users": [ID, ...]} with 1 to 64 ids'),
            ("/recommend", {"users": users, "top_k": 10_000}, "`top_k` is 10000, expected 1 to 1000"),
            ("/recommend", {"users": users, "top_k": True}, "`top_k` is True, expected a whole number"),
            ("/recommend", {"users": users, "diversity": 2}, "`diversity` is 2, expected 0 to 1"),
            ("/recommend", {"users": users, "diversity": "much"}, "`diversity` is 'much', expected a number"),
        ]
        for path, body, message in bad:
            status, answer = server.ask(path, body)
            assert status == 400 and answer["error"].startswith(message), answer


def test_the_command_serves_where_it_is_told(monkeypatch, trained):
    from interest_lm import cli

    seen = {}
    monkeypatch.setattr(uvicorn, "run", lambda app, **options: seen.update(options, app=app))
    monkeypatch.setattr(sys, "argv", ["interest-lm", "serve", str(trained.folder), "--port", "0"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert (seen["host"], seen["port"]) == ("127.0.0.1", 0)


def test_serve_without_its_extra_says_what_to_install(monkeypatch, capsys):
    from interest_lm import cli

    monkeypatch.delitem(sys.modules, "interest_lm.publishing.serve")
    monkeypatch.setitem(sys.modules, "fastapi", None)
    monkeypatch.setattr(sys, "argv", ["interest-lm", "serve", "model"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: `interest-lm serve` needs fastapi: pip install 'interest-lm[serve]'\n"


def test_the_limits_of_the_handler_are_told():
    """docs/hub.md names the limits that stand in the code."""
    told = (HANDLER.parents[1] / "docs" / "hub.md").read_text()
    for name in ("MAX_REQUESTS", "MAX_EVENTS", "MAX_CANDIDATES", "MAX_THINGS", "MAX_CHARACTERS"):
        assert f"{getattr(handler_module, name):,}" in told, name
    assert f"{serve_module.MAX_BYTES // 2**20} MiB" in told


# The Space


SPACE = """
import json, os, sys
os.chdir(sys.argv[1])
sys.path.insert(0, sys.argv[1])
sys.modules["interest_lm"] = None
import app
from gradio_client import Client

page = app.make_page(app.load_pipeline())
_, url, _ = page.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
client = Client(url, verbose=False)
rows = json.loads(sys.argv[2])
table = lambda rows: {"headers": app.COLUMNS, "data": rows}
found = client.predict(table(rows), "Casino\\nRock", "", None, api_name="/answer")
print("=", json.dumps([found[0]["data"], found[1]["data"], found[2]]))
for rows, at in (([["Heat", "", "soon", "", ""]], ""), ([["Heat", "", "1997-03-01", "", ""]], "soon")):
    try:
        client.predict(table(rows), "", at, None, api_name="/answer")
    except Exception as error:
        print("=", json.dumps(str(error)))
page.close()
"""


def test_the_space_answers_from_the_pinned_checkpoint(module_hub, trained, pipe, hub_process, tmp_path):
    with module_hub():
        pushed = push_model(trained.folder, "tester/paged")
    write_space(tmp_path / "space", pushed)
    rows = [
        ["Heat (1995)", "Film > Crime", "1997-03-01", "", ""],
        ["Jazz album", "Music", "1997-03-05", "", "what a duel"],
    ]
    done = hub_process(
        [sys.executable, "-c", SPACE, tmp_path / "space", json.dumps(rows)], tmp_path / "home",
        PYTHONPATH=None, GRADIO_ANALYTICS_ENABLED="False",
    )  # fmt: skip
    answer, *errors = (json.loads(line[2:]) for line in done.stdout.splitlines() if line.startswith("= "))
    history = [
        {"title": "Heat (1995)", "categories": [["Film", "Crime"]], "timestamp": "1997-03-01"},
        {"title": "Jazz album", "categories": [["Music"]], "timestamp": "1997-03-05", "text": "what a duel"},
    ]
    expected = pipe({"history": history, "candidates": [{"title": "Casino"}, {"title": "Rock"}]})
    assert [row[0] for row in answer[0]] == [row["domain"] for row in expected["domains"]]
    assert [row[1] for row in answer[0]] == pytest.approx([row["interest"] for row in expected["domains"]], abs=1e-3)
    assert [row[0] for row in answer[1]] == [row["title"] for row in expected["ranking"]]
    assert answer[2] == pytest.approx(expected["intensity"], rel=1e-3)
    assert "history[0]: `timestamp` is 'soon'" in errors[0] and "at is 'soon'" in errors[1]
