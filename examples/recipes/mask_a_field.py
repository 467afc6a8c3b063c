"""Customers without what not everybody may see.

Who has the role ``support`` reads them as they are; others get a masked address, and no field that
the model does not have: what the upstream adds tomorrow stays inside::

    uvicorn examples.recipes.mask_a_field:app
"""

import os
from typing import Annotated

from fastapi import Depends, FastAPI, Header
from pydantic import BaseModel

from fastapi_proxy_router import ProxyRouter

proxy = ProxyRouter(os.getenv("UPSTREAM", "http://127.0.0.1:9000"))


class Customer(BaseModel):
    """What everybody may see."""

    id: int
    name: str
    email: str


async def role(authorization: Annotated[str, Header()] = "") -> str:
    """Say who asks; in earnest, look into a token."""
    return "support" if authorization == "Bearer support" else "guest"


@proxy.override_response("/customers/{id}")
async def mask(customer: Customer, role: Annotated[str, Depends(role)]) -> Customer | None:
    """Read a customer."""
    if role == "support":
        return None
    return customer.model_copy(update={"email": "***"})


app = FastAPI()
app.include_router(proxy)
