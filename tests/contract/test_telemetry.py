"""What OpenTelemetry is told of a store's calls, and what it is not told."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.trace import SpanKind, StatusCode

from sqlstore import CounterError, TableMissingError

from ..telemetry import Recorded, Total
from .conftest import until
from .verbs import KEY, VERBS

if TYPE_CHECKING:
    from collections.abc import Generator

    from sqlstore import BaseSQLSpecStore

    from ..conftest import Adapter, MakeStore
    from ..proxy import Proxy
    from .conftest import Hold

    Store = BaseSQLSpecStore[Any]

SYSTEMS = {"mysql": "mysql", "oracle": "oracle.db", "postgresql": "postgresql", "sqlite": "sqlite"}
"""What OpenTelemetry calls the databases, by their dialects."""


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Generator[Recorded, None, None]:
    """Give what is recorded during the test."""
    recorded = Recorded()
    monkeypatch.setattr("sqlstore.telemetry._instruments", recorded.instruments)
    yield recorded
    recorded.close()


@pytest.fixture
def common(adapter: Adapter, store: Store) -> dict[str, str]:
    """Return the attributes of everything that the store records."""
    return {"db.system.name": SYSTEMS[adapter.dialect], "db.collection.name": store.table_name}


# Spans


async def test_each_call_is_a_span_and_a_duration(store: Store, common: dict[str, str], recorded: Recorded) -> None:
    """Named after the verb and the table, with no attributes but the conventions'."""
    variants = {"get_and_renew": "get", "set_to_expire": "set", "set_expired": "set"}
    operations = [variants.get(name, name) for name in VERBS]
    for call in VERBS.values():
        await call(store)
    spans = recorded.spans()

    assert [span.name for span in spans] == [f"{operation} {store.table_name}" for operation in operations]
    assert [span.attributes for span in spans] == [{**common, "db.operation.name": name} for name in operations]
    assert {span.kind for span in spans} == {SpanKind.CLIENT}
    assert {span.status.status_code for span in spans} == {StatusCode.UNSET}
    durations = recorded.totals("db.client.operation.duration")
    assert [(total.attributes, total.times) for total in durations] == [
        ({**common, "db.operation.name": name}, operations.count(name)) for name in dict.fromkeys(operations)
    ]


async def test_a_span_is_the_child_of_its_own_caller_s(store: Store, recorded: Recorded) -> None:
    """Also when the calls share a statement, which runs for all of them."""
    tracer = recorded.tracers.get_tracer("test")

    async def request(number: int) -> None:
        with tracer.start_as_current_span(f"request {number}"):
            await store.set(f"k{number}", b"v")
            await store.get(f"k{number}")

    await asyncio.gather(*map(request, range(20)))
    spans = recorded.spans()
    requests = {
        (span.context.trace_id, span.context.span_id): span for span in spans if span.context and not span.parent
    }
    calls = [(requests[span.parent.trace_id, span.parent.span_id], span) for span in spans if span.parent]

    assert len(requests) == 20, "a statement is no span"
    assert sorted((of.name, call.name) for of, call in calls) == sorted(
        (of.name, f"{verb} {store.table_name}") for of in requests.values() for verb in ("set", "get")
    )


async def test_a_span_tells_how_its_call_failed(store: Store, common: dict[str, str], recorded: Recorded) -> None:
    """By the exception's class: one of ours, that of bad input, or that the caller has gone."""
    await store.set(KEY, b"no number")
    with pytest.raises(CounterError):
        await store.incr(KEY)
    with pytest.raises(TypeError):
        await store.set(KEY, 1)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await store.pop(KEY)
    await store.drop_table()
    with pytest.raises(TableMissingError):
        await store.get(KEY)
    failed = [
        {**common, "db.operation.name": operation, "error.type": error}
        for operation, error in (
            ("incr", "CounterError"),
            ("set", "TypeError"),
            ("pop", "CancelledError"),
            ("get", "TableMissingError"),
        )
    ]
    spans = [span for span in recorded.spans() if span.status.status_code is StatusCode.ERROR]

    assert [span.attributes for span in spans] == failed
    durations = [total.attributes for total in recorded.totals("db.client.operation.duration")]
    assert [attributes for attributes in durations if "error.type" in attributes] == failed


