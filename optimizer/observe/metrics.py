"""What a worker does as metrics for Prometheus, served over HTTP.

docs/reference/events-and-metrics.md has the table of them.

Counters say what this process did. `mergetune_study_trials` and `mergetune_best_gain` say what the database had for all
workers when this worker last read it.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress

import prometheus_client as prometheus
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from basics.texts import visible
from optimizer.errors import ObservationError
from optimizer.observe.events import (
    Event,
    ImagesRendered,
    OutageBegan,
    OutageEnded,
    TrialEnded,
    TrialLost,
    TrialStarted,
    WorkerLeft,
    WorkerStarted,
)
from optimizer.observe.http_clients import Frequency
from optimizer.observe.http_gate import (
    LOCAL_NAMES,
    Application,
    for_local_names,
    for_names_in_a_network,
    for_own_pages,
)
from optimizer.observe.http_server import HttpServer, Limits
from optimizer.system.retry import OUTAGES
from optimizer.trial.objective import Objective
from optimizer.trial.ranking import best_gains
from studies.records.cached_reads import CachedTrials
from studies.records.study_records import StudyRecords
from studies.records.values import StoredTrial

LOOPBACK = "127.0.0.1"
LIMITS = Limits(connections=32, connections_per_address=16, body_bytes=1, threads=2)
SCRAPES = 20  # of one address at once; those beyond SCRAPES_PER_SECOND wait, for they cost the worker time
SCRAPES_PER_SECOND = 2
CLOSE_SECONDS = 10
NO_STUDY = ""  # the label `study` of what happens between two studies; Prometheus takes an empty label for none
STAGE_BUCKETS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)  # seconds: a demo's merge to a large suite


class GpuMemory(Collector):
    """Bytes of torch's allocator on each CUDA device that this process uses, read at every scrape."""

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily(
            "mergetune_gpu_memory_bytes",
            "Memory of torch's CUDA allocator: allocated, reserved, and the peak allocated since the start.",
            labels=("device", "kind"),
        )
        with suppress(AttributeError):  # another thread is still importing torch, and not all of it is there
            _add_devices(family)
        yield family


def _add_devices(family: GaugeMetricFamily) -> None:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return
    for device in range(torch.cuda.device_count()):
        if torch.cuda.max_memory_reserved(device):
            family.add_metric((str(device), "allocated"), torch.cuda.memory_allocated(device))
            family.add_metric((str(device), "reserved"), torch.cuda.memory_reserved(device))
            family.add_metric((str(device), "peak"), torch.cuda.max_memory_allocated(device))


