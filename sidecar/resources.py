"""What this machine has and how busy it is. What cannot be measured is None, not 0."""

from __future__ import annotations

import contextlib
import warnings
from typing import Any

import psutil

from events import catalogue as c


class Machine:
    """Reads CPU and memory (psutil) and graphics memory (NVML, where there is one)."""

    def __init__(self) -> None:
        self._nvml = _nvml()
        self._cores = psutil.cpu_count()
        with contextlib.suppress(psutil.Error, OSError):
            # The first answer covers no time at all; the next one counts from here.
            psutil.cpu_percent(None)

    def read(self) -> c.Resources:
        """Measure now; CPU is the mean since the last time."""
        cpu: float | None = None
        total: int | None = None
        free: int | None = None
        with contextlib.suppress(psutil.Error, OSError):
            cpu = min(max(psutil.cpu_percent(None) / 100, 0.0), 1.0)
        with contextlib.suppress(psutil.Error, OSError):
            memory = psutil.virtual_memory()
            total, free = memory.total, memory.available
        return c.Resources(
            cpu=cpu,
            cores=self._cores,
            ram_total_bytes=total,
            ram_free_bytes=free,
            gpus=self._gpus(),
        )

    def _gpus(self) -> list[c.Gpu]:
        nvml = self._nvml
        if nvml is None:
            return []
        gpus = []
        try:
            for i in range(nvml.nvmlDeviceGetCount()):
                card = nvml.nvmlDeviceGetHandleByIndex(i)
                name = nvml.nvmlDeviceGetName(card)
                memory = nvml.nvmlDeviceGetMemoryInfo(card)
                gpus.append(
                    c.Gpu(
                        name if isinstance(name, str) else name.decode(),
                        int(memory.total),
                        int(memory.free),
                    )
                )
        except nvml.NVMLError:
            # A driver that was reloaded under us: unknown until the next start.
            self._nvml = None
            return []
        return gpus


def _nvml() -> Any:
    """Return the NVML binding where a driver answers, else None."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml
