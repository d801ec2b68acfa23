"""Print the spans of a store's calls; an application would send them, and the metrics, to its collector."""

import asyncio
from contextlib import suppress

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

from sqlstore import CounterError
from sqlstore.adapters.sqlite import SqliteConfig, SqliteStore


def line(span: ReadableSpan) -> str:
    """Tell the name of *span*, and how it ended."""
    error = (span.attributes or {}).get("error.type", span.status.status_code.name)
    return f"{span.name}, in the request: {error}\n" if span.parent else f"{span.name}\n"


tracer_provider = TracerProvider()
tracer_provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(formatter=line)))
trace.set_tracer_provider(tracer_provider)


async def main() -> None:
    """Use a store in a span of the application's own."""
    async with SqliteStore(SqliteConfig(pool_config={"database": ":memory:"})) as store:
        await store.create_table()
        with trace.get_tracer("shop").start_as_current_span("request"):
            await store.set("greeting", "hello")
            await store.get("greeting")
            with suppress(CounterError):
                await store.incr("greeting")


asyncio.run(main())
