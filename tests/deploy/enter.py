"""Becomes a process in a root file system of its own: the part of a container engine that the tests need.

It is started in a new mount namespace, as root, with one JSON argument, and ends by becoming the command. Only the
standard library, since it runs before anything is mounted.
"""

import ctypes
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

PR_SET_NO_NEW_PRIVS = 38


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def bind(source: str, target: str, *, writable: bool) -> None:
    """Show a file or a folder of this machine at another place."""
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        Path(target).touch()
    mount("--rbind", source, target)
    if not writable:
        mount("-o", "remount,bind,ro", target)


def main(box: dict) -> None:
    root = box["root"]
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", root)
    for name in ("bin", "sbin", "lib", "lib64"):
        if os.path.islink(f"/{name}"):
            os.symlink(os.readlink(f"/{name}"), f"{root}/{name}")
        elif os.path.isdir(f"/{name}"):
            bind(f"/{name}", f"{root}/{name}", writable=False)
    for source, target, writable in box["binds"]:
        bind(source, root + target, writable=writable)
    for target in box["tmpfs"]:
        os.makedirs(root + target, exist_ok=True)
        mount("-t", "tmpfs", "-o", "mode=1777", "tmpfs", root + target)
    mount("-o", "remount,bind,ro", root)
    os.chroot(root)
    os.chdir(box["directory"])
    os.setgroups([])
    os.setgid(box["group"])
    os.setuid(box["user"])
    ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    program = shutil.which(box["command"][0], path=box["environment"]["PATH"])
    if program is None:
        sys.exit(f"{box['command'][0]}: not found in {box['environment']['PATH']}")
    os.execve(program, box["command"], box["environment"])


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
