"""nginx, as the upstream of the small requests and as a contender. One worker, in one process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

#: What the upstream answers to everything but the file.
BODY = b"hello world\n"
FILE = "/100k.bin"
FILE_SIZE = 100 * 1024
#: Below this path the upstream answers with JSON, and says in a header what it was asked.
ITEMS = "/items"
ITEM = b'{"id":7,"name":"Ada Lovelace","email":"ada@example.org","roles":["admin","editor"]}'
SEEN = "x-seen"

_MAIN = """
daemon off;
master_process off;
worker_rlimit_nofile 16384;
pid {directory}/pid;
error_log {directory}/error.log;
events {{ worker_connections 16384; }}
http {{
    access_log off;
    default_type application/octet-stream;
    keepalive_requests 1000000000;
    client_max_body_size 0;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    {blocks}
}}
"""

_UPSTREAM = """
    sendfile on;
    tcp_nopush on;
    open_file_cache max=10;
    server {{
        {listen}
        root {directory};
        location / {{ return 200 "hello world\\n"; }}
        location = {file} {{ }}
        location {items} {{
            default_type application/json;
            add_header {seen} "$request_method $request_uri, $http_x_tag, $http_content_length";
            return 200 '{item}';
        }}
    }}
"""

_PROXY = """
    upstream benchmark {{
        server {address};
        keepalive 512;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://benchmark;
            proxy_http_version 1.1;
            {headers}
            proxy_buffering off;
            proxy_request_buffering off;
            {buffers}
        }}
    }}
"""


#: What the upstream is told: to keep the connection, or to make it a WebSocket.
HTTP = 'proxy_set_header Connection "";'
WEBSOCKET = 'proxy_set_header Connection "upgrade"; proxy_set_header Upgrade $http_upgrade;'


def upstream(port: int, directory: Path) -> str:
    """Listen on 127.0.0.1 to 127.0.0.100, so that a pool can have 100 upstreams."""
    directory.joinpath(FILE[1:]).write_bytes(bytes(FILE_SIZE))
    listen = " ".join(f"listen 127.0.0.{n}:{port} backlog=4096;" for n in range(1, 101))
    item = {"items": ITEMS, "item": ITEM.decode(), "seen": SEEN}
    blocks = _UPSTREAM.format(listen=listen, directory=directory, file=FILE, **item)
    return _MAIN.format(directory=directory, blocks=blocks)


def proxy(url: str, buffers: str = "", headers: str = HTTP) -> Callable[[int, Path], str]:
    def config(port: int, directory: Path) -> str:
        address = url.removeprefix("http://")
        blocks = _PROXY.format(address=address, port=port, buffers=buffers, headers=headers)
        return _MAIN.format(directory=directory, blocks=blocks)

    return config


#: Unbuffered, nginx moves a body in pieces of one buffer, which is 4 or 8 KiB by default.
LARGE_BUFFERS = "proxy_buffer_size 64k; proxy_buffers 8 64k; proxy_busy_buffers_size 128k;"
