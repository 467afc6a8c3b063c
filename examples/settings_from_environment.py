"""A gateway that is configured from outside: ``PROXY_*`` variables or a ``.env`` file.

The file beside this one sets two pools, their deadlines and an override::

    uvicorn --env-file examples/gateway.env examples.settings_from_environment:app

A value that is wrong, or a ``PROXY_*`` variable that is unknown, stops the start with a message
that names every mistake.
"""

from fastapi import FastAPI

from fastapi_proxy_router import ProxyRouter

app = FastAPI()
app.include_router(ProxyRouter.from_settings())
