"""RISE at a layer: running only the end of the network per mask, compared with whole networks.

The first two cases lay the same masks on the layer, in batches of the same size, with the same
engine, and give the same map. The third case lays masks on the image, as in the paper. Then the
whole network must run per mask, and the map is a different one.
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
MASKS = 32
"""Number of masks; the 1,000 that are the default would take the peers some minutes. What is
measured grows with it."""
BATCH = 16
"""Number of masks in one batch."""
TARGET = 0


def measure() -> list[Row]:
    """Time repeated calls, with all sessions prepared."""
    files, image = models.files(), models.batch()
    model = layertap.open(files.onnx)

    def heat(layer: str | None) -> npt.NDArray[np.float32]:
        return model.cam(
            image,
            layer,
            TARGET,
            method="rise",
            samples=MASKS,
            normalize=False,
            resize=False,
            batch_size=BATCH,
        )[0, 0]

    cases = {
        "ours": lambda: heat(models.LATE),
        "whole": lambda: whole_network(model, image),
        "paper": lambda: heat(None),
    }
    models.check_equal("RISE", cases["ours"](), cases["whole"]())
    seconds = alternate({name: timed(call, PAUSE) for name, call in cases.items()}, ROUNDS, 1)

    peers = {
        "whole": ("the whole network per mask, the same masks", 0.5),
        "paper": ("the whole network per mask, masking the image", None),
    }
    return compare(f"RISE at {models.LATE}, {MASKS} masks", seconds, peers)


def whole_network(model: layertap.Model, image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The map, where the whole network runs again for each mask."""
    import numpy as np

    from layertap.cam.random_masks import RandomMasks

    size = model.layer(models.LATE).shape[1:3]
    high, wide = (int(one or 0) for one in size)
    masks = RandomMasks((high, wide), (7, 7), MASKS, 0.5, [0, 0], smooth=True)
    total = np.zeros((high, wide))
    for start in range(0, MASKS, BATCH):
        drawn = np.stack([masks[index] for index in range(start, min(start + BATCH, MASKS))])

        def masked(
            activation: npt.NDArray[np.float32], drawn: npt.NDArray[np.float32] = drawn
        ) -> npt.NDArray[np.float32]:
            return activation * drawn[..., None]

        images = np.repeat(image, len(drawn), axis=0)
        scores = model.edit(images, {models.LATE: masked})[:, TARGET].astype(np.float64)
        total += np.einsum("m,mhw->hw", scores, drawn)
    return (total / (MASKS * 0.5)).astype(np.float32)