async def test_nothing_tells_a_key_or_a_value(store: Store, recorded: Recorded) -> None:
    """A session's key is its password, and an exception may quote it; only names are recorded, and numbers."""
    child = store.with_namespace("secret-namespace")
    await asyncio.gather(*(child.set(f"secret-{number}", b"secret-value") for number in range(20)))
    await child.get("secret-1", renew_for=7200)
    await child.set("secret é", b"secret")
    with pytest.raises(CounterError, match="secret"):
        await child.incr("secret-1")
    with pytest.raises(TypeError, match="secret"):
        await child.get_many("secret-1")
    await store.drop_table()
    with pytest.raises(TableMissingError):
        await child.pop("secret-2")
    spans = recorded.spans()
    told = "".join(span.to_json() for span in spans) + recorded.metrics_json()

    assert store.table_name in told
    assert not re.search("secret|73656372", told), "as text or in hexadecimal"
    assert [span.events for span in spans] == [()] * 25, "no exception's text"
    assert {span.status.description for span in spans} == {None}


# Metrics


async def test_batches_tell_their_size_and_duration_and_what_waits_for_them(
    store: Store, common: dict[str, str], recorded: Recorded
) -> None:
    """Every call is in one batch, and there are fewer batches than calls."""
    await asyncio.gather(*(store.set(f"k{number}", b"v") for number in range(100)))
    [size], [duration], [wait] = (
        recorded.totals(f"sqlstore.{name}") for name in ("batch.size", "batch.duration", "operation.wait_time")
    )

    assert size.attributes == duration.attributes == wait.attributes == common
    assert size.sum == wait.times == 100
    assert 1 <= size.times == duration.times < 50
    assert 0 < duration.sum < 60
    assert 0 <= wait.sum < 100 * 60
    assert not recorded.totals("sqlstore.operation.retries")
    assert not recorded.totals("sqlstore.connection.losses")


async def test_retries_are_counted_with_their_reason(
    store: Store, common: dict[str, str], recorded: Recorded, hold: Hold
) -> None:
    """Here somebody's lock; the call itself is one span, and succeeds."""
    await store.set(KEY, b"v")
    async with hold(store.table_name, KEY):
        call = asyncio.create_task(store.set(KEY, b"new"))
        await until(lambda: bool(recorded.totals("sqlstore.operation.retries")))
    await call
    [retries] = recorded.totals("sqlstore.operation.retries")

    assert retries.attributes == {**common, "error.type": "ContentionError"}
    assert retries.sum >= 1
    assert [span.status.status_code for span in recorded.spans()] == [StatusCode.UNSET] * 2


async def test_lost_connections_are_counted(
    store: Store, make_store: MakeStore, common: dict[str, str], recorded: Recorded, proxy: Proxy
) -> None:
    """The caller notices nothing."""
    await store.set(KEY, b"v")
    unlucky = make_store(port=proxy.port)
    proxy.drop_reply_after(KEY.encode())

    assert await unlucky.get(KEY) == b"v"
    assert recorded.totals("sqlstore.connection.losses") == [Total(common, 1)]
    assert recorded.totals("sqlstore.operation.retries") == [Total({**common, "error.type": "ConnectionLostError"}, 1)]


async def test_pruned_rows_are_counted(store: Store, common: dict[str, str], recorded: Recorded) -> None:
    """Over all batches."""
    await store.set_many({f"k{number}": b"v" for number in range(25)}, 0.001)
    await store.set("alive", b"v")
    await asyncio.sleep(0.01)

    assert await store.delete_expired(batch_size=10) == 25
    assert recorded.totals("sqlstore.pruned.rows") == [Total(common, 25)]
