"""Read the activations of one layer for some images, without TensorFlow.

python examples/fetch.py MODEL.onnx LAYER IMAGE_OR_FOLDER...
"""

import sys
from pathlib import Path

import layertap
from layertap.extract.images import find_images

if len(sys.argv) < 4:
    sys.exit("usage: python examples/fetch.py MODEL.onnx LAYER IMAGE_OR_FOLDER...")
file, layer, *sources = sys.argv[1:]
model = layertap.open(file)
tap = model.tap(layer)  # prepared once, used for every image
print(model.layer(layer))
for image in find_images(sources):
    activation = tap(image)
    print(f"{Path(image).name}: {activation.shape} {activation.dtype}", activation[0, 0, 0, :4])
assert "tensorflow" not in sys.modules
