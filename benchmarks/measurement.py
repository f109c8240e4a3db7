"""How a training run is measured: wall and processor time at marks, and the peak of its resident memory."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Moment:
    """A point in time: seconds on the wall, and processor seconds of all threads of this process."""

    wall: float
    cpu: float

    @classmethod
    def now(cls) -> Moment:
        return cls(time.perf_counter(), time.process_time())

    def __sub__(self, earlier: Moment) -> Moment:
        return Moment(self.wall - earlier.wall, self.cpu - earlier.cpu)


def compile_seconds() -> float:
    """Seconds that torch.compile has taken in this process, waiting for its helpers included."""
    from torch._dynamo.utils import calculate_time_spent

    return float(calculate_time_spent().get("total_wall_time", 0.0))


def load_compiler() -> None:
    """Import what torch.compile needs, so that a run's time is without it on every side."""
    import torch._dynamo
    import torch._inductor.compile_fx  # noqa: F401


def resident_mib() -> float:
    """Resident memory of this process in MiB."""
    found = re.search(r"VmRSS:\s+(\d+) kB", STATUS.read_text(encoding="utf-8"))
    if found is None:
        raise OSError(f"{STATUS} has no VmRSS")
    return int(found[1]) / 1024


class PeakMemory:
    """Peak resident memory above what was resident on entry, looked at every few milliseconds by a thread."""

    def __init__(self, every_s: float = 0.01) -> None:
        self.every_s = every_s
        self.start_mib = self.peak_mib = 0.0
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self.start_mib = self.peak_mib = resident_mib()
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ended.set()
        self.thread.join()

    @property
    def above_mib(self) -> float:
        return self.peak_mib - self.start_mib

    def _watch(self) -> None:
        while not self.ended.wait(self.every_s):
            self.peak_mib = max(self.peak_mib, resident_mib())
