"""Measurements against other proxies. They print figures and fail on nothing but errors.

``__main__`` runs them: ``contenders`` starts what is measured (``apps`` and ``nginx``) in front of
an ``upstream``, ``load`` and ``streams`` are its clients, ``report`` judges the figures, and
``soak`` is the long run.
"""
