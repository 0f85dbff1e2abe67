"""What the workers of Ray in test_ray_cluster.py import."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from layertap.ray import Extract


class EndsOnce(Extract):
    """Ends its process, once, with a batch in which a row has a certain id."""

    def __init__(self, *args: Any, marker: str, at: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self._marker, self._at = Path(marker), at

    def __call__(self, batch: Any) -> Any:
        made = super().__call__(batch)
        if self._at in map(str, batch["path"]) and not self._marker.exists():
            self._marker.touch()
            os._exit(1)
        return made


class WithThreads(Extract):
    """Adds the number of threads that the worker uses."""

    def __call__(self, batch: Any) -> Any:
        made = super().__call__(batch)
        return {**made, "threads": [self._open().threads] * len(made["error"])}
