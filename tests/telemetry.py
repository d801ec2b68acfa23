"""What a store has recorded, as an SDK of the test's own takes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, Metric, NumberDataPoint
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from sqlstore.telemetry import Instruments

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.sdk.trace import ReadableSpan


class Total(NamedTuple):
    """What was recorded with the same attributes."""

    attributes: Mapping[str, object]
    sum: float
    times: int = 0
    """How often, for a histogram."""


class Recorded:
    """An SDK that keeps everything."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracers = TracerProvider(shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.meters = MeterProvider([self._reader], shutdown_on_exit=False)
        self.instruments = Instruments(self.tracers, self.meters)

    def spans(self) -> list[ReadableSpan]:
        """Return the spans that have ended, in that order."""
        return list(self._exporter.get_finished_spans())

    def metrics(self) -> list[Metric]:
        """Return the metrics that something was recorded for."""
        data = self._reader.get_metrics_data()
        resources = data.resource_metrics if data else ()
        return [metric for resource in resources for scope in resource.scope_metrics for metric in scope.metrics]

    def metrics_json(self) -> str:
        """Return all that the metrics tell."""
        return "".join(metric.to_json() for metric in self.metrics())

    def totals(self, name: str) -> list[Total]:
        """Return what was recorded for the metric of that *name*, in the order of its first time."""
        points = [point for metric in self.metrics() if metric.name == name for point in metric.data.data_points]
        totals: list[Total] = []
        for point in points:
            attributes = dict(point.attributes or {})
            if isinstance(point, HistogramDataPoint):
                totals.append(Total(attributes, point.sum, point.count))
            elif isinstance(point, NumberDataPoint):
                totals.append(Total(attributes, point.value))
        return totals

    def close(self) -> None:
        """End the SDK."""
        self.tracers.shutdown()
        self.meters.shutdown()
