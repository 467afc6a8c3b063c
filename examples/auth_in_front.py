"""Authentication in front of an upstream that has none.

The dependency runs before anything is forwarded. A header parameter works for HTTP and WebSocket
alike, so one function guards both; what it raises before a WebSocket is accepted becomes the
refusal of its handshake::

    API_TOKEN=secret uvicorn examples.auth_in_front:app
    curl -H 'Authorization: Bearer secret' http://127.0.0.1:8000/
"""

import os
import secrets
from typing import Annotated

from fastapi import Depends, FastAPI, Header, HTTPException

from fastapi_proxy_router import ProxyRouter

EXPECTED = f"Bearer {os.environ['API_TOKEN']}".encode()


async def signed_in(authorization: Annotated[str, Header()] = "") -> None:
    """Refuse whoever does not know the token."""
    if not secrets.compare_digest(authorization.encode(), EXPECTED):
        raise HTTPException(401, "Sign in first", {"WWW-Authenticate": "Bearer"})


app = FastAPI()
app.include_router(
    ProxyRouter(os.getenv("UPSTREAM", "http://127.0.0.1:9000")),
    dependencies=[Depends(signed_in)],
)
