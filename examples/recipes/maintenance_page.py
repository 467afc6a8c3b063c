"""A page instead of an error, and a page on purpose.

If no upstream can be reached, or one answers 502, 503 or 504, clients get this page with that
status. While there is a file ``maintenance``, everybody does, WebSockets too, and the upstream
hears nothing::

    uvicorn examples.recipes.maintenance_page:app
    touch maintenance
"""

import os
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from starlette.requests import HTTPConnection

from fastapi_proxy_router import ErrorPage, HeaderEdits, ProxyRouter, RouteOverride

FLAG = Path(os.getenv("FLAG", "maintenance"))
PAGE = "<!doctype html><title>Back soon</title><h1>We are back in a minute</h1>"

proxy = ProxyRouter(
    os.getenv("UPSTREAM", "http://127.0.0.1:9000"),
    overrides=[
        RouteOverride(
            path="/{rest:path}",
            error_pages=[
                ErrorPage(
                    statuses=["502-504"],
                    text=PAGE,
                    media_type="text/html",
                    headers=HeaderEdits(set={"retry-after": "60"}),
                )
            ],
        )
    ],
)


@proxy.on_request
def closed(connection: HTTPConnection) -> HTMLResponse | None:
    """Answer at once while the file is there; a function that is not async may look at disks."""
    return HTMLResponse(PAGE, 503, {"retry-after": "600"}) if FLAG.exists() else None


app = FastAPI()
app.include_router(proxy)
