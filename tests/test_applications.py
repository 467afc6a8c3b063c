"""Applications that nobody here wrote, behind the proxy: nginx and Jupyter Server."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import pytest
from fastapi import FastAPI
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from fastapi_proxy_router import ProxyRouter, UpstreamPool
from tests.applications.jupyter import AUTHORIZED, TOKEN, V1, Jupyter, Kernel, jupyter
from tests.applications.nginx import LARGE, NAMES, TEXT, Nginx, nginx
from tests.servers import SERVERS, Served, serve

pytestmark = pytest.mark.anyio

#: Seconds; long enough for a busy machine, and nothing waits for it when all is well.
PATIENCE = 20


@pytest.fixture(scope="module")
def anyio_backend():
    """Keep one event loop for all tests, so that a gateway is started once for many of them."""
    return "asyncio"


@pytest.fixture(scope="module", params=SERVERS)
def server(request):
    """Run the test on each ASGI server, with all tests of one server together."""
    return request.param


def gateway(router: ProxyRouter) -> FastAPI:
    app = FastAPI(openapi_url=None)
    app.include_router(router)
    return app


def browser(served: Served, **options: Any) -> httpx.AsyncClient:
    """Return a client that follows nothing, decodes nothing we look at and asks no environment."""
    options = {"headers": {"Accept-Encoding": "identity"}, "timeout": PATIENCE, **options}
    return httpx.AsyncClient(base_url=served.url, trust_env=False, **options)


# nginx


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Run one nginx for all tests."""
    with nginx(tmp_path_factory.mktemp("nginx")) as served:
        yield served


@pytest.fixture(scope="module")
async def front(server, files):
    """Run a gateway to nginx on each server."""
    async with serve(gateway(ProxyRouter(files.url)), server) as served:
        yield served


@dataclass
class Answer:
    """An answer as it came, without what each hop has of its own."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def header(self, name: str) -> str:
        return dict(self.headers).get(name.encode(), b"").decode()


async def ask(served: Served, target: str, method: str = "GET", **options: Any) -> Answer:
    async with browser(served) as client, client.stream(method, target, **options) as response:
        body = b"".join([chunk async for chunk in response.aiter_raw()])
        headers = [(name.lower(), value) for name, value in response.headers.raw]
    answer = Answer(response.status_code, headers, body)
    if boundary := answer.header("content-type").partition("; boundary=")[2].encode():
        # nginx counts them up.
        answer.headers = [(name, v.replace(boundary, b"BOUNDARY")) for name, v in headers]
        answer.body = body.replace(boundary, b"BOUNDARY")
    hop = (b"connection", b"date", b"server")
    answer.headers = sorted(pair for pair in answer.headers if pair[0] not in hop)
    return answer


async def ask_both(front: Served, files: Nginx, target: str, **options: Any) -> Answer:
    """Return the answer that came through the gateway, which is the one that nginx gives."""
    answer = await ask(front, target, **options)
    assert answer == await ask(files, target, **options)
    return answer


async def test_a_file_arrives_whole(front, files):
    """A file of some MiB arrives byte for byte, with nginx's headers."""
    answer = await ask_both(front, files, "/large.bin")
    assert answer.status == 200
    assert answer.body == LARGE
    assert answer.header("accept-ranges") == "bytes"


async def test_an_empty_file_arrives(front, files):
    """A file without a byte is a 200 with its length, not a hanging answer."""
    answer = await ask_both(front, files, "/empty.txt")
    assert (answer.status, answer.body, answer.header("content-length")) == (200, b"", "0")


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=1000-1999", 1000, 2000),
        ("bytes=-500", len(LARGE) - 500, len(LARGE)),
        ("bytes=3000000-", 3_000_000, len(LARGE)),
    ],
)
async def test_a_range_arrives(front, files, asked, start, stop):
    """One range, counted from either end, is a 206 with exactly those bytes."""
    answer = await ask_both(front, files, "/large.bin", headers={"Range": asked})
    assert answer.status == 206
    assert answer.body == LARGE[start:stop]
    assert answer.header("content-range") == f"bytes {start}-{stop - 1}/{len(LARGE)}"


