"""Scores, a layer and a heat map of one picture: app.py FILE.onnx PICTURE LAYER."""

import json
import sys

import layertap

file, picture, layer = sys.argv[1:]
model = layertap.open(file)
scores = model.predict(picture)[0].tolist()
names = model.labels or range(len(scores))
top = dict(zip(names, scores, strict=True))
activation, heat_map = model.activations(picture, layer), model.cam(picture, layer)
print(json.dumps({"scores": top, "layer": activation.shape, "heat map": heat_map.shape}))
