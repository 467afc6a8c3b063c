"""A gateway in a process of its own, with few descriptors: run by `test_process_faults.py`.

The arguments are the descriptor to listen on and the URL of the upstream.
"""

from __future__ import annotations

import errno
import logging
import os
import resource
import sys

import uvicorn
from fastapi import FastAPI

from fastapi_proxy_router import ProxyRouter

#: More than the gateway needs to run.
DESCRIPTORS = 64

app = FastAPI()
taken: list[int] = []


@app.post("/starve")
async def starve() -> None:
    """Leave no descriptor."""
    try:
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise


@app.post("/feed")
async def feed() -> None:
    """Give all of them back."""
    while taken:
        os.close(taken.pop())


if __name__ == "__main__":
    descriptor, url = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    logging.basicConfig(level=logging.WARNING)
    app.include_router(ProxyRouter(url))
    uvicorn.run(app, fd=int(descriptor), log_level="critical", log_config=None)