async def test_several_ranges_arrive_as_parts(front, files):
    """Several ranges are a 206 of type multipart/byteranges with a part for each."""
    headers = {"Range": "bytes=0-99,1000000-1000099,-50"}
    answer = await ask_both(front, files, "/large.bin", headers=headers)
    assert answer.status == 206
    assert answer.header("content-type") == "multipart/byteranges; boundary=BOUNDARY"
    parts = answer.body.split(b"\r\n--BOUNDARY")[1:-1]
    bodies = [part.partition(b"\r\n\r\n")[2] for part in parts]
    assert bodies == [LARGE[:100], LARGE[1_000_000:1_000_100], LARGE[-50:]]


async def test_a_range_beyond_the_end_is_refused(front, files):
    """A range that the file does not have is nginx's 416 with the file's length."""
    answer = await ask_both(front, files, "/large.bin", headers={"Range": "bytes=99999999-"})
    assert answer.status == 416
    assert answer.header("content-range") == f"bytes */{len(LARGE)}"


@pytest.mark.parametrize(("current", "status"), [(True, 206), (False, 200)])
async def test_a_download_resumes_only_if_nothing_changed(front, files, current, status):
    """If-Range gives the rest of the file that the client has a part of, or all of a newer one."""
    etag = (await ask(files, "/large.bin")).header("etag") if current else '"old"'
    headers = {"Range": "bytes=3000000-", "If-Range": etag}
    answer = await ask_both(front, files, "/large.bin", headers=headers)
    assert answer.status == status
    assert answer.body == (LARGE[3_000_000:] if current else LARGE)


@pytest.mark.parametrize(
    ("condition", "name"), [("If-None-Match", "etag"), ("If-Modified-Since", "last-modified")]
)
async def test_a_file_the_client_has_is_not_sent_again(front, files, condition, name):
    """A conditional request for an unchanged file is a 304 without a body."""
    value = (await ask(files, "/large.bin", "HEAD")).header(name)
    answer = await ask_both(front, files, "/large.bin", headers={condition: value})
    assert (answer.status, answer.body) == (304, b"")
    assert answer.header("etag")


