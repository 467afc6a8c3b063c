"""The upstream of the streams: any size down, any size up, and an event stream.

    python -m benchmarks.upstream        prints its port and serves

    GET /<bytes>     that many bytes          PUT /fast, PUT /slow     takes a body
    GET /events      one event, then silence

A thread for each connection that blocks in the kernel moves more than an event loop would.
"""

from __future__ import annotations

import contextlib
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MIB = 1024 * 1024
CHUNK = memoryview(bytes(MIB // 4))
EVENT = b"data: first\n\n"
#: A slow side pauses this often; fast enough to finish, slow enough to be waited for.
PAUSE_EVERY = 4 * MIB
PAUSE = 0.02
#: Seconds an event stream stays open, if its client stays.
SILENCE = 10


class Upstream(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    rbufsize = len(CHUNK)
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._take_body(slow=False)
        path = self.path.partition("?")[0]
        if path == "/events":
            self._send_event()
            return
        size = int(path[1:])
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        for start in range(0, size, len(CHUNK)):
            self.connection.sendall(CHUNK[: size - start])

    def do_PUT(self) -> None:
        self._take_body(slow=self.path.startswith("/slow"))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send_event(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.connection.sendall(EVENT)
        self.connection.settimeout(SILENCE)
        with contextlib.suppress(OSError):
            self.connection.recv(1)

    def _take_body(self, *, slow: bool) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            taken = 0
            while size := int(self.rfile.readline(), 16):
                taken += self._take(size, taken, slow=slow)
                self.rfile.readline()
            self.rfile.readline()
        else:
            self._take(int(self.headers.get("Content-Length", "0")), 0, slow=slow)

    def _take(self, size: int, before: int, *, slow: bool) -> int:
        """Read *size* bytes; pause wherever the total passes a multiple of PAUSE_EVERY."""
        taken = 0
        while taken < size:
            read = len(self.rfile.read1(min(size - taken, len(CHUNK))))
            if not read:
                raise ConnectionError("the upload broke off")
            total = before + taken
            if slow and total // PAUSE_EVERY < (total + read) // PAUSE_EVERY:
                time.sleep(PAUSE)
            taken += read
        return taken

    def log_message(self, *_: object) -> None:
        """Log nothing."""


class Server(ThreadingHTTPServer):
    """A server for many connections at once."""

    daemon_threads = True
    request_queue_size = 512

    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that have left."""


if __name__ == "__main__":
    server = Server(("127.0.0.1", 0), Upstream)
    print(server.server_address[1], flush=True)
    server.serve_forever()
