"""Score-CAM: running only the end of the network per channel, compared with the whole network.

Both cases mask the layer with the same (strongest) channels, in batches of the same size, with the
same engine, and give the same map. A third case masks the image, as in the paper. Then the whole
network must run per channel, and the map is a different one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import layertap

from . import models
from .timing import PAUSE, Row, alternate, compare, timed

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

ROUNDS = 5
CHANNELS = 32
"""Number of channels; all 1,024 would take the peer some minutes."""
BATCH = 16
"""Number of channels in one batch."""
TARGET = 0


def measure() -> list[Row]:
    """Time repeated calls, with all sessions prepared."""
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
    return compare(f"Score-CAM at {models.LATE}, {CHANNELS} channels", seconds, peers)


def whole_network(model: layertap.Model, image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The heat map, where the whole network runs again for each channel."""
    import numpy as np

    from layertap.cam.methods import scorecam

    maps = model.activations(image, models.LATE)[0]
    strongest = np.argsort(-np.abs(maps.astype(np.float64)).mean(axis=(0, 1)), kind="stable")
    scores = np.full(maps.shape[-1], np.nan)
    for start in range(0, CHANNELS, BATCH):
        channels = strongest[start : min(start + BATCH, CHANNELS)]
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
