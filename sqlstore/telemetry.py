"""Traces and metrics through opentelemetry-api where that is installed; nothing where it is not.

Names, units and attributes are those of OpenTelemetry's conventions for database clients
(opentelemetry.io/docs/specs/semconv/db), which are stable; what they have no name for begins with ``sqlstore.``.

Each call of a store is a span, from the call to its answer with all that is repeated in between, as those conventions
ask. A statement has none: it belongs to all calls that share it, so it would be no call's child but a trace of its own,
sampled apart from theirs, and there would be as many traces as batches. What batches do is told by metrics.

No key, value or principal is recorded. An error is known by its class alone, because drivers quote rows in its text.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cache, wraps
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Mapping

    from opentelemetry.metrics import Histogram, MeterProvider
    from opentelemetry.trace import TracerProvider

__all__ = ("Instruments", "active", "answered", "lost", "pruned", "retried", "sent", "traced")

VerbT = TypeVar("VerbT", bound="Callable[..., Coroutine[Any, Any, object]]")

# What the conventions advise for seconds; the default of an SDK is made for milliseconds.
SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
OPERATIONS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)


class Instruments:
    """Where everything goes: to the application's SDK, also to one that is set up later, or nowhere without one."""

    def __init__(
        self, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
    ) -> None:
        """Make them; None stands for the providers that the whole process has.

        Raises:
            ImportError: opentelemetry-api is not installed.
        """
        from opentelemetry import metrics, trace  # noqa: PLC0415 - most applications have none

        tracer = trace.get_tracer("sqlstore", tracer_provider=tracer_provider)
        meter = metrics.get_meter("sqlstore", meter_provider=meter_provider)

        def histogram(name: str, unit: str, boundaries: tuple[float, ...], description: str) -> Histogram:
            return meter.create_histogram(name, unit, description, explicit_bucket_boundaries_advisory=boundaries)

        self._providers = trace.get_tracer_provider, metrics.get_meter_provider
        self._next_look = 0.0
        self.sdk = bool(tracer_provider or meter_provider)
        """Somebody takes what is recorded."""
        self.start_span = tracer.start_span
        self.client = trace.SpanKind.CLIENT
        self.failed = trace.StatusCode.ERROR
        self.duration = histogram("db.client.operation.duration", "s", SECONDS, "Calls of a store.")
        self.wait = histogram("sqlstore.operation.wait_time", "s", SECONDS, "From a call until it is sent.")
        self.size = histogram("sqlstore.batch.size", "{operation}", OPERATIONS, "Calls that are sent together.")
        self.batch = histogram("sqlstore.batch.duration", "s", SECONDS, "From sending a batch until its answer.")
        self.retries = meter.create_counter("sqlstore.operation.retries", "{retry}", "Calls that are tried again.")
        self.losses = meter.create_counter("sqlstore.connection.losses", "{connection}", "Lost with a batch on them.")
        self.pruned = meter.create_counter("sqlstore.pruned.rows", "{row}", "Expired rows that were deleted.")

    def look(self) -> bool:
        """Return whether there is an SDK; one that is set up after the first call is seen within 0.1 s.

        To ask each time, or to let the API find out, costs a call 1.1 µs, and this 0.35; of 64 reads at once, each
        costs 8 (SQLite).
        """
        if (now := perf_counter()) >= self._next_look:
            self._next_look = now + 0.1
            # The API brings providers of its own, which do nothing.
            self.sdk = any(not type(get()).__module__.startswith(_API) for get in self._providers)
        return self.sdk


_API = ("opentelemetry.metrics", "opentelemetry.trace")
_instruments: Instruments | None = None
with suppress(ImportError):
    _instruments = Instruments()


def active() -> bool:
    """Return whether anything is recorded."""
    return _instruments is not None and (_instruments.sdk or _instruments.look())


@cache
def _attributes(system: str, table: str, operation: str | None = None) -> Mapping[str, str]:
    attributes = {"db.system.name": system, "db.collection.name": table}
    return attributes if operation is None else {**attributes, "db.operation.name": operation}


def _error(error: BaseException) -> Mapping[str, str]:
    return {"error.type": type(error).__name__}


def traced(verb: VerbT) -> VerbT:
    """Make each call of *verb*, a method of a store, a span, and record how long it took."""
    if _instruments is None:
        return verb
    operation = verb.__name__

    @wraps(verb)
    async def call(store: Any, *args: object, **kwargs: object) -> object:  # noqa: ANN401 - what *verb* takes
        if (to := _instruments) is None or not (to.sdk or to.look()):
            return await verb(store, *args, **kwargs)
        table: str = store.table_name
        attributes = _attributes(store.config.dialect.system, table, operation)
        span = to.start_span(f"{operation} {table}", kind=to.client, attributes=attributes)
        started = perf_counter()
        try:
            return await verb(store, *args, **kwargs)
        except BaseException as error:
            span.set_attributes(_error(error))
            attributes = {**attributes, **_error(error)}
            span.set_status(to.failed)
            raise
        finally:
            to.duration.record(perf_counter() - started, attributes)
            span.end()

    return cast("VerbT", call)


def sent(system: str, table: str, waits: Collection[float]) -> None:
    """Record a batch of operations that have waited so many seconds, each since its call."""
    if _instruments is not None:
        attributes = _attributes(system, table)
        _instruments.size.record(len(waits), attributes)
        for wait in waits:
            _instruments.wait.record(wait, attributes)


def answered(system: str, table: str, seconds: float) -> None:
    """Record how long the database took for a batch."""
    if _instruments is not None:
        _instruments.batch.record(seconds, _attributes(system, table))


def retried(system: str, table: str, error: Exception) -> None:
    """Count an operation that will be sent again, because of *error*."""
    if _instruments is not None:
        _instruments.retries.add(1, {**_attributes(system, table), **_error(error)})


def lost(system: str, table: str) -> None:
    """Count a connection that broke with a batch on it."""
    if _instruments is not None:
        _instruments.losses.add(1, _attributes(system, table))


def pruned(system: str, table: str, rows: int) -> None:
    """Count expired rows that were deleted."""
    if _instruments is not None:
        _instruments.pruned.add(rows, _attributes(system, table))
