"""A name server whose zone a test writes, and servers that share a port."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, cast

import dns.flags
import dns.message
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from tests.servers import RawUpstream, raw_upstream


class NameServer(asyncio.DatagramProtocol):
    """Answers questions of the DNS over UDP.

    Attributes:
        zone: The records of each name by their type, as in a zone file. A name that is not in it
            does not exist.
        silent: Nothing is answered.
        asked: The questions, such as ``users.test. A``.
        address: Where it listens.
    """

    def __init__(self) -> None:
        self.zone: dict[str, dict[str, list[str]]] = {}
        self.silent = False
        self.asked: list[str] = []
        self.address = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Listen."""
        self._transport = cast("asyncio.DatagramTransport", transport)
        self.address = "{}:{}".format(*transport.get_extra_info("sockname"))

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """Answer a question."""
        query = dns.message.from_wire(data)
        question = query.question[0]
        name, kind = question.name.to_text().rstrip("."), dns.rdatatype.to_text(question.rdtype)
        self.asked.append(f"{name} {kind}")
        if self.silent:
            return
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        if name not in self.zone:
            response.set_rcode(dns.rcode.NXDOMAIN)
        elif records := self.zone[name].get(kind):
            response.answer = [dns.rrset.from_text_list(question.name, 60, "IN", kind, records)]
        self._transport.sendto(response.to_wire(), addr)


@asynccontextmanager
async def name_server() -> AsyncIterator[NameServer]:
    """Run a name server on 127.0.0.1."""
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(NameServer, local_addr=("127.0.0.1", 0))
    try:
        yield server
    finally:
        transport.close()


def _listeners(hosts: Sequence[str]) -> list[socket.socket] | None:
    """Return sockets that listen on one port of all *hosts*, or ``None`` if it was not free."""
    found: list[socket.socket] = []
    try:
        for host in hosts:
            port = found[0].getsockname()[1] if found else 0
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            found.append(socket.create_server((host, port), family=family))
            found[-1].setblocking(False)
    except OSError:
        for listener in found:
            listener.close()
        return None
    return found


@asynccontextmanager
async def on_one_port(*hosts: str) -> AsyncIterator[list[RawUpstream]]:
    """Run an upstream on each of *hosts*, addresses of this machine, on the same port."""
    listeners = None
    for _ in range(20):
        if (listeners := _listeners(hosts)) is not None:
            break
    assert listeners is not None
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(raw_upstream(listener=listener))
            for listener in listeners
        ]
