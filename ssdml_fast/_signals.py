"""The signals by which users, terminals, schedulers and torchrun end a program."""

from __future__ import annotations

import signal

ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
