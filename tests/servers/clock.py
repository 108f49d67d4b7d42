"""The wall clock of a process, set from outside while it runs; its monotonic clock goes on undisturbed."""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

SOURCE = Path(__file__).with_name("clock.c")
COMPILER = shutil.which("cc")
IS_POSSIBLE = COMPILER is not None and sys.platform.startswith("linux")
WHY_NOT = "a clock that is set needs a C compiler and Linux"


class WallClock:
    """Processes with ``environment`` look at it; ``step`` and ``set_to`` move it for all of them at once.

    Args:
        folder: where the library and the offset stand; other users must be able to read it.
    """

    def __init__(self, folder: Path) -> None:
        assert COMPILER is not None, WHY_NOT
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
        library, file = folder / "clock.so", folder / "offset"
        if not library.exists():
            subprocess.run([COMPILER, "-O2", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)
        file.write_bytes(struct.pack("=q", 0))
        file.chmod(0o644)
        with file.open("r+b") as opened:
            self._page = mmap.mmap(opened.fileno(), 8)
        self.offset_ns = 0
        self.environment = {"LD_PRELOAD": str(library), "FAKE_CLOCK": str(file)}

    def step(self, seconds: float) -> None:
        """Set it forward, or (negative) back."""
        self.offset_ns += round(seconds * 1e9)
        self._page[:8] = struct.pack("=q", self.offset_ns)

    def set_to(self, at_s: float) -> None:
        """Set it to an instant, in seconds since the epoch."""
        self.step(at_s - self.now_s())

    def now_s(self) -> float:
        """What it says."""
        return time.time() + self.offset_ns / 1e9

    def close(self) -> None:
        self._page.close()
