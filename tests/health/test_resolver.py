"""Names of upstreams: looked up before traffic and at an interval, and followed."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Sequence

import pytest
from fastapi import FastAPI

from fastapi_proxy_router import (
    ConfigurationError,
    Endpoint,
    ProxyRouter,
    Resolve,
    Upstream,
    UpstreamPool,
    serving,
)
from tests.health.names import name_server, on_one_port
from tests.health.patient import often, until
from tests.servers import get_raw, serve, status

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("settled")]


class Book:
    """A lookup whose answers a test writes; to be given to ``Resolve``."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses
        self.asked = 0
        self.error: Exception | None = None

    async def __call__(self, upstream: Upstream) -> Sequence[Endpoint]:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return [Endpoint(address) for address in self.addresses]

    async def read(self, times: int = 2) -> None:
        """Wait until what it says now was taken over."""
        before = self.asked
        await until(lambda: self.asked >= before + times)


def resolve(book: Book, **options) -> Resolve:
    return Resolve(**{"interval": 0.03, "lookup": book, **options})


def addresses(pool: UpstreamPool) -> list[str]:
    return sorted(upstream.address.host for upstream in pool.upstreams)


def lookups() -> set[str]:
    names = {task.get_name() for task in asyncio.all_tasks()}
    return {name for name in names if name.startswith("resolve")}


def lines(caplog, level: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == level]


# --- In front of real upstreams ---------------------------------------------------------------


async def test_requests_go_to_every_address_of_a_name(server):
    """From the first one on, under the name."""
    async with on_one_port("127.0.0.1", "127.0.0.2") as (one, two):
        book = Book("127.0.0.1", "127.0.0.2")
        url = f"http://users.test:{one.port}"
        app = FastAPI()
        app.include_router(ProxyRouter(UpstreamPool(url, resolve=resolve(book, interval=60))))
        async with serve(app, server) as gateway:
            assert [status(await get_raw(gateway)) for _ in range(12)] == [200] * 12

        for upstream in (one, two):
            assert upstream.requests
            host = {value for request in upstream.requests for value in request.values(b"host")}
            assert host == {f"users.test:{one.port}".encode()}
        assert book.asked == 1


