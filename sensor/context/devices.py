"""Which GPU, or what else of a GPU's, a device number is."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

NVIDIA, DRM, ACCEL = 195, 226, 261
"""Majors that are the same on every node (Documentation/admin-guide/devices.txt)."""

_STATIC = {NVIDIA: "nvidia", DRM: "drm", ACCEL: "accel"}

_DYNAMIC = {
    "nvidia-uvm": "nvidia-uvm",
    "nvidia-caps": "nvidia-caps",
    "nvidia-caps-imex-channels": "nvidia-caps",
    "nvidia-nvswitch": "nvidia-nvswitch",
    "nvidia-nvlink": "nvidia-nvlink",
    "kfd": "kfd",
    "habanalabs": "habanalabs",
    "neuron": "neuron",
}
"""Class by the name that a driver whose major is allocated at load has in /proc/devices."""

_NVIDIA_MINORS = {255: "nvidiactl", 254: "nvidia-modeset"}  # kernel-open/common/inc/nv-chardev-numbers.h
_INDEXED_BY_MINOR = {"nvidia", "accel"}

Device = tuple[str, int | None]
"""(DeviceClass, GpuIndex)."""


class Devices:
    """Device numbers of GPUs and their kin. `extra` majors are those that the configuration adds."""

    def __init__(
        self,
        extra: Iterable[int] = (),
        *,
        proc_devices: Path = Path("/proc/devices"),
        sys_dev_char: Path = Path("/sys/dev/char"),
    ) -> None:
        self._extra = dict.fromkeys(extra, "gpu")
        self._proc_devices = proc_devices
        self._sys_dev_char = sys_dev_char
        self._classes: dict[int, str] = {}
        self._known: dict[tuple[int, int], Device] = {}
        self.refresh()

    def majors(self) -> set[int]:
        """Every major that counts as a GPU's, for the kernel side's filter."""
        return set(self._classes)

    def refresh(self) -> bool:
        """Read /proc/devices anew: a driver may have been loaded since. True where `majors` changed."""
        classes = self._extra | _STATIC
        try:
            lines = self._proc_devices.read_text().partition("Block devices:")[0].splitlines()
        except OSError:
            lines = []
        for line in lines:
            major, _, name = line.strip().partition(" ")
            if name in _DYNAMIC and major.isdigit():
                classes[int(major)] = _DYNAMIC[name]
        if classes == self._classes:
            return False
        changed = classes.keys() != self._classes.keys()
        self._classes = classes
        self._known.clear()
        return changed

    def device(self, major: int, minor: int) -> Device:
        """The class of a device and, where its number says it, which GPU it is."""
        known = self._known.get((major, minor))
        if known is None:
            known = self._look_up(major, minor)
            if len(self._known) < 4096:
                self._known[major, minor] = known
        return known

    def _look_up(self, major: int, minor: int) -> Device:
        name = self._classes.get(major, "gpu")
        if name == "nvidia" and minor in _NVIDIA_MINORS:
            return _NVIDIA_MINORS[minor], None
        if name == "drm":
            return self._drm(minor)
        return name, minor if name in _INDEXED_BY_MINOR else None

    def _drm(self, minor: int) -> Device:
        """As drivers/gpu/drm/drm_drv.c numbers: past 64 of a kind, minors from 192 on go to either kind."""
        if minor < 64:
            return "drm-card", minor
        if minor < 128:
            return "drm-control", None
        if minor < 192:
            return "drm-render", minor - 128
        try:
            name = (self._sys_dev_char / f"{DRM}:{minor}").readlink().name
        except OSError:
            return "drm", None
        return ("drm-render" if name.startswith("render") else "drm-card"), None


def gpu_majors(extra: Iterable[int] = ()) -> set[int]:
    """Every device major that counts as a GPU's on this node now, with those that the configuration adds."""
    return Devices(extra).majors()
