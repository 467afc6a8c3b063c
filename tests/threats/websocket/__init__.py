"""W rows of the catalogue of threats: WebSockets in bytes, on every server."""
