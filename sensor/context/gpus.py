"""GPU time by cgroup, from NVML (nvidia-ml-py, optional; nvmlDeviceGetProcessUtilization)."""

from __future__ import annotations

import importlib
import threading
from pathlib import Path
from typing import Any

DRIVER = Path("/proc/driver/nvidia")
_OWN_HIERARCHY = "0::"
"""How the cgroup v2 line of /proc/PID/cgroup begins (cgroups(7))."""


class Nvml:
    """Every GPU's per-process utilisation, summed by cgroup. NVML is opened beside the start, which it would hold up.

    GPUs that are split (MIG) do not know their processes' shares: they count in `failures`.
    """

    def __init__(self) -> None:
        self.failures = 0
        """Devices that did not say, each time they were asked."""
        self.why: str | None = "NVML is being opened"
        """Why nothing can be told; None once it can."""
        self._nvml: Any = None
        self._devices: list[Any] = []
        self._seen: list[int] = []
        self._opening = threading.Thread(target=self._open, name="nvml", daemon=True)
        self._opening.start()

    def wait(self) -> None:
        """Until it is open, or known why not."""
        self._opening.join()

    def _open(self) -> None:
        try:
            nvml = importlib.import_module("pynvml")
        except ImportError:
            self.why = "the Python module nvidia-ml-py is not installed"
            return
        try:
            nvml.nvmlInit()
            self._devices = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        except nvml.NVMLError as error:
            self.why = f"NVML: {error}"
            return
        self._seen = [0] * len(self._devices)
        self._nvml = nvml
        self.why = None if self._devices else "NVML knows no GPU"

    def __call__(self) -> dict[str, float] | None:
        """Cgroup path -> percent of one GPU, averaged over the driver's samples since the last call; None: unknown."""
        if self.why is not None:
            return None
        used: dict[str, float] = {}
        for number, device in enumerate(self._devices):
            for pid, percent in self._processes(number, device).items():
                path = cgroup_of(pid)
                if path is not None:
                    used[path] = used.get(path, 0.0) + percent
        return used

    def _processes(self, number: int, device: Any) -> dict[int, float]:
        try:
            samples = self._nvml.nvmlDeviceGetProcessUtilization(device, self._seen[number])
        except self._nvml.NVMLError as error:
            if error.value not in (self._nvml.NVML_SUCCESS, self._nvml.NVML_ERROR_NOT_FOUND):  # no process since
                self.failures += 1
            return {}
        by_pid: dict[int, list[int]] = {}
        for sample in samples:
            self._seen[number] = max(self._seen[number], sample.timeStamp)
            by_pid.setdefault(sample.pid, []).append(sample.smUtil)
        return {pid: sum(values) / len(values) for pid, values in by_pid.items()}


def cgroup_of(pid: int) -> str | None:
    """The process's cgroup v2 path; None where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_bytes().decode("utf-8", "backslashreplace").splitlines()
    except OSError:
        return None
    return next((line.removeprefix(_OWN_HIERARCHY) for line in lines if line.startswith(_OWN_HIERARCHY)), None)
