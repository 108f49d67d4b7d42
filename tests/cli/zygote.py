"""A process that has everything of the command line imported, and forks for each command.

So each command is a process of its own, with its own folder, environment and exit code, without the second that the
imports take. Orders come by standard input, a JSON object a line; the exit code is answered when the command has ended.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import sys
import threading

import fiscus.cli

PACKAGES = (
    "fiscus.cli",
    "fiscus.alerts",
    "fiscus.api",
    "fiscus.client",
    "fiscus.sdk",
    "fiscus.stores",
    "fiscus.treasury",
)


def prepare() -> None:
    """Import what commands import when they run."""
    for name in PACKAGES:
        package = importlib.import_module(name)
        for found in pkgutil.walk_packages(package.__path__, f"{name}."):
            if not found.name.endswith("__main__") and ".migrations." not in found.name:
                importlib.import_module(found.name)
    importlib.import_module("fiscus.app")
    assert threading.active_count() == 1, "who has threads must not fork"
    gc.collect()
    gc.freeze()  # what all commands share is neither looked through nor copied by each of them


def become(order: dict[str, object]) -> None:
    """Be the process of a command, as if it had been started in its folder."""
    os.chdir(str(order["folder"]))
    os.environ.clear()
    os.environ.update(order["environment"])  # type: ignore[call-overload]  # texts, as they were written
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        opened = os.open(str(order[name]), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(opened, descriptor)
        os.close(opened)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    sys.argv = ["fiscus", *order["arguments"]]  # type: ignore[misc]  # likewise
    fiscus.cli.main()


def main() -> None:
    """Take orders until there are no more."""
    prepare()
    orders = os.fdopen(os.dup(0))
    answers = os.dup(1)
    os.write(answers, b"ready\n")
    while line := orders.readline():
        command = os.fork()
        if not command:
            os.close(answers)
            become(json.loads(line))
            return
        _, status = os.waitpid(command, 0)
        os.write(answers, b"%d\n" % os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
