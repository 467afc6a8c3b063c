"""What is measured, how it is started, and whether it does what it should."""

from __future__ import annotations

import http.client
import importlib.util
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from . import nginx
from .processes import BenchmarkError, Launcher, Process

THIS = "this library"
REVERSE_PROXY = "fastapi-reverse-proxy"
PROXY_LIB = "fastapi-proxy-lib"
SNIPPET = "httpx snippet"
HELLO = "FastAPI hello world"
ECHO = "bare ASGI echo"
NGINX = "nginx"
NGINX_LARGE = "nginx with 64 KiB buffers"
DIRECT = "direct"
ROUTES = "this with 100 routes"
UPSTREAMS = "this with 100 upstreams"
HELLO_ROUTES = "hello with 100 routes"
THREE = "this with 3 upstreams"
BLACK_HOLE = "this with one of 3 black-holed"
DEPENDENCY = "no override, but a dependency"
OTHERS = "10 declared for other paths"
MODEL = "hook that reads a JSON body"
TRANSFORM_REQUEST = "hook with a transform of the request's body"
TRANSFORM_RESPONSE = "hook with a transform of the response's body"


@dataclass(frozen=True)
class Proof:
    """What shows that an override is at work, when an item is asked for or posted."""

    posts: bool = False
    #: The target, ``x-tag`` and length of body that the upstream must get, if that is known.
    seen: str = ""
    answer: bytes = nginx.ITEM


@dataclass(frozen=True)
class Contender:
    """One column of the tables: an app in Python, or nginx, or no gateway at all."""

    name: str
    app: str = ""
    #: The distribution it needs besides FastAPI and uvicorn.
    needs: str = ""
    forwards: bool = True
    #: The app for WebSockets, where it is another one.
    websocket_app: str = ""
    #: Where the app is.
    module: str = "apps"
    proof: Proof = Proof()

    @contextmanager
    def running(
        self, launcher: Launcher, upstream: Process, *, websockets: bool = False
    ) -> Iterator[Process]:
        """Run it in front of *upstream* until the block ends."""
        if self.name == DIRECT:
            yield upstream
            return
        if self.app:
            app = (websockets and self.websocket_app) or self.app
            process = launcher.python(self.module, app, upstream.url)
        else:
            buffers = nginx.LARGE_BUFFERS if self.name == NGINX_LARGE else ""
            headers = nginx.WEBSOCKET if websockets else nginx.HTTP
            process = launcher.nginx(nginx.proxy(upstream.url, buffers, headers))
        try:
            yield process
        finally:
            launcher.stop(process)

    @property
    def installed(self) -> bool:
        return not self.needs or importlib.util.find_spec(self.needs.replace("-", "_")) is not None


def _override(name: str, app: str, proof: Proof = Proof()) -> Contender:
    return Contender(name, app, "fastapi-proxy-router", module="override_apps", proof=proof)


