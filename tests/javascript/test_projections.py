"""The first principal component, against the singular value decomposition of numpy in float64."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np

from javascript_runtime import PACKAGE, Runtime

PROJECT = """
const { principal } = await import(await json("module.json"))
for (const name of names) {
  const { data, dims } = await given(name)
  keep(name, { type: "float64", data: principal(data, dims[1]), dims: [dims[0]] })
}
"""


def test_projections_are_those_of_numpy(node: Runtime, tmp_path: Path) -> None:
    """Whether the eigenvalues lie far apart or close together, whatever the mean."""
    source, target = PACKAGE / "src" / "projections.ts", tmp_path / "projections.mjs"
    command = ["node_modules/.bin/esbuild", str(source), "--bundle", "--format=esm"]
    subprocess.run([*command, f"--outfile={target}", "--log-level=error"], check=True, cwd=PACKAGE)
    draw = np.random.default_rng(0)
    maps, expected = {}, {}
    for count, channels in ((7, 3), (5, 40), (300, 64), (90, 200)):
        for gap in (0.5, 1e-2, 1e-4):
            most = min(count - 1, channels)
            left, _ = np.linalg.qr(draw.standard_normal((count, most)))
            left -= left.mean(axis=0)
            right, _ = np.linalg.qr(draw.standard_normal((channels, most)))
            values = 10 * (1 - gap) ** np.arange(most)
            x = (left * values) @ right.T + draw.standard_normal(channels) * 100
            name = f"{count} {channels} {gap}"
            maps[name] = np.ascontiguousarray(x)
            u, s, _ = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
            first = u[:, 0] * s[0]
            expected[name] = first * (1 if first @ x.sum(axis=1) >= 0 else -1)
    files = {"module.json": json.dumps(target.as_uri()).encode()}
    found = node.run(PROJECT, maps, files).arrays
    for name, value in expected.items():
        scale = np.abs(value).max()
        np.testing.assert_allclose(found[name], value, atol=1e-6 * scale, rtol=0, err_msg=name)
