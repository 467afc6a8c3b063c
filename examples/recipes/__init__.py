"""Recipes: small gateways, each for one purpose."""
