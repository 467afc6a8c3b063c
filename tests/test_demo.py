"""The demo, run as a user runs it: its page, its printed lines, and how it ends."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

LIMIT = 30
FOUR_CALLS, POST, EVENTS, WEBSOCKET = range(4)


def start(*command: str, **environment: str) -> Any:
    return subprocess.Popen(
        command,
        env={**os.environ, "no_proxy": "127.0.0.1", **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def time_limit(process: Any) -> Iterator[None]:
    """Kill a process that does not print what the block waits for."""
    deadline = Timer(LIMIT, process.kill)
    deadline.start()
    try:
        yield
    finally:
        deadline.cancel()


class Demo:
    """A demo that serves: what it printed says where."""

    def __init__(self, process: Any) -> None:
        self.process = process
        self.printed: list[str] = []
        for line in process.stdout:
            self.printed.append(line.strip())
            if line.startswith("Ctrl-C"):
                break
        else:
            pytest.fail(f"the demo ended: {process.communicate()[1]}")
        self.url = next(line for line in self.printed if line.startswith("http://"))
        self.ws = self.url.replace("http", "ws", 1) + "ws"
        self.commands = [line for line in self.printed if re.match(r"curl |\S+ -m ", line)]

    def stop(self, number: signal.Signals) -> tuple[int, str]:
        """Send a signal and return the exit code and all that was written to stderr."""
        self.process.send_signal(number)
        return self.process.wait(LIMIT), self.process.stderr.read()


@contextmanager
def running_demo() -> Iterator[Demo]:
    """Run the demo on a free port."""
    with start(sys.executable, "-m", "examples.demo", PORT="0") as process:
        try:
            with time_limit(process):
                demo = Demo(process)
            yield demo
        finally:
            process.kill()


@pytest.fixture(scope="module")
def demo():
    with running_demo() as demo:
        yield demo


@pytest.fixture(scope="module")
def http():
    with httpx.Client(trust_env=False) as client:
        yield client


def greeting(demo: Demo) -> Any:
    with connect(demo.ws, proxy=None) as websocket:
        return json.loads(websocket.recv(LIMIT))


def run(command: str) -> str:
    """Run a printed line and return what it wrote."""
    if not shutil.which(shlex.split(command)[0]):
        pytest.skip("curl is not installed")
    process = start(*shlex.split(command))
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, err
    return str(out)


def test_page(demo, http):
    """The gateway serves the page itself."""
    answer = http.get(demo.url)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert "<title>Two upstreams, one gateway</title>" in answer.text


def test_page_needs_no_network(demo, http):
    """The page loads nothing from elsewhere."""
    page = http.get(demo.url).text
    assert not re.search(r"https?://|\bsrc=|@import|url\(", page)


def test_both_upstreams_answer_http(demo, http):
    """Two calls are answered by the two upstreams."""
    answers = [http.get(f"{demo.url}hello").json() for _ in range(2)]
    assert {answer["upstream"] for answer in answers} == {"alpha", "beta"}


def test_both_upstreams_answer_websockets(demo):
    """Two WebSockets are relayed to the two upstreams."""
    assert {greeting(demo)["upstream"] for _ in range(2)} == {"alpha", "beta"}


def test_websocket_message_is_answered(demo):
    """A WebSocket's messages go to the upstream that greeted it."""
    with connect(demo.ws, proxy=None) as websocket:
        upstream = json.loads(websocket.recv(LIMIT))["upstream"]
        websocket.send("a message")
        answer = json.loads(websocket.recv(LIMIT))
    assert (answer["upstream"], answer["text"]) == (upstream, "a message")


def test_prints_three_curl_lines_and_a_websocket_line(demo):
    """There are four lines to try."""
    assert [shlex.split(line)[0] for line in demo.commands] == ["curl"] * 3 + [sys.executable]


def test_printed_call_line(demo):
    """The first line makes four calls, which both upstreams answer."""
    answers = [json.loads(line) for line in run(demo.commands[FOUR_CALLS]).splitlines()]
    assert sorted(answer["upstream"] for answer in answers) == ["alpha", "alpha", "beta", "beta"]


def test_printed_post_line(demo):
    """The second line shows the body and headers that the upstream got."""
    answer = json.loads(run(demo.commands[POST]))
    assert answer["body"] == "a body"
    assert answer["headers"]["x-forwarded-for"] == "127.0.0.1"


def test_printed_events_line(demo):
    """The third line receives a stream of events."""
    events = run(demo.commands[EVENTS])
    assert re.findall(r"data: tick (\d) of 5 from \w+, call \d+\n\n", events) == list("12345")


def test_printed_websocket_line(demo):
    """The last line opens a WebSocket and sends what is typed."""
    with start(*shlex.split(demo.commands[WEBSOCKET])) as client, time_limit(client):
        client.stdin.write("typed\n")
        client.stdin.flush()
        assert any('"typed"' in line for line in client.stdout)
        client.stdin.close()
        assert client.wait(LIMIT) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stops_cleanly(number):
    """A signal ends the demo with code 0 and no word on stderr."""
    with running_demo() as demo:
        assert demo.stop(number) == (0, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stops_cleanly_while_in_use(number, http):
    """Idle connections and open WebSockets do not keep the demo, and are closed in order."""
    with running_demo() as demo, connect(demo.ws, proxy=None) as websocket:
        websocket.recv(LIMIT)
        http.get(demo.url)
        assert demo.stop(number) == (0, "")
        with pytest.raises(ConnectionClosed, match="1012"):
            websocket.recv(LIMIT)


def test_busy_port():
    """A port that is taken gets one line that names another."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        process = start(sys.executable, "-m", "examples.demo", PORT=str(port))
        out, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(f"Cannot listen on 127.0.0.1:{port}: Address already in use.")
    assert f"PORT={port + 1} make demo" in err


@pytest.mark.parametrize("port", ["http", "", "-1", "65536"])
def test_wrong_port(port):
    """A PORT that is no port gets one line that says so."""
    process = start(sys.executable, "-m", "examples.demo", PORT=port)
    out, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, out) == (1, "")
    assert err == f"PORT must be a number from 0 to 65535, not {port!r}.\n"