_GET, _TAGGED = "/items/7?version=2, ,", "/items/7?version=2, gateway,"
_MEMBER = nginx.ITEM.replace(b'"admin","editor"', b'"member"')
#: This library with one kind of override each, in the order of the table.
OVERRIDING = (
    _override(DEPENDENCY, "dependency", Proof(seen=_GET)),
    _override(OTHERS, "declared_others", Proof(seen=_GET)),
    _override("declared header", "declared_header", Proof(seen=_TAGGED)),
    _override(
        "declared rewrite with conditions",
        "declared_rewrite",
        Proof(seen="/items/v2/7?version=2, ,"),
    ),
    _override("on_request that changes nothing", "on_request", Proof(seen=_GET)),
    _override("on_request that is not async", "on_request_sync", Proof(seen=_GET)),
    _override("on_send that sets a header", "on_send", Proof(seen=_TAGGED)),
    _override("on_response that changes nothing", "on_response", Proof(seen=_GET)),
    _override("hook that reads and sets a header", "read_header", Proof(seen=_TAGGED)),
    _override(
        "hook that reads a JSON response",
        "read_response",
        Proof(answer=nginx.ITEM.replace(b"ada@example.org", b"***")),
    ),
    _override(
        MODEL,
        "read_body",
        Proof(posts=True, seen=f"/items, , {len(_MEMBER)}"),
    ),
    _override(TRANSFORM_REQUEST, "transform_request", Proof(posts=True, seen="/items, ,")),
    _override(TRANSFORM_RESPONSE, "transform_response"),
)
CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender(THIS, "router", "fastapi-proxy-router"),
        Contender(REVERSE_PROXY, "reverse_proxy", "fastapi-reverse-proxy"),
        Contender(PROXY_LIB, "proxy_lib", "fastapi-proxy-lib", websocket_app="proxy_lib_websocket"),
        Contender(SNIPPET, "snippet", "httpx"),
        Contender(HELLO, "hello", forwards=False),
        Contender(ECHO, "echo", forwards=False),
        Contender(NGINX),
        Contender(NGINX_LARGE),
        Contender(DIRECT),
        Contender(ROUTES, "router_100_routes", "fastapi-proxy-router"),
        Contender(UPSTREAMS, "router_100_upstreams", "fastapi-proxy-router"),
        Contender(HELLO_ROUTES, "hello_100_routes", forwards=False),
        Contender(THREE, "router_3_upstreams", "fastapi-proxy-router"),
        Contender(BLACK_HOLE, "router_black_hole", "fastapi-proxy-router"),
        *OVERRIDING,
    )
}
PROXIES = (THIS, REVERSE_PROXY, PROXY_LIB, SNIPPET, NGINX)
VARIANTS = (ROUTES, UPSTREAMS, HELLO_ROUTES)


def wanted(names: Iterable[str]) -> tuple[list[Contender], list[str]]:
    """Return the contenders that can run, and a line for each that is not installed."""
    chosen = [CONTENDERS[name] for name in names]
    missing = [
        f"{contender.name} is skipped: {contender.needs} is not installed (group bench)"
        for contender in chosen
        if not contender.installed
    ]
    return [contender for contender in chosen if contender.installed], missing


def check(contender: Contender, process: Process) -> None:
    """Ask for each kind of answer once.

    Raises:
        BenchmarkError: The contender does not give it.
    """
    if not contender.forwards:
        _expect(process, "GET", "/", b"", b'{"message":"Hello World"}')
        return
    for _ in range(100 if contender.name == UPSTREAMS else 1):
        _expect(process, "GET", "/", b"", nginx.BODY)
    _expect(process, "POST", "/", bytes(10240), nginx.BODY)
    _expect(process, "GET", nginx.FILE, b"", bytes(nginx.FILE_SIZE))
    if contender in OVERRIDING:
        proof = contender.proof
        method, path = ("POST", "") if proof.posts else ("GET", "/7?version=2")
        body = nginx.ITEM if proof.posts else b""
        seen = f"{method} {proof.seen}" if proof.seen else ""
        _expect(process, method, nginx.ITEMS + path, body, proof.answer, seen)


def _expect(
    process: Process, method: str, path: str, body: bytes, answer: bytes, seen: str = ""
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", process.port, timeout=10)
    try:
        headers = {"Content-Type": "application/json"} if body == nginx.ITEM else {}
        connection.request(method, path, body=body or None, headers=headers)
        response = connection.getresponse()
        if response.status != 200 or response.read() != answer:
            raise BenchmarkError(f"{method} {path}: {response.status}, not the upstream's answer")
        found = response.getheader(nginx.SEEN, "").strip()
        if seen and found != seen:
            raise BenchmarkError(f"{method} {path}: the upstream got {found}, not {seen}")
    except (OSError, http.client.HTTPException) as error:
        raise BenchmarkError(f"{method} {path}: {error!r}") from error
    finally:
        connection.close()
