"""nginx as a file server, with ranges, compression, listings and WebDAV."""

from __future__ import annotations

import gzip
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.applications.process import free_port, running
from tests.servers import Served

#: Random bytes, the same in every run.
LARGE = random.Random(2).randbytes(3 * 1024 * 1024 + 17)
TEXT = b"A line that compresses well.\n" * 4000
NAMES = ("with space.txt", "plus+sign.txt", "grüße.txt", "100%.txt", "what?.txt", "a#b;c=d.txt")

# One process, so that ending it ends all of nginx. Every path is its own, so that it needs no
# rights and leaves nothing behind.
_CONFIG = """
daemon off;
master_process off;
pid {directory}/pid;
error_log stderr warn;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    types {{ text/plain txt; text/css css; text/html html; }}
    default_type application/octet-stream;
    server {{
        listen 127.0.0.1:{port};
        root {directory}/root;
        client_max_body_size 64m;
        location / {{ autoindex on; }}
        location /gzip/ {{ gzip on; gzip_types text/plain; gzip_vary on; }}
        location /gzip-static/ {{ gzip_static on; gzip_vary on; }}
        location /dav/ {{
            dav_methods PUT DELETE MKCOL COPY MOVE;
            add_header X-Framing $http_transfer_encoding$http_content_length always;
        }}
        location /small/ {{ dav_methods PUT; client_max_body_size 1k; }}
    }}
}}
"""


@dataclass
class Nginx(Served):
    """An nginx that is listening, and the directory it serves."""

    root: Path = field(default_factory=Path)


@contextmanager
def nginx(directory: Path) -> Iterator[Nginx]:
    """Run nginx on the files this makes in *directory*."""
    # Debian keeps it where only root's PATH looks.
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    program = shutil.which("nginx", path=path)
    if program is None:
        # `make test` needs nothing but Python; CI installs nginx and must not do without it.
        missing = pytest.fail if "CI" in os.environ else pytest.skip
        missing("nginx is not installed: apt-get install nginx")
    served = Nginx(free_port(), root=directory / "root")
    _make_files(served.root)
    config = directory / "nginx.conf"
    config.write_text(_CONFIG.format(directory=directory, port=served.port))
    command: list[str | Path] = [program, "-p", directory, "-c", config]
    with running(command, served.port, log=directory / "log", env={"PATH": path}):
        yield served


def _make_files(root: Path) -> None:
    for name in ("names", "listing", "gzip", "gzip-static", "dav", "small"):
        (root / name).mkdir(parents=True)
    (root / "large.bin").write_bytes(LARGE)
    (root / "empty.txt").write_bytes(b"")
    (root / "listing" / "one.txt").write_bytes(TEXT)
    (root / "gzip" / "text.txt").write_bytes(TEXT)
    (root / "gzip-static" / "style.css").write_bytes(TEXT)
    (root / "gzip-static" / "style.css.gz").write_bytes(gzip.compress(TEXT))
    for name in NAMES:
        (root / "names" / name).write_bytes(name.encode())
