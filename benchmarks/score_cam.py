"""Score-CAM: the network's head once and its tail per channel, beside all of it per channel.

Both sides mask the layer with the same channels, the strongest ones, as many at a time, by the same
engine, and come to the same map. A third case masks the image, as the paper has it: of that nothing
can be left out, and the map is another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import layertap

from . import models
from .timing import PAUSE, Row, alternate, beside, timed

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

ROUNDS = 5
CHANNELS = 32
"""Of 1,024, which would take the peer some minutes."""
BATCH = 16
"""Channels at a time."""
TARGET = 0


def measure() -> list[Row]:
    """Steady calls; all sessions are ready before."""
    files, image = models.files(), models.batch()
    model = layertap.open(files.onnx)

    def heat(mask: str) -> npt.NDArray[np.float32]:
        return model.cam(
            image,
            models.LATE,
            TARGET,
            method="scorecam",
            normalize=False,
            resize=False,
            mask=mask,
            channels=CHANNELS,
            batch_size=BATCH,
        )[0, 0]

    cases = {
        "ours": lambda: heat("layer"),
        "whole": lambda: whole_network(model, image),
        "paper": lambda: heat("input"),
    }
    models.check_equal("Score-CAM", cases["ours"](), cases["whole"]())
    seconds = alternate({name: timed(call, PAUSE) for name, call in cases.items()}, ROUNDS, 1)

    peers = {
        "whole": ("the whole network per channel, the same masks", 0.33),
        "paper": ("the whole network per channel, masking the image", None),
    }
    return beside(f"Score-CAM at {models.LATE}, {CHANNELS} channels", seconds, peers)


def whole_network(model: layertap.Model, image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The map, with everything computed anew for each channel."""
    import numpy as np

    from layertap.cam.methods import scorecam

    maps = model.activations(image, models.LATE)[0]
    chosen = np.argsort(-np.abs(maps.astype(np.float64)).mean(axis=(0, 1)), kind="stable")
    scores = np.full(maps.shape[-1], np.nan)
    for start in range(0, CHANNELS, BATCH):
        channels = chosen[start : min(start + BATCH, CHANNELS)]
        masks = np.moveaxis(maps[..., channels], -1, 0)
        low = masks.min(axis=(1, 2), keepdims=True)
        masks = (masks - low) / (masks.max(axis=(1, 2), keepdims=True) - low)

        def masked(
            activation: npt.NDArray[np.float32], masks: npt.NDArray[np.float32] = masks
        ) -> npt.NDArray[np.float32]:
            return activation * masks[..., None]

        images = np.repeat(image, len(channels), axis=0)
        probabilities = model.edit(images, {models.LATE: masked})[:, TARGET].astype(np.float64)
        scores[channels] = np.log(probabilities / (1 - probabilities))
    return scorecam(maps.astype(np.float64), scores).sum(axis=-1).astype(np.float32)
