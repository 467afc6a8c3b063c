"""Real applications that the tests put behind the proxy, each in a process of its own."""
