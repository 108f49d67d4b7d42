"""For all tests."""

from __future__ import annotations

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started in the background of a script: what the tests start would ignore Ctrl-C too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
