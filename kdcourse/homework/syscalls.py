"""A filter of system calls: what a namespace does not separate, and no notebook needs.

For bubblewrap it is compiled by libseccomp (Debian's package ``libseccomp2``), through the package
``pyseccomp``; engines of containers compile it themselves.
"""

import errno
import json
import socket
import tempfile
from collections.abc import Iterator
from functools import cache

from kdcourse import files

REFUSED = (
    # other processes, and their memory
    *("ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "kcmp", "perf_event_open"),
    # memory and messages that belong to no process, and keys
    *("shmget", "msgget", "semget", "mq_open", "memfd_secret", "userfaultfd"),
    *("add_key", "keyctl", "request_key"),
    # namespaces and mounts
    *("unshare", "setns", "mount", "umount2", "pivot_root", "mount_setattr"),
    *("fsopen", "fsconfig", "fsmount", "fspick", "move_mount", "open_tree", "open_by_handle_at"),
    # the machine
    *("bpf", "kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module"),
    *("reboot", "swapon", "swapoff", "acct", "quotactl", "quotactl_fd", "syslog", "personality"),
    *("iopl", "ioperm", "modify_ldt", "fanotify_init", "settimeofday", "clock_settime", "vhangup"),
)
# Programs that see "no such system call" do without. The filter cannot read the flags of clone3.
ABSENT = ("clone3", "memfd_create", "io_uring_setup", "io_uring_enter", "io_uring_register")
NAMESPACES = (
    *(0x2_0000, 0x200_0000, 0x400_0000),  # CLONE_NEWNS, _NEWCGROUP, _NEWUTS
    *(0x800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000),  # _NEWIPC, _NEWUSER, _NEWPID, _NEWNET
)
FAMILIES = (socket.AF_UNSPEC, socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)


def rules() -> Iterator[tuple[str, int, str, int]]:
    """Yield the system calls that are refused.

    Each is a name, the error that it fails with, and a comparison of its first argument with a
    number, by libseccomp's name; no name if it is always refused.
    """
    yield from ((name, errno.EPERM, "", 0) for name in REFUSED)
    yield from ((name, errno.ENOSYS, "", 0) for name in ABSENT)
    yield from (("clone", errno.EPERM, "MASKED_EQ", flag) for flag in NAMESPACES)
    most = max(FAMILIES)
    for name in ("socket", "socketpair"):
        yield name, errno.EAFNOSUPPORT, "GT", most
        for family in set(range(most)).difference(FAMILIES):
            yield name, errno.EAFNOSUPPORT, "EQ", family


@cache
def program() -> bytes:
    """Return the filter as a program for the kernel; empty where there is no libseccomp."""
    try:
        import pyseccomp as seccomp
    except (ImportError, OSError, RuntimeError):  # no package, no library, not on this system
        return b""
    filter = seccomp.SyscallFilter(seccomp.ALLOW)
    for name, error, comparison, value in rules():
        number = seccomp.resolve_syscall(seccomp.Arch.NATIVE, name)
        if number != -1:  # otherwise the system call is newer than this libseccomp
            operator = getattr(seccomp, comparison, None)
            compared = [seccomp.Arg(0, operator, value, value)] if operator else []
            filter.add_rule(seccomp.ERRNO(error), number, *compared)
    with files.temporary_told(), tempfile.TemporaryFile() as file:
        filter.export_bpf(file)
        file.seek(0)
        return file.read()


def profile() -> str:
    """Return the filter in the format that engines of containers read."""
    refused = []
    for name, error, comparison, value in rules():
        compared = {"index": 0, "op": f"SCMP_CMP_{comparison}", "value": value, "valueTwo": value}
        refused.append(
            {
                "names": [name],
                "action": "SCMP_ACT_ERRNO",
                "errnoRet": error,
                "args": [compared] if comparison else [],
            }
        )
    return json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": refused})