class Metrics:
    """The metrics of one process, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = prometheus.CollectorRegistry()
        prometheus.ProcessCollector(registry=registry)
        registry.register(GpuMemory())
        of = ("study",)
        self.up = prometheus.Gauge("mergetune_worker_up", "1 while a worker is on the study.", of, registry=registry)
        self.trials = prometheus.Counter(
            "mergetune_trials", "Trials that ended here: complete, stopped, failed or lost.", (*of, "outcome"),
            registry=registry,
        )  # fmt: skip
        self.failures = prometheus.Counter(
            "mergetune_trial_failures", "Trials that failed here, by the kind of reason.", (*of, "reason"),
            registry=registry,
        )  # fmt: skip
        self.images = prometheus.Counter("mergetune_images", "Images rendered here.", of, registry=registry)
        self.seconds = prometheus.Histogram(
            "mergetune_stage_seconds", "Seconds of a trial by stage.", (*of, "stage"), buckets=STAGE_BUCKETS,
            registry=registry,
        )  # fmt: skip
        self.outages = prometheus.Counter(
            "mergetune_outages", "How often the study database or the artifact store went away.", of, registry=registry
        )
        self.away = prometheus.Gauge("mergetune_outage", "1 while either is waited for.", of, registry=registry)
        self.stored = prometheus.Gauge(
            "mergetune_study_trials", "Trials in the database: running, complete, stopped, failed.", (*of, "state"),
            registry=registry,
        )  # fmt: skip
        self.best = prometheus.Gauge(
            "mergetune_best_gain", "Best gain over the better parent observed in the search, of all workers.",
            (*of, "objective"), registry=registry,
        )  # fmt: skip

    def count_outage(self, event: OutageBegan | OutageEnded, study: str = NO_STUDY) -> None:
        """Count an outage and show whether it lasts."""
        if isinstance(event, OutageBegan):
            self.outages.labels(study).inc()
        self.away.labels(study).set(isinstance(event, OutageBegan))

    def report(self, event: Event) -> None:
        """Count an event of no study in particular."""
        if isinstance(event, OutageBegan | OutageEnded):
            self.count_outage(event)


@contextmanager
def served(address: str, limits: Limits = LIMITS) -> Iterator[tuple[Metrics, str]]:
    """Serve new metrics while the block runs; give them, and the address at which they are.

    Args:
        address: `PORT` or `HOST:PORT`; loopback unless a host is given, and any free port for 0.
        limits: what clients may take of the server.

    Raises:
        ObservationError: it is no address, or cannot be listened on.
    """
    host, port = parse_address(address)
    metrics = Metrics()
    try:
        server = _server(metrics, host, port, limits)
    except (OSError, ValueError, RuntimeError) as error:  # no such address; no such name; no more threads
        reason = getattr(error, "strerror", None) or error
        raise ObservationError(
            f"metrics cannot be served at {address}: {reason}: give another [HOST:]PORT with --metrics"
        ) from error
    thread = threading.Thread(target=server.run, name="metrics", daemon=True)
    thread.start()
    try:
        yield metrics, f"http://{f'[{host}]' if ':' in host else host}:{server.port}/metrics"
    finally:
        server.close()
        thread.join(CLOSE_SECONDS)


def _server(metrics: Metrics, host: str, port: int, limits: Limits) -> HttpServer:
    frequency = Frequency(SCRAPES, SCRAPES_PER_SECOND)

    def must_wait(address: str, _headers: Mapping[str, str]) -> bool:
        frequency.count(address)
        return frequency.is_too_high(address)

    application: Application = for_own_pages(prometheus.make_wsgi_app(metrics.registry))
    named = for_local_names if host in LOCAL_NAMES else for_names_in_a_network
    return HttpServer(named(application, host), host, port, limits, must_wait=must_wait)


def parse_address(address: str) -> tuple[str, int]:
    """Return host and port of `PORT`, `HOST:PORT` or `[IPv6]:PORT`.

    Raises:
        ObservationError: it is none of these.
    """
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    named = bool(host) == (":" in address) and (":" not in host or address.startswith("["))
    if not (named and port.isascii() and port.isdigit() and len(port) <= 5 and int(port) < 65536):
        raise ObservationError(f"--metrics takes [HOST:]PORT, as 9464 or 0.0.0.0:9464, got {address!r}")
    return host or LOOPBACK, int(port)


class MetricsReporter:
    """A reporter that counts what a worker does on one study."""

    def __init__(self, metrics: Metrics, records: StudyRecords) -> None:
        self._metrics, self._study = metrics, visible(records.study.name)
        self._objective = Objective.of(records.study.spec, records.study.spec.infos)
        self._cached_trials = CachedTrials(records)
        self._seen = 0  # images of the trial in progress
        metrics.outages.labels(self._study)  # 0 is shown too
        metrics.away.labels(self._study).set(0)

    def report(self, event: Event) -> None:
        """Count an event."""
        match event:
            case WorkerStarted():
                self._metrics.up.labels(self._study).set(1)
                self._read_database()
            case WorkerLeft():
                self._metrics.up.labels(self._study).set(0)
            case TrialStarted():
                self._seen = 0
            case ImagesRendered(images=images):
                self._metrics.images.labels(self._study).inc(images - self._seen)
                self._seen = images
            case TrialEnded(stored=trial):
                self._count_trial(trial)
                self._read_database()
            case TrialLost():
                self._metrics.trials.labels(self._study, "lost").inc()
            case OutageBegan() | OutageEnded():
                self._metrics.count_outage(event, self._study)

    def _count_trial(self, trial: StoredTrial) -> None:
        self._metrics.trials.labels(self._study, _state(trial)).inc()
        if trial.state == "failed":
            self._metrics.failures.labels(self._study, trial.failure).inc()
        for stage, seconds in trial.seconds.items():
            self._metrics.seconds.labels(self._study, stage).observe(seconds)

    def _read_database(self) -> None:
        """Read the database's figures. While it is away the last ones stay: no trial may be counted twice."""
        with suppress(*OUTAGES):
            trials = self._cached_trials.trials()
            counts = Counter(map(_state, trials))
            for state in ("running", "complete", "stopped", "failed"):
                self._metrics.stored.labels(self._study, state).set(counts[state])
            for name, gain in best_gains(trials, self._objective).items():
                self._metrics.best.labels(self._study, visible(name)).set(gain.value)


def _state(trial: StoredTrial) -> str:
    return "stopped" if trial.estimated else trial.state
