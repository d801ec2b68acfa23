"""Litestar's own sessions, caches and rate limits over the stores, through a real ASGI client."""
