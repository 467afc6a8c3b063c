"""The Autobahn test suite through the proxy: a case that is worse through it fails the command.

``__main__`` runs it: ``suite`` installs Autobahn's fuzzing client and starts it, ``servers`` is
what it talks to, ``compare`` judges what it found, and ``summary`` writes that down.
"""
