"""What is sent to an upstream, at its pace."""

from __future__ import annotations

import asyncio

__all__ = ["Outbox"]


class Outbox:
    """The writing half of a connection.

    Attributes:
        transport: The connection, while there is one.
    """

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._written = 0
        self._pong = b""
        self._unwritable: asyncio.Future[None] | None = None

    @property
    def unsent(self) -> int:
        """The bytes that wait for the upstream to read."""
        return self.transport.get_write_buffer_size() if self.transport is not None else 0

    @property
    def sent(self) -> int:
        """The bytes that it has taken in all."""
        return self._written - self.unsent

    def write(self, data: bytes) -> None:
        """Send *data* now, or as soon as the upstream reads."""
        if data and self.transport is not None:
            self._written += len(data)
            self.transport.write(data)

    def write_pongs(self, pongs: list[bytes]) -> None:
        """Send pongs, but to an upstream that does not read only the last (RFC 6455, 5.5.3)."""
        if self._unwritable is None:
            self.write(b"".join(pongs))
        else:
            self._pong = pongs[-1]

    @property
    def is_full(self) -> bool:
        """Whether more should wait."""
        return self._unwritable is not None

    async def drain(self) -> None:
        """Wait until the upstream has read enough."""
        if self._unwritable is not None:
            # A hook's reply may wait for it as well.
            await asyncio.shield(self._unwritable)

    def pause(self) -> None:
        """Let those wait who write more."""
        self._unwritable = asyncio.get_running_loop().create_future()

    def resume(self) -> None:
        """Let them go on."""
        if self._unwritable is not None:
            if not self._unwritable.done():
                self._unwritable.set_result(None)
            self._unwritable = None
            pong, self._pong = self._pong, b""
            self.write(pong)
