"""Measurements against other proxies. They print figures and fail on nothing but errors.

``__main__`` runs them: ``contenders`` starts what is measured (``apps`` and ``nginx``) in front of
an ``upstream`` or, for WebSockets, an ``echo_server``. The clients are ``load``, ``streams`` and
``sockets`` with its ``echo_client``. ``report`` judges the figures, and ``soak`` is the long run.
"""
