"""Selectors mean what they mean in Python, and errors suggest the same names."""

from __future__ import annotations

import contextlib
import json
import random
import re
from dataclasses import replace

import layertap
from generators import tiny, transformers
from javascript_runtime import Runtime
from layertap.errors import LayertapError
from layertap.format.card import KEY, Card
from layertap.format.select import select

NAMES = [
    *("image", "conv1/conv", "conv1/relu", "conv2/conv", "secret", "encoder#1", "what[1]?*"),
    *("re:named", "12", "block.a", "Block.A", "a-b", "x^y", "[", "]", "!", "all_of_it", "größe"),
    *("a\\b", "a\nb", "é" * 3, "(", "$", "conv10_block3_concat", "conv10_block3_0_bn"),
    *("conv10_block3_0_relu", "dense", "Dense"),
]
TYPES = ["Conv2D", "ReLU", "Dense", "InputLayer"]

SELECT = """
const model = await layertap.open(ort, await read("model.onnx"))
const found = []
for (const { selector, type } of await json("asked.json")) {
  try { found.push(model.select(selector ?? undefined, type ?? undefined).map(({ name }) => name)) }
  catch (error) { found.push(`${error.name}: ${error.message}`) }
}
return found
"""


def asked(generator: random.Random) -> dict[str, object]:
    """A selector: a name, or one that was changed; a glob, a pattern, an index, a list."""
    kind = generator.randrange(9)
    name = generator.choice(NAMES)
    at = generator.randrange(len(name))
    if kind == 0:
        selector: object = name
    elif kind == 1:
        selector = name[:at] + generator.choice(["", "x", "_", "-", "B"]) + name[at + 1 :]
    elif kind == 2:
        selector = name[:at] + generator.choice(["*", "?", "[a-z]*", "[!a]*", "[]1]*", "[", "[!"])
    elif kind == 3:
        selector = "re:" + generator.choice(
            [".*conv", "conv.*", "(", "a|b", r"\d+", ".", "[a-c].*", ""]
        )
    elif kind == 4:
        selector = generator.randrange(-2 * len(NAMES), 2 * len(NAMES))
    elif kind == 5:
        selector = [generator.choice(NAMES) for _ in range(3)]
    elif kind == 6:
        selector = ["*conv", generator.randrange(5), "*"]
    else:
        selector = generator.choice([None, "all", "*", [], "**", "last-conv", "conv", ""])
    types = [None, None, None, *TYPES, "Conv2d", ["ReLU", "Dense"], "nothing"]
    return {"selector": selector, "type": generator.choice(types)}


def comparable(text: str) -> str:
    """A message without what Python alone says."""
    text = re.sub(r" `layertap layers FILE` lists them\.$", "", text)
    text = re.sub(r"(is not a regular expression): .*", r"\1", text)
    text = text.replace("with this layer in --layers, or ", "").replace("\\\\", "\\")
    return text.replace("\\u{a}", "\\n")


def test_selectors_select_what_they_select_in_python(node: Runtime) -> None:
    made = tiny.linear_chain()
    (prop,) = (item for item in made.metadata_props if item.key == KEY)
    rows = [
        tiny.layer(i, name, TYPES[i % 4], (None, 2), exposed=name != "secret")
        for i, name in enumerate(NAMES)
    ]
    prop.value = replace(Card.from_json(prop.value), layers=tuple(rows)).to_json()
    generator = random.Random(0)
    wanted = [asked(generator) for _ in range(600)]
    files = {"model.onnx": made.SerializeToString(), "asked.json": json.dumps(wanted).encode()}
    results = node.run(SELECT, files=files).value
    wrong, refused = [], 0
    for one, found in zip(wanted, results, strict=True):
        try:
            expected: object = [row.name for row in select(rows, one["selector"], one["type"])]  # type: ignore[arg-type]
        except LayertapError as exc:
            refused += 1
            expected = f"{type(exc).__name__}: {exc}"
        if isinstance(found, str) and isinstance(expected, str):
            found, expected = comparable(found), comparable(expected)
        if found != expected:
            wrong.append((one, found, expected))
    assert not wrong, "\n".join(f"{a}\n  {b}\n  {c}" for a, b, c in wrong[:12])
    assert 100 < refused < 500


ASKED = [
    *(None, "all", "*", "re:.*", "attention", "*attention_scores", "1/*", "0/mha/*", "norm"),
    *(-1, -12, -13, 12, 13, 14, "probs/attention_scores", ["attention", -1]),
]


def test_scores_of_attention_are_selected_as_in_python(node: Runtime) -> None:
    made = transformers.vision_transformer()
    wanted = [{"selector": one, "type": None} for one in ASKED]
    wanted += [{"selector": one, "type": "AttentionScores"} for one in (None, "all", "0/*")]
    files = {"model.onnx": made.SerializeToString(), "asked.json": json.dumps(wanted).encode()}
    results = node.run(SELECT, files=files).value
    rows = layertap.open(made.SerializeToString()).layers
    for one, found in zip(wanted, results, strict=True):
        expected: object = "LayerNotFoundError"
        with contextlib.suppress(LayertapError):
            expected = [row.name for row in select(rows, one["selector"], one["type"])]  # type: ignore[arg-type]
        assert (found if isinstance(found, list) else found.partition(":")[0]) == expected, one
