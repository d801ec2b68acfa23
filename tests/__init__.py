"""The tests: ``contract`` on every adapter, one driver's own in ``adapters``, without a database in ``unit``."""
