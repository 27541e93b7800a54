"""Being asked to stop: SIGTERM and SIGUSR1 are remembered, so that the step can end and be saved; a second one exits at once."""
from __future__ import annotations

import os
import signal
import time

ECHO = 5.0                                                   # seconds in which torchrun repeats to its ranks a signal that they have heard themselves


class StopRequest:
    """Within `with StopRequest() as stop:`, `stop.heard` is the name of the signal that came, or None."""

    def __enter__(self) -> StopRequest:
        self.heard, self.when = None, 0.0
        self.before = {number: signal.signal(number, self._hear) for number in (signal.SIGTERM, signal.SIGUSR1)}
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame) -> None:
        if self.heard and time.monotonic() - self.when >= (ECHO if "TORCHELASTIC_RUN_ID" in os.environ else 0.0):
            os._exit(128 + number)
        self.heard, self.when = self.heard or signal.Signals(number).name, self.when or time.monotonic()
