"""A typed, documented API in front of a legacy one.

The legacy API has one URL, forms and shouted names, and it answers 200 whatever happens. Clients
see ``/customers/{number}``, models, a 404, and a page that documents all of it. Run both apps of
this file, the legacy API first::

    uvicorn examples.facade:legacy --port 9000
    uvicorn examples.facade:app

Then open http://127.0.0.1:8000/docs.
"""

import os
from typing import Annotated, Literal
from urllib.parse import parse_qsl

from fastapi import FastAPI, HTTPException, Query, Request
from pydantic import BaseModel, Field

from fastapi_proxy_router import (
    HeaderEdits,
    ProxyRouter,
    RequestOverride,
    ResponseOverride,
)

# Without methods, nothing is forwarded but what the hooks take.
proxy = ProxyRouter(os.getenv("UPSTREAM", "http://127.0.0.1:9000"), methods=(), tags=["customers"])


class NewCustomer(BaseModel):
    """What a customer is made of."""

    name: Annotated[str, Field(min_length=1, max_length=40)]
    email: Annotated[str, Field(pattern=r"^\S+@\S+$", examples=["june@example.com"])]


class Customer(NewCustomer):
    """A customer, as clients see one."""

    id: int
    active: bool


class LegacyCustomer(BaseModel):
    """The same in the words of the legacy API."""

    number: int = Field(alias="CUST_NO")
    name: str = Field(alias="NM1")
    email: str = Field(alias="EML")
    active: Literal["Y", "N"] = Field(alias="ACT_FLG")


class LegacyAnswer(BaseModel):
    """What the legacy API answers, to everything and always with 200."""

    code: int = Field(alias="RC")
    record: LegacyCustomer | None = Field(None, alias="CUST")


def customer_of(record: LegacyCustomer) -> Customer:
    return Customer(
        id=record.number,
        name=record.name.strip(),
        email=record.email,
        active=record.active == "Y",
    )


NONE = {404: {"description": "There is no such customer"}}
KNOWN = {409: {"description": "There is one with this address"}}


@proxy.override("/customers/{number}", responses=NONE)
async def read_customer(number: int) -> RequestOverride:
    """Read a customer."""
    return RequestOverride(path="/cgi/customer.do", query={"custNo": str(number)})


@proxy.override_response("/customers/{number}")
async def customer_read(answer: LegacyAnswer) -> Customer:
    if answer.record is None:
        raise HTTPException(404, NONE[404]["description"])
    return customer_of(answer.record)


@proxy.override(
    "/customers", methods=["POST"], status_code=201, response_model=Customer, responses=KNOWN
)
async def create_customer(new: NewCustomer) -> RequestOverride:
    """Create a customer."""
    return RequestOverride(path="/cgi/customer.do", form={"NM1": new.name, "EML": new.email})


@proxy.override_response("/customers", methods=["POST"])
async def customer_created(answer: LegacyAnswer) -> ResponseOverride:
    if answer.record is None:
        raise HTTPException(409, KNOWN[409]["description"])
    customer = customer_of(answer.record)
    location = HeaderEdits(set={"location": f"/customers/{customer.id}"})
    return ResponseOverride(status=201, json=customer, headers=location)


app = FastAPI(title="Customers")
app.include_router(proxy)


# The legacy API.

legacy = FastAPI(openapi_url=None)
records = {7: {"CUST_NO": "0007", "NM1": "June    ", "EML": "june@example.com", "ACT_FLG": "Y"}}


@legacy.get("/cgi/customer.do")
async def legacy_read(number: Annotated[int, Query(alias="custNo")]) -> dict[str, object]:
    found = records.get(number)
    return {"RC": 0, "CUST": found} if found else {"RC": 8, "MSG": "NOT FOUND"}


@legacy.post("/cgi/customer.do")
async def legacy_create(request: Request) -> dict[str, object]:
    form = dict(parse_qsl((await request.body()).decode()))
    if any(known["EML"] == form["EML"] for known in records.values()):
        return {"RC": 12, "MSG": "DUPLICATE"}
    number = max(records) + 1
    records[number] = {**form, "CUST_NO": f"{number:04}", "ACT_FLG": "Y"}
    return {"RC": 0, "CUST": records[number]}
