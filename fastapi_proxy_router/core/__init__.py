"""The pure floor: decisions about bytes and upstreams.

Nothing here awaits, reads a clock or opens a socket, and nothing here imports fastapi, httpx or
websockets. From starlette comes one name only, ``HTTPConnection``, the view of an ASGI scope that
FastAPI injects and balancers read.
"""
