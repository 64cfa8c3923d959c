"""A network of its own for a process, with nothing but the loopback device: Ray's servers listen on all devices.

    python tests/network_namespace.py COMMAND [ARGUMENT ...]

Linux only. It needs the program unshare (util-linux), and the permission to use it.
"""

import os
import shutil
import socket
import struct
import subprocess
import sys

SIOCSIFFLAGS = 0x8914
IFF_UP = 1
UNSHARE = ["unshare", "--net"] if os.name == "posix" and os.geteuid() == 0 else ["unshare", "--net", "--map-root-user"]


def isolated(command: list[str]) -> list[str]:
    """Return a command that runs this one in a network of its own."""
    return [*UNSHARE, sys.executable, __file__, *command]


def is_available() -> bool:
    """Return whether this user may create such networks."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(isolated(["true"]), capture_output=True).returncode == 0


def main():
    """Switch the loopback device on and become the command."""
    import fcntl  # Windows has none

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
