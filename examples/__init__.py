"""Small gateways, each one file that runs."""
