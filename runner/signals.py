"""Signals that wait until a row has been written."""

import contextlib
import signal
import threading
from collections.abc import Iterator

DELAYED = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextlib.contextmanager
def delayed_signals() -> Iterator[None]:
    """Deliver the first of Ctrl-C, SIGTERM and SIGHUP when the `with` block has ended, and a second one at once.

    What the block writes is therefore complete. The second signal ends a write that takes forever, as that to a pipe
    whose reader waits.
    """
    received = []
    previous = {}

    def note(signum, frame):
        received.append(signum)
        if len(received) > 1:
            previous[signum](signum, frame)

    try:
        if threading.current_thread() is threading.main_thread():  # the only one that receives signals
            for signum in DELAYED:
                handler = signal.getsignal(signum)
                if callable(handler):  # otherwise the signal is ignored, or ends the process
                    previous[signum] = handler
                    signal.signal(signum, note)
        yield
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
        if len(received) == 1:
            signal.raise_signal(received[0])
