"""The stores without OpenTelemetry, and with an SDK that comes late."""

from __future__ import annotations

import subprocess
import sys

from opentelemetry.sdk.metrics.export import HistogramDataPoint

from ..telemetry import Recorded

USE = """
async def use():
    async with SqliteStore(SqliteConfig(pool_config={"database": ":memory:"})) as store:
        await store.create_table()
        await store.set("k", b"v")
        return await store.get("k")
"""
WITHOUT = f"""
import asyncio, sys
sys.modules["opentelemetry"] = None
from sqlstore.adapters.sqlite import SqliteConfig, SqliteStore
{USE}
print(asyncio.run(use()), SqliteStore.get.__code__.co_name)
"""
LATE = f"""
import asyncio, time
from sqlstore.adapters.sqlite import SqliteConfig, SqliteStore
{USE}
asyncio.run(use())
from tests.telemetry import Recorded
from opentelemetry import metrics, trace
recorded = Recorded()
trace.set_tracer_provider(recorded.tracers)
metrics.set_meter_provider(recorded.meters)
time.sleep(0.2)
asyncio.run(use())
print(*(span.name for span in recorded.spans()), recorded.totals("sqlstore.batch.size")[0].times)
"""


def _printed(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True).stdout


def test_the_api_is_not_needed() -> None:
    """Where it is not installed, a verb is just itself."""
    assert _printed(WITHOUT) == "b'v' get\n"


def test_an_sdk_may_be_set_up_after_the_first_call() -> None:
    """What is called later is recorded."""
    assert _printed(LATE) == "set litestar_session get litestar_session 2\n"


def test_a_duration_has_the_buckets_of_the_conventions() -> None:
    """Those of an SDK's own begin at five seconds."""
    recorded = Recorded()
    recorded.instruments.duration.record(0.002)
    [[point]] = [metric.data.data_points for metric in recorded.metrics()]
    recorded.close()

    assert isinstance(point, HistogramDataPoint)
    assert point.explicit_bounds == (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)
    assert point.bucket_counts[1] == 1
