"""The store contract: every test runs on every adapter."""
