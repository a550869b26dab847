"""Is this node ready for the sensor? Each answer is one sentence; for what is missing it says what to do."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import re
from pathlib import Path

import msgspec

from sensor.node import NodeError, cgroup2_mount

OBJECT = Path(__file__).parent / "kernel" / "hostbrake.bpf.o"
LIBBPF = "libbpf.so.1"
MINIMUM_KERNEL = (5, 15)
"""cgroup.kill is 5.14; 5.15 is the first long-term kernel after it."""

CAPABILITIES = {
    "CAP_CHOWN": 0,
    "CAP_DAC_OVERRIDE": 1,
    "CAP_DAC_READ_SEARCH": 2,
    "CAP_KILL": 5,
    "CAP_NET_ADMIN": 12,
    "CAP_SYS_PTRACE": 19,
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
}
"""What the sensor needs of root (numbers: linux/capability.h); `hostbrake.service` says what for."""

# include/linux/proc_ns.h: PROC_CGROUP_INIT_INO, PROC_PID_INIT_INO
_INITIAL_NAMESPACES = {"cgroup": 0xEFFFFFFB, "pid": 0xEFFFFFFC}

_BPF_SYSCALL = {"x86_64": 321, "aarch64": 280}
_BPF_MAP_CREATE = 0
_BPF_PROG_QUERY = 16
_BPF_MAP_TYPE_ARRAY = 2
_BPF_CGROUP_DEVICE = 6


class Item(msgspec.Struct, frozen=True):
    """One thing that the sensor needs of this node."""

    name: str
    ready: bool
    says: str
    """What was found, or what is missing and what to do."""


def node_items(root: Path = Path("/"), cgroup_root: Path | None = None) -> list[Item]:
    """Every need and whether it is met. `root` is where /proc and /sys are looked for."""
    cgroup = cgroup2(root / "proc/self/mountinfo", cgroup_root)
    return [
        capabilities(root / "proc/self/status"),
        namespaces(root / "proc/self/ns"),
        kernel_version(platform.release()),
        btf(root / "sys/kernel/btf/vmlinux"),
        lockdown(root / "sys/kernel/security/lockdown"),
        cgroup,
        bpf_syscall(),
        cgroup_bpf(Path(cgroup.says)) if cgroup.ready else _missing("cgroup-bpf", "needs cgroup v2, see above"),
        library(LIBBPF),
        bpf_object(OBJECT),
    ]


def obstacle(root: Path = Path("/"), cgroup_root: Path | None = None) -> str | None:
    """The first thing that keeps the sensor from running here, as one sentence; None where nothing does."""
    return next((item.says for item in node_items(root, cgroup_root) if not item.ready), None)


def _found(name: str, says: str) -> Item:
    return Item(name, True, says)


def _missing(name: str, says: str) -> Item:
    return Item(name, False, says)


def capabilities(status: Path) -> Item:
    """Root, or each capability by itself: proc(5), CapEff in /proc/PID/status."""
    try:
        match = re.search(r"^CapEff:\s*([0-9a-f]+)$", status.read_text(), re.MULTILINE)
    except OSError as error:
        return _missing("root", f"{status} cannot be read ({error.strerror}); mount proc")
    held = int(match[1], 16) if match else 0
    lacking = [name for name, bit in CAPABILITIES.items() if not held >> bit & 1]
    if not lacking:
        return _found("root", "all capabilities that the sensor needs are there")
    if os.geteuid() != 0:
        return _missing("root", "not root; run as root, for example with sudo")
    return _missing("root", f"root lacks {', '.join(lacking)}; run outside a container, or grant them")


def namespaces(directory: Path) -> Item:
    """The kernel reports pids and cgroup paths as the initial namespaces number them."""
    other = []
    for name, inode in _INITIAL_NAMESPACES.items():
        try:
            if (directory / name).stat().st_ino != inode:
                other.append(name)
        except OSError as error:
            return _missing("namespaces", f"{directory / name} cannot be read ({error.strerror}); mount proc")
    if other:
        said = " and ".join(other)
        return _missing(
            "namespaces",
            f"this is not the node's own {said} namespace; run on the node itself, "
            "or start the container with --pid=host --cgroupns=host",
        )
    return _found("namespaces", "the node's own")


def kernel_version(release: str) -> Item:
    match = re.match(r"(\d+)\.(\d+)", release)
    if match and (int(match[1]), int(match[2])) >= MINIMUM_KERNEL:
        return _found("kernel", release)
    needed = ".".join(map(str, MINIMUM_KERNEL))
    return _missing("kernel", f"kernel {release} is too old; boot {needed} or newer")


def btf(path: Path) -> Item:
    if path.is_file():
        return _found("BTF", str(path))
    return _missing("BTF", f"the kernel has no BTF ({path}); boot one built with CONFIG_DEBUG_INFO_BTF=y")


def lockdown(path: Path) -> Item:
    """kernel_lockdown(7): integrity lets BPF programs read kernel memory, confidentiality does not."""
    try:
        text = path.read_text().strip()
    except FileNotFoundError:
        if path.parent.is_dir() and not any(path.parent.iterdir()):
            return _found("lockdown", f"not told: securityfs is not mounted at {path.parent}")
        return _found("lockdown", "none")
    except OSError as error:
        return _missing("lockdown", f"{path} cannot be read ({error.strerror}); run as root")
    match = re.search(r"\[(\w+)\]", text)
    mode = match[1] if match else text
    if mode == "confidentiality":
        return _missing("lockdown", "lockdown=confidentiality keeps BPF from reading; boot with lockdown=integrity")
    return _found("lockdown", mode)


def cgroup2(mountinfo: Path, cgroup_root: Path | None = None) -> Item:
    """Where it is ready, `says` is the directory alone."""
    try:
        path = cgroup_root or cgroup2_mount(str(mountinfo))
    except NodeError as error:
        return _missing("cgroup v2", str(error))
    except OSError as error:
        return _missing("cgroup v2", f"{mountinfo} cannot be read ({error.strerror}); mount proc")
    if not (path / "cgroup.controllers").exists():  # no file of cgroup v1
        return _missing("cgroup v2", f"{path} is no cgroup v2 directory; name one with --cgroup-root")
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return _missing("cgroup v2", f"{path} is read-only, so nothing could be killed; mount -o remount,rw {path}")
    return _found("cgroup v2", str(path))


def bpf_syscall() -> Item:
    """Makes an array map of one element, the least that the loader asks for."""
    attributes = (ctypes.c_uint32 * 18)(_BPF_MAP_TYPE_ARRAY, 4, 4, 1)
    try:
        os.close(_bpf(_BPF_MAP_CREATE, attributes))
    except OSError as error:
        if error.errno == errno.ENOSYS:
            return _missing("bpf", "the kernel has no bpf(2); boot one built with CONFIG_BPF_SYSCALL=y")
        return _missing("bpf", f"bpf(2) is refused ({error.strerror}); run as root, outside seccomp filters")
    return _found("bpf", "bpf(2) makes maps")


def cgroup_bpf(cgroup: Path) -> Item:
    """Asks what device programs are attached, which a kernel without cgroup BPF cannot say."""
    try:
        directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
        try:
            _bpf(_BPF_PROG_QUERY, (ctypes.c_uint32 * 18)(directory, _BPF_CGROUP_DEVICE))
        finally:
            os.close(directory)
    except OSError as error:
        if error.errno == errno.EINVAL:
            what = "the kernel has no BPF programs on cgroups; boot one built with CONFIG_CGROUP_BPF=y"
            return _missing("cgroup-bpf", what)
        if error.errno != errno.ENOSPC:  # programs are attached, and there was no room to name them
            return _missing("cgroup-bpf", f"BPF on {cgroup} is refused ({error.strerror}); run as root")
    return _found("cgroup-bpf", f"programs attach to {cgroup}")


def _bpf(command: int, attributes: ctypes.Array[ctypes.c_uint32]) -> int:
    number = _BPF_SYSCALL.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOTSUP, f"no support for {platform.machine()}")
    libc = ctypes.CDLL(None, use_errno=True)
    result: int = libc.syscall(number, command, ctypes.byref(attributes), ctypes.sizeof(attributes))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def library(name: str) -> Item:
    try:
        ctypes.CDLL(name)
    except OSError:
        return _missing("libbpf", f"{name} is not installed; apt-get install libbpf1")
    return _found("libbpf", name)


def bpf_object(path: Path) -> Item:
    if path.is_file():
        return _found("BPF object", str(path))
    return _missing("BPF object", f"{path} is missing; make build, or install the package again")
