from __future__ import annotations

from pathlib import Path

import pytest

from sensor.context.devices import Devices, gpu_majors

PROC_DEVICES = """Character devices:
  1 mem
195 nvidia
195 nvidia-modeset
195 nvidiactl
226 drm
235 nvidia-caps
238 kfd
508 nvidia-uvm

Block devices:
  7 loop
259 kfd
"""


@pytest.fixture
def devices(tmp_path: Path) -> Devices:
    (tmp_path / "devices").write_text(PROC_DEVICES)
    (tmp_path / "226:192").symlink_to("../../devices/pci0000:00/drm/renderD192")
    (tmp_path / "226:193").symlink_to("../../devices/pci0000:00/drm/card193")
    return Devices([77], proc_devices=tmp_path / "devices", sys_dev_char=tmp_path)


@pytest.mark.parametrize(
    ("major", "minor", "device_class", "index"),
    [
        (195, 0, "nvidia", 0),
        (195, 7, "nvidia", 7),
        (195, 254, "nvidia-modeset", None),
        (195, 255, "nvidiactl", None),
        (508, 0, "nvidia-uvm", None),
        (235, 3, "nvidia-caps", None),
        (238, 0, "kfd", None),
        (226, 1, "drm-card", 1),
        (226, 64, "drm-control", None),
        (226, 128, "drm-render", 0),
        (226, 191, "drm-render", 63),
        (226, 192, "drm-render", None),
        (226, 193, "drm-card", None),
        (226, 194, "drm", None),
        (261, 2, "accel", 2),
        (77, 5, "gpu", None),
        (78, 5, "gpu", None),
    ],
)
def test_class(devices: Devices, major: int, minor: int, device_class: str, index: int | None) -> None:
    assert devices.device(major, minor) == (device_class, index)


def test_majors_are_the_fixed_the_found_and_the_configured(devices: Devices) -> None:
    assert devices.majors() == {195, 226, 261, 508, 235, 238, 77}
    assert gpu_majors([4000]) >= {195, 226, 261, 4000}


def test_driver_loaded_later(devices: Devices, tmp_path: Path) -> None:
    assert devices.device(240, 0) == ("gpu", None)
    assert not devices.refresh()
    (tmp_path / "devices").write_text("Character devices:\n240 kfd\n")
    assert devices.refresh()
    assert devices.device(240, 0) == ("kfd", None)
    assert 508 not in devices.majors()


def test_without_proc_devices_the_fixed_majors_remain(tmp_path: Path) -> None:
    assert Devices(proc_devices=tmp_path / "none").majors() == {195, 226, 261}