async def test_ipv6():
    """An address of either kind is connected to."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    async with on_one_port("::1") as (one,):
        pool = UpstreamPool(f"http://users.test:{one.port}", resolve=resolve(Book("::1")))
        app = FastAPI()
        app.include_router(ProxyRouter(pool))
        async with serve(app) as gateway:
            assert status(await get_raw(gateway)) == 200
        assert one.last.values(b"host") == [f"users.test:{one.port}".encode()]


async def test_traffic_moves_with_the_address():
    """No request fails, and connections to where the name was are closed."""
    async with on_one_port("127.0.0.1", "127.0.0.2") as (one, two):
        book = Book("127.0.0.1")
        pool = UpstreamPool(f"http://users.test:{one.port}", resolve=resolve(book))
        app = FastAPI()
        app.include_router(ProxyRouter(pool))
        async with serve(app) as gateway, asyncio.timeout(3):
            answers = [status(await get_raw(gateway))]
            book.addresses = ("127.0.0.2",)
            while not two.requests:
                answers.append(status(await get_raw(gateway)))
            before = len(one.requests)
            # Its connection would idle for four seconds.
            await one.closed.wait()
            answers.append(status(await get_raw(gateway)))
            await until(lambda: addresses(pool) == ["127.0.0.2"])

    assert set(answers) == {200}
    assert len(one.requests) == before


async def test_addresses_are_probed_and_the_name_is_not():
    """Each has a health of its own, before traffic."""
    async with on_one_port("127.0.0.1", "127.0.0.2") as (one, two):
        book = Book("127.0.0.1", "127.0.0.2", "127.0.0.3")
        pool = UpstreamPool(
            f"http://users.test:{one.port}",
            resolve=resolve(book, interval=60),
            health=often(interval=60),
        )
        async with serving(pool):
            states = {one.address.host: one.health.state for one in pool.upstreams}

        assert states == {"127.0.0.1": "healthy", "127.0.0.2": "healthy", "127.0.0.3": "unhealthy"}
        assert (len(one.requests), len(two.requests)) == (1, 1)


# --- Lookups that fail ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (socket.gaierror(-3, "Temporary failure"), "gaierror: '[Errno -3] Temporary failure'"),
        (ValueError("a\nb"), r"ValueError: 'a\nb'"),
        (None, "there is no address"),
        ("no address", "ConfigurationError"),
    ],
    ids=["error", "any exception", "nothing", "garbage"],
)
async def test_a_lookup_that_fails_changes_nothing_and_is_logged_once(caplog, failure, reason):
    """Until one succeeds again; then the next failure is logged once more."""
    caplog.set_level(logging.INFO, "fastapi_proxy_router")
    book = Book("127.0.0.1")
    pool = UpstreamPool("http://users.test", resolve=resolve(book))
    async with serving(pool):
        for _ in range(2):
            if isinstance(failure, Exception):
                book.error = failure
            else:
                book.addresses = () if failure is None else ("127.0.0.2", failure)
            await book.read(3)
            assert addresses(pool) == ["127.0.0.1"]
            book.error, book.addresses = None, ("127.0.0.1",)
            await book.read()

    warnings = lines(caplog, "WARNING")
    assert len(warnings) == 2
    assert warnings[0].startswith(
        f"http://users.test stays where it was, its lookup failed: {reason}"
    )
    assert lines(caplog, "INFO") == ["http://users.test is at 127.0.0.1"]


async def test_a_first_lookup_that_fails_leaves_the_name():
    """The gateway starts, and connects by name until there is an answer."""
    book = Book("127.0.0.1")
    book.error = OSError("no network")
    pool = UpstreamPool("http://users.test", resolve=resolve(book))
    async with serving(pool):
        assert addresses(pool) == ["users.test"]
        book.error = None
        await until(lambda: addresses(pool) == ["127.0.0.1"])


async def test_a_lookup_that_hangs_is_given_up_and_delays_no_other():
    """After its timeout, in the beginning too."""
    asked = 0

    async def look_up(upstream: Upstream) -> list[Endpoint]:
        nonlocal asked
        if upstream.host == "silent.test":
            await asyncio.Event().wait()
        asked += 1
        return [Endpoint("127.0.0.1")]

    pool = UpstreamPool(
        ["http://silent.test", "http://users.test"],
        resolve=Resolve(lookup=look_up, timeout=0.2, interval=0.03),
    )
    async with serving(pool):
        assert asked > 1
        assert addresses(pool) == ["127.0.0.1", "silent.test"]


# --- Beginning and end ------------------------------------------------------------------------


async def test_what_has_an_address_is_not_looked_up():
    """Nor does a pool that was not told to."""
    book = Book("127.0.0.9")
    pools = [
        UpstreamPool(["http://127.0.0.1", "http://[::1]"], resolve=resolve(book)),
        UpstreamPool("http://users.test"),
    ]
    async with serving(*pools):
        assert lookups() == set()
    assert book.asked == 0
    assert [len(pool.upstreams) for pool in pools] == [2, 1]


async def test_a_name_that_comes_is_looked_up_at_once():
    """And one whose addresses were all removed no more."""
    book = Book("127.0.0.1")
    pool = UpstreamPool("http://10.0.0.1", resolve=resolve(book, interval=60))
    async with serving(pool):
        pool.add("http://users.test")
        await until(lambda: addresses(pool) == ["10.0.0.1", "127.0.0.1"])
        assert lookups() == {"resolve http://users.test"}

        pool.remove(pool.upstreams[1])
        await until(lambda: lookups() == set())
    assert book.asked == 1


async def test_it_ends_in_the_middle_of_a_lookup():
    """Nothing is left, and it begins again with what is known."""
    hangs = asyncio.Event()

    class Hanging(Book):
        async def __call__(self, upstream: Upstream) -> Sequence[Endpoint]:
            found = await super().__call__(upstream)
            if hangs.is_set():
                await asyncio.Event().wait()
            return found

    book = Hanging("127.0.0.1", "127.0.0.2")
    pool = UpstreamPool("http://users.test", resolve=resolve(book))
    async with serving(pool):
        hangs.set()
        await book.read(1)
    assert lookups() == set()

    hangs.clear()
    before = pool.upstreams
    async with serving(pool):
        assert lookups() == {"resolve http://users.test"}
        await book.read()
    assert pool.upstreams == before


# --- The event loop's resolver ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("records", "family"),
    [("A+AAAA", socket.AF_UNSPEC), ("A", socket.AF_INET), ("AAAA", socket.AF_INET6)],
)
async def test_the_event_loop_is_asked(monkeypatch, records, family):
    """For addresses of the kind that was chosen, those that this machine could connect to."""
    asked = []

    async def getaddrinfo(host, port, *, family, type, flags):
        asked.append((host, port, family, type, flags))
        stream = (socket.SOCK_STREAM, 6, "")
        return [
            (socket.AF_INET, *stream, ("127.0.0.1", port)),
            (socket.AF_INET, *stream, ("127.0.0.1", port)),
            (socket.AF_INET6, *stream, ("::1", port, 0, 0)),
            (socket.AF_INET6, *stream, ("fe80::1%2", port, 0, 2)),
        ]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    pool = UpstreamPool("http://users.test:81", resolve=Resolve(records=records))
    async with serving(pool):
        assert addresses(pool) == ["127.0.0.1", "::1"]
    stream = socket.SOCK_STREAM
    assert asked == [("users.test", 81, family, stream, socket.AI_ADDRCONFIG)]


async def test_a_real_lookup():
    """Every machine knows localhost."""
    pool = UpstreamPool("http://localhost:81", resolve=Resolve(records="A"))
    async with serving(pool):
        assert [one.origin for one in pool.upstreams] == ["http://localhost:81 at 127.0.0.1"]


async def test_a_name_that_does_not_exist(caplog):
    """The line in the log says so."""
    pool = UpstreamPool("http://no-such-name.invalid", resolve=Resolve())
    async with serving(pool):
        assert addresses(pool) == ["no-such-name.invalid"]
    assert "gaierror" in lines(caplog, "WARNING")[0]


# --- dnspython --------------------------------------------------------------------------------


async def test_srv_records():
    """Each target serves under its own name, with its port and weight; later priorities wait."""
    async with name_server() as dns:
        dns.zone = {
            "_http._tcp.users.test": {
                "SRV": ["1 20 81 a.test.", "1 0 82 b.test.", "2 5 83 c.test.", "1 1 84 gone.test."]
            },
            "a.test": {"A": ["127.0.0.1", "127.0.0.2"]},
            "b.test": {"AAAA": ["::1"]},
            "c.test": {"A": ["127.0.0.3"]},
        }
        pool = UpstreamPool(
            "https://_http._tcp.users.test/base",
            resolve=Resolve(records="SRV", nameserver=dns.address),
        )
        async with serving(pool):
            found = {(one.origin, one.weight, one.backup, one.base_path) for one in pool.upstreams}

    assert found == {
        ("https://a.test:81 at 127.0.0.1", 20, False, b"/base"),
        ("https://a.test:81 at 127.0.0.2", 20, False, b"/base"),
        # 0 is a small chance in RFC 2782.
        ("https://b.test:82 at ::1", 1, False, b"/base"),
        ("https://c.test:83 at 127.0.0.3", 5, True, b"/base"),
    }


async def test_srv_records_that_change():
    """Weights and priorities are followed, without a new upstream."""
    async with name_server() as dns:
        service = dns.zone["_http._tcp.users.test"] = {"SRV": ["1 1 81 a.test."]}
        dns.zone["a.test"] = {"A": ["127.0.0.1"]}
        resolve = Resolve(records="SRV", nameserver=dns.address, interval=0.03)
        pool = UpstreamPool("http://_http._tcp.users.test", resolve=resolve)
        async with serving(pool):
            (one,) = pool.upstreams
            service["SRV"] = ["1 7 81 a.test."]
            await until(lambda: one.weight == 7)
            service["SRV"] = ["1 7 81 a.test.", "0 7 82 a.test."]
            await until(lambda: one.backup)
            assert [one.port for one in pool.upstreams] == [81, 82]
            assert [one.port for one in pool.available()] == [82]


@pytest.mark.parametrize(
    "records", [None, [], ["0 0 0 ."]], ids=["no such name", "no records", "no such service"]
)
async def test_a_service_that_is_not_there(caplog, records):
    """The last known targets stay."""
    async with name_server() as dns:
        service = {"SRV": ["1 1 81 a.test."]}
        dns.zone = {"_http._tcp.users.test": service, "a.test": {"A": ["127.0.0.1"]}}
        resolve = Resolve(records="SRV", nameserver=dns.address, interval=0.03)
        pool = UpstreamPool("http://_http._tcp.users.test", resolve=resolve)
        async with serving(pool):
            if records is None:
                del dns.zone["_http._tcp.users.test"]
            else:
                service["SRV"] = records
            await until(lambda: bool(lines(caplog, "WARNING")))
            assert addresses(pool) == ["127.0.0.1"]


async def test_a_name_server_of_ones_own():
    """It is asked for addresses too, of the kinds that were chosen."""
    async with name_server() as dns:
        dns.zone = {"users.test": {"A": ["127.0.0.1", "127.0.0.2"], "AAAA": ["::1"]}}
        both = UpstreamPool("http://users.test", resolve=Resolve(nameserver=dns.address))
        one = UpstreamPool(
            "http://users.test", resolve=Resolve(records="AAAA", nameserver=dns.address)
        )
        async with serving(both, one):
            assert addresses(both) == ["127.0.0.1", "127.0.0.2", "::1"]
            assert addresses(one) == ["::1"]
        assert sorted(dns.asked) == ["users.test A", "users.test AAAA", "users.test AAAA"]


async def test_a_name_server_that_is_silent(caplog):
    """The lookup fails in time and leaves no socket."""
    async with name_server() as dns:
        dns.silent = True
        resolve = Resolve(nameserver=dns.address, timeout=0.1)
        pool = UpstreamPool("http://users.test", resolve=resolve)
        async with serving(pool):
            assert addresses(pool) == ["users.test"]
    assert "no answer within 0.1 s" in lines(caplog, "WARNING")[0]


@pytest.mark.parametrize("options", [{"records": "SRV"}, {"nameserver": "127.0.0.1"}])
async def test_without_dnspython(monkeypatch, options):
    """The application does not start, and is told what to install."""
    monkeypatch.setitem(sys.modules, "dns.asyncresolver", None)
    other = UpstreamPool("http://other.test", health=often())
    pool = UpstreamPool("http://users.test", resolve=Resolve(**options))
    with pytest.raises(ConfigurationError, match=r"pip install 'fastapi-proxy-router\[dns\]'"):
        async with serving(other, pool):
            pytest.fail("it has started")
