"""Two upstreams, the second for when the first cannot be reached.

``proxy_pass`` returns once the upstream's response head is here and raises if none comes, so trying
elsewhere is a plain ``try``::

    uvicorn examples.failover_by_hand:app
"""

import os

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from fastapi_proxy_router import METHODS, BadGateway, GatewayError, Upstream, proxy_pass

first = Upstream(os.getenv("FIRST", "http://127.0.0.1:9001"))
second = Upstream(os.getenv("SECOND", "http://127.0.0.1:9002"))

app = FastAPI()


@app.api_route("/{path:path}", methods=list(METHODS), include_in_schema=False)
async def forward_to_either(request: Request) -> Response:
    # A body is sent as it arrives and then gone. Reading it keeps it, in memory, for a second try.
    await request.body()
    try:
        return await proxy_pass(request, first)
    except GatewayError as error:
        # If it was sent, the first may have done the work, and an order would be made twice.
        if error.request_sent:
            raise
        return await proxy_pass(request, second)


@app.exception_handler(BadGateway)
async def sorry(_request: Request, _error: BadGateway) -> Response:
    return JSONResponse({"detail": "We will be back in a minute"}, 502, {"Retry-After": "60"})
