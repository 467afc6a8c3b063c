"""Faults, one by one: of upstreams, of clients, of the network between, and of our own process."""