async def test_head_tells_the_length(front, files):
    """HEAD has the Content-Length of the file and no body."""
    answer = await ask_both(front, files, "/large.bin", method="HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.header("content-length") == str(len(LARGE))


@pytest.mark.parametrize("target", ["/gzip/text.txt", "/gzip-static/style.css"])
async def test_a_compressed_file_stays_compressed(front, files, target):
    """What nginx compresses, at once or in advance, arrives as it compressed it."""
    answer = await ask_both(front, files, target, headers={"Accept-Encoding": "gzip"})
    assert answer.header("content-encoding") == "gzip"
    assert answer.header("vary") == "Accept-Encoding"
    assert gzip.decompress(answer.body) == TEXT


@pytest.mark.parametrize("target", ["/gzip/text.txt", "/gzip-static/style.css"])
async def test_a_client_that_reads_no_gzip_gets_none(front, files, target):
    """The proxy accepts no encoding on behalf of a client."""
    answer = await ask_both(front, files, target)
    assert answer.header("content-encoding") == ""
    assert answer.body == TEXT


@pytest.mark.parametrize("name", NAMES)
async def test_a_file_is_found_by_its_encoded_name(front, files, name):
    """Spaces, plus signs, percent signs, UTF-8 and delimiters in a name reach nginx encoded."""
    answer = await ask_both(front, files, f"/names/{quote(name, safe='')}")
    assert (answer.status, answer.body) == (200, name.encode())


async def test_a_redirect_is_passed_on(front, files):
    """The redirect to a directory's own URL is for the client to follow."""
    answer = await ask_both(front, files, "/listing")
    assert answer.status == 301
    assert answer.header("location") == f"{files.url}/listing/"


async def test_a_listing_arrives(front, files):
    """The page that nginx makes of a directory names its files."""
    answer = await ask_both(front, files, "/listing/")
    assert answer.status == 200
    assert b'<a href="one.txt">' in answer.body


async def test_a_missing_file_is_nginx_own_404(front, files):
    """The page for a missing file is nginx's, not the gateway's."""
    answer = await ask_both(front, files, "/missing.txt")
    assert answer.status == 404
    assert b"nginx" in answer.body


async def _in_pieces() -> AsyncIterator[bytes]:
    for at in range(0, len(LARGE), 100_000):
        yield LARGE[at : at + 100_000]


@pytest.mark.parametrize("framing", [str(len(LARGE)), "chunked"])
async def test_an_upload_arrives_whole(front, files, server, framing):
    """A PUT of some MiB, with its length or in chunks, becomes a file byte for byte."""
    target = f"/dav/{server}-{framing}.bin"
    body = _in_pieces() if framing == "chunked" else LARGE
    created = await ask(front, target, "PUT", content=body)
    assert created.status == 201
    assert created.header("x-framing") == framing
    assert (files.root / target[1:]).read_bytes() == LARGE


async def test_an_upload_that_is_too_large_is_refused(front, files, server):
    """The 413 that nginx sends before it has read the body reaches the client."""
    target = f"/small/{server}.bin"
    answer = await ask(front, target, "PUT", content=LARGE)
    assert answer.status == 413
    assert not (files.root / target[1:]).exists()


async def test_a_file_is_moved(server, files):
    """WebDAV's MOVE names its destination by the gateway's host, which preserve_host passes on."""
    source = files.root / "dav" / f"{server}-before.txt"
    source.write_bytes(TEXT)
    router = ProxyRouter(UpstreamPool(files.url, preserve_host=True))
    async with serve(gateway(router), server) as front:
        headers = {
            "Host": "files.example",
            "Destination": f"http://files.example/dav/{server}-after.txt",
        }
        answer = await ask(front, f"/dav/{source.name}", "MOVE", headers=headers)
    assert answer.status == 204
    assert not source.exists()
    assert (files.root / "dav" / f"{server}-after.txt").read_bytes() == TEXT


# Jupyter Server


@pytest.fixture(scope="module")
def notebooks(tmp_path_factory):
    """Run one Jupyter Server for all tests."""
    with jupyter(tmp_path_factory.mktemp("jupyter")) as served:
        yield served


@pytest.fixture(scope="module")
def kernel_id(notebooks):
    """Start one kernel, without the gateway, for the tests that only talk to it."""
    url = f"{notebooks.url}/jupyter/api/kernels"
    answer = httpx.post(url, headers=AUTHORIZED, timeout=PATIENCE, trust_env=False)
    return answer.json()["id"]


def to_jupyter(notebooks: Jupyter, **options: Any) -> FastAPI:
    pool = UpstreamPool(notebooks.url, **options)
    return gateway(ProxyRouter(pool, prefix="/jupyter", strip_prefix=False))


@pytest.fixture(scope="module")
async def desk(server, notebooks):
    """Run a gateway to Jupyter on each server, which keeps the name the client uses."""
    async with serve(to_jupyter(notebooks, preserve_host=True), server) as served:
        yield served


#: A refusal that repeats a header, as Jupyter's do with Set-Cookie, aborts granian's process (2.8).
on_servers_that_refuse = pytest.mark.parametrize(
    "server", [name for name in SERVERS if name != "granian"], indirect=True, scope="module"
)


def channels(served: Served, kernel: str, *, query: str = "", **options: Any) -> connect:
    url = f"{served.ws}/jupyter/api/kernels/{kernel}/channels?session_id=test&{query}"
    return connect(url, proxy=None, open_timeout=PATIENCE, max_size=None, **options)


async def sign_in(client: httpx.AsyncClient) -> httpx.Response:
    """Fill in Jupyter's login form, so that *client* has its cookies."""
    await client.get("/jupyter/login")
    form = {"password": TOKEN, "_xsrf": client.cookies["_xsrf"]}
    return await client.post("/jupyter/login", data=form)


def cookies_of(client: httpx.AsyncClient) -> dict[str, str]:
    return {"Cookie": "; ".join(f"{name}={value}" for name, value in client.cookies.items())}


async def test_jupyter_answers_under_its_prefix(desk):
    """Jupyter's API answers at the prefix it was started with and the router keeps."""
    async with browser(desk, headers=AUTHORIZED) as client:
        answer = await client.get("/jupyter/api/status")
    assert answer.status_code == 200
    assert "kernels" in answer.json()


async def test_a_token_in_the_query_opens_the_api(desk):
    """The query reaches Jupyter: the token in it is as good as one in a header."""
    async with browser(desk) as client:
        answer = await client.get("/jupyter/api/contents", params={"token": TOKEN})
    assert answer.status_code == 200


async def test_a_stranger_is_sent_to_the_login_page(desk):
    """Jupyter's redirect leads to its login page, on the gateway and below the prefix."""
    async with browser(desk, follow_redirects=True) as client:
        answer = await client.get("/jupyter/files/plan.txt")
    assert answer.status_code == 200
    assert answer.url == f"{desk.url}/jupyter/login?next=%2Fjupyter%2Ffiles%2Fplan.txt"


async def test_a_notebook_file_is_created(desk, notebooks, server):
    """A file that is sent to Jupyter's API lies in its directory, under its UTF-8 name."""
    name = f"übung {server}.txt"
    body = {"type": "file", "format": "text", "content": "6·7 = 42\n"}
    async with browser(desk, headers=AUTHORIZED) as client:
        answer = await client.put(f"/jupyter/api/contents/{name}", json=body)
        read = await client.get(f"/jupyter/files/{name}")
    assert answer.status_code == 201
    assert (notebooks.root / name).read_text(encoding="utf-8") == "6·7 = 42\n"
    assert read.content == "6·7 = 42\n".encode()


async def test_two_cookies_stay_two(desk):
    """The session and the form's token, which Jupyter sets in one answer, arrive as two lines."""
    async with browser(desk, headers=AUTHORIZED) as client:
        answer = await client.get("/jupyter/")
    lines = answer.headers.get_list("set-cookie")
    names = sorted(line.partition("=")[0] for line in lines)
    assert names == ["_xsrf", f"username-127-0-0-1-{desk.port}"]


async def test_the_login_form_gives_a_session(desk):
    """The cookies that Jupyter sets when its login form is filled in open its API."""
    async with browser(desk) as client:
        refused = await client.get("/jupyter/api/contents")
        redirect = await sign_in(client)
        answer = await client.get("/jupyter/api/contents")
    assert refused.status_code == 403
    assert redirect.status_code == 302
    assert urlsplit(redirect.headers["location"]).path.startswith("/jupyter/")
    assert answer.status_code == 200


@pytest.mark.parametrize("subprotocols", [[V1], None], ids=["binary", "text"])
async def test_a_kernel_computes(desk, kernel_id, subprotocols):
    """Code that is sent over a kernel's WebSocket comes back as its result, in both protocols."""
    async with (
        asyncio.timeout(PATIENCE),
        channels(
            desk, kernel_id, additional_headers=AUTHORIZED, subprotocols=subprotocols
        ) as websocket,
    ):
        kernel = Kernel(websocket)
        result = await kernel.answer(await kernel.execute("6*7"), "execute_result")
    assert websocket.subprotocol == (subprotocols and V1)
    assert result["data"]["text/plain"] == "42"


async def test_a_token_in_the_query_opens_a_websocket(desk, kernel_id):
    """A browser can give a WebSocket no header, so Jupyter reads the token from its query."""
    async with asyncio.timeout(PATIENCE), channels(desk, kernel_id, query=f"token={TOKEN}") as ws:
        kernel = Kernel(ws)
        result = await kernel.answer(await kernel.execute("6*7"), "execute_result")
    assert result["data"]["text/plain"] == "42"


async def test_a_large_output_arrives(desk, kernel_id):
    """A kernel's output of some MiB, more than clients allow by default, arrives whole."""
    async with (
        asyncio.timeout(PATIENCE),
        channels(desk, kernel_id, additional_headers=AUTHORIZED, subprotocols=[V1]) as websocket,
    ):
        kernel = Kernel(websocket)
        result = await kernel.answer(await kernel.execute("'ü' * 2_000_000"), "execute_result")
    assert result["data"]["text/plain"] == repr("ü" * 2_000_000)


async def test_a_kernel_is_started_interrupted_and_ended(notebooks):
    """A kernel's life goes through the gateway: its requests and its WebSocket."""
    async with (
        asyncio.timeout(PATIENCE),
        serve(to_jupyter(notebooks)) as desk,
        browser(desk, headers=AUTHORIZED) as client,
    ):
        started = await client.post("/jupyter/api/kernels", json={"name": "python3"})
        path = f"/jupyter/api/kernels/{started.json()['id']}"
        async with channels(desk, started.json()["id"], additional_headers=AUTHORIZED) as websocket:
            kernel = Kernel(websocket)
            request = await kernel.execute("print('begun', flush=True)\nwhile True: pass")
            await kernel.answer(request, "stream")
            interrupted = await client.post(f"{path}/interrupt")
            error = await kernel.answer(request, "error")
        ended = await client.delete(path)
        gone = await client.get(path)
    assert (started.status_code, started.headers["location"]) == (201, path)
    assert interrupted.status_code == 204
    assert error["ename"] == "KeyboardInterrupt"
    assert (ended.status_code, gone.status_code) == (204, 404)


async def test_a_page_may_open_a_websocket_to_its_own_host(desk, kernel_id):
    """With preserve_host, Jupyter sees that the page's Origin and the Host are the same."""
    async with browser(desk) as client:
        await sign_in(client)
    async with (
        asyncio.timeout(PATIENCE),
        channels(
            desk, kernel_id, origin=desk.url, additional_headers=cookies_of(client)
        ) as websocket,
    ):
        kernel = Kernel(websocket)
        result = await kernel.answer(await kernel.execute("6*7"), "execute_result")
    assert result["data"]["text/plain"] == "42"


@on_servers_that_refuse
async def test_a_foreign_page_may_not_open_a_websocket(desk, kernel_id):
    """Jupyter's refusal of another site's Origin reaches that site's page."""
    async with browser(desk) as client:
        await sign_in(client)
    foreign = channels(
        desk, kernel_id, origin="http://evil.example", additional_headers=cookies_of(client)
    )
    with pytest.raises(InvalidStatus) as refusal:
        async with foreign:
            pass
    assert refusal.value.response.status_code == 403


@on_servers_that_refuse
async def test_a_stranger_may_not_open_a_websocket(desk, kernel_id):
    """Jupyter's refusal of a client that has no token reaches it."""
    with pytest.raises(InvalidStatus) as refusal:
        async with channels(desk, kernel_id):
            pass
    assert refusal.value.response.status_code == 403


@on_servers_that_refuse
async def test_a_missing_kernel_is_not_found(desk):
    """Jupyter's 404 in answer to a WebSocket handshake reaches the client as a 404."""
    missing = "00000000-0000-0000-0000-000000000000"
    with pytest.raises(InvalidStatus) as refusal:
        async with channels(desk, missing, additional_headers=AUTHORIZED):
            pass
    assert refusal.value.response.status_code == 404


@pytest.mark.parametrize(("preserve_host", "status"), [(True, 403), (False, 200)])
async def test_jupyter_checks_the_host_it_is_given(notebooks, preserve_host, status):
    """A Host that Jupyter does not know is refused when it is passed on, and only then."""
    headers = {**AUTHORIZED, "Host": "evil.example"}
    async with (
        serve(to_jupyter(notebooks, preserve_host=preserve_host)) as desk,
        browser(desk, headers=headers) as client,
    ):
        answer = await client.get("/jupyter/api/status")
    assert answer.status_code == status
