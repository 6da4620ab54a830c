"""What an engine tells about itself while it works, for whoever watches over it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class QueueVitals:
    """Jobs of one class that wait for the device, and the age of the oldest in seconds (0 when none waits)."""

    waiting: int = 0
    oldest: float = 0.0


@dataclass(frozen=True)
class EngineVitals:
    """``queues`` by class of work; ``running``: seconds that the present job has taken, None when the device is idle;
    ``responsive``: no job has taken longer than the limit; ``restarts``: how often the device's thread was replaced;
    ``memory``: bytes of the device by kind, empty where it shares the machine's; ``shortages``: how often there was too
    little of it, so that caches were emptied; ``lost``: the device failed, and only another process can use it;
    ``threads``: of PyTorch on a CPU, 0 where nobody told; ``compiled``: by part of the network that compiled code was
    looked for, how many times as quick that is that serves, 0 where the part stays eager."""

    queues: Mapping[str, QueueVitals] = field(default_factory=dict)
    running: float | None = None
    responsive: bool = True
    restarts: int = 0
    memory: Mapping[str, int] = field(default_factory=dict)
    shortages: int = 0
    lost: bool = False
    threads: int = 0
    compiled: Mapping[str, float] = field(default_factory=dict)
