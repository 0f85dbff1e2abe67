/**
 * Heat maps: from a layer's activations and gradients to a map of the image. Names, formulas and
 * papers are those of the Python runtime (`layertap.cam.methods`).
 *
 * Each method works on one image in float64: `a` are the activations and `g` the gradient, positions
 * by channels. It returns weighted activations, whose sum over the channels is the map, or the map.
 */

import type { Maps } from "./maps.js"
import { UsageError, show, suggest } from "./errors.js"
import { principal } from "./projections.js"
import { size } from "./tensors.js"

type Compute = (a: Float64Array, g: Float64Array, channels: number) => Float64Array

export interface Method {
  readonly name: string
  readonly compute: Compute
  readonly takesGradients: boolean
}

/** `w_k A_k`, where the weight of a channel is a function of its sums over the positions. */
const weighted =
  (weight: (g: Float64Array, a: Float64Array, channels: number, count: number) => Float64Array): Compute =>
  (a, g, channels) => {
    const w = weight(g, a, channels, a.length / channels)
    return a.map((value, i) => value * w[i % channels])
  }

const sums = (channels: number, count: number, value: (i: number) => number): Float64Array => {
  const out = new Float64Array(channels)
  for (let i = 0; i < count * channels; i++) out[i % channels] += value(i)
  return out
}

const COMPUTE: Record<string, Compute> = {
  gradcam: weighted((g, _, channels, count) => sums(channels, count, (i) => g[i]).map((sum) => sum / count)),
  "gradcam++": weighted((g, a, channels, count) => {
    const total = sums(channels, count, (i) => a[i])
    const under = (i: number): number => 2 + total[i % channels] * g[i]
    return sums(channels, count, (i) => (g[i] && under(i) ? Math.max(g[i], 0) / under(i) : 0))
  }),
  xgradcam: weighted((g, a, channels, count) => {
    const total = sums(channels, count, (i) => a[i])
    return sums(channels, count, (i) => g[i] * a[i]).map((sum, k) => (total[k] ? sum / total[k] : 0))
  }),
  layercam: (a, g) => a.map((value, i) => value * Math.max(g[i], 0)),
  hirescam: (a, g) => a.map((value, i) => value * g[i]),
  gradcamelementwise: (a, g) => a.map((value, i) => Math.max(value * g[i], 0)),
  eigengradcam: (a, g, channels) => principal(a.map((value, i) => value * g[i]), channels),
  eigencam: (a, _, channels) => principal(a, channels),
}
const WITHOUT = ["eigencam"]
const PYTHON = ["kpcacam", "scorecam", "ablationcam", "rollout", "gradientrollout"]

const ALIASES = new Map([["elementwise", "gradcamelementwise"], ["gradcamplusplus", "gradcam++"]])

/** The name of a method: case, hyphens, spaces and underscores are ignored. */
export function methodName(given: string): string {
  const plain = String(given).toLowerCase().replace(/[-_ ]/g, "")
  return ALIASES.get(plain) ?? plain
}

/** The method of this name. */
export function findMethod(given: string): Method {
  const name = methodName(given)
  const known = Object.keys(COMPUTE)
  if (PYTHON.includes(name))
    throw new UsageError(`the method ${show(given)} is not available in JavaScript, only in Python. The methods here are ${known.join(", ")}.`)
  if (!Object.hasOwn(COMPUTE, name))
    throw new UsageError(`unknown method ${show(given)}; the methods are ${known.join(", ")}.${suggest(name, known)}`)
  return { name, compute: COMPUTE[name], takesGradients: !WITHOUT.includes(name) }
}

const MOST_VALUES = 2 ** 28

/** The sizes of maps: those of the option `resize`, which are checked, or `usual` for `true`. */
export function checkExtent(resize: unknown, usual: readonly number[]): readonly number[] {
  const sizes = resize === true ? usual : resize
  const isCount = (one: unknown): boolean => Number.isInteger(one) && (one as number) > 0
  if (!Array.isArray(sizes) || sizes.length !== usual.length || !sizes.every(isCount))
    throw new UsageError(`resize must be true, false or ${usual.length} sizes, got ${Array.isArray(resize) ? `[${resize.join(", ")}]` : show(resize)}.`)
  if (size(sizes) > MOST_VALUES)
    throw new UsageError(`maps of ${sizes.join(" x ")} values are too large for memory: at most ${MOST_VALUES} values are possible.`)
  return sizes
}

/** The map of each image, in the layer's size. */
export function heat(method: Method, activations: Maps, gradient?: Maps): Float64Array[] {
  const { channels } = activations
  return activations.samples.map((a, i) => {
    const found = method.compute(a, gradient?.samples[i] ?? a, channels)
    if (found.length < a.length || channels === 1) return found
    const map = new Float64Array(a.length / channels)
    found.forEach((value, at) => (map[Math.floor(at / channels)] += value))
    return map
  })
}

/** Set negative values to 0, resize, and divide by the maximum, in this order. */
export function finished(map: Float64Array, space: readonly number[], extent: readonly number[], normalize: boolean): Float32Array {
  let values = normalize ? map.map((value) => (value > 0 || Number.isNaN(value) ? value : 0)) : map
  let now = [...space]
  extent.forEach((count, axis) => {
    values = along(values, now, axis, count)
    now = now.with(axis, count)
  })
  const done = Float32Array.from(values)
  const peak = done.reduce((a, b) => Math.max(a, b), -Infinity)
  return normalize && peak > 0 ? done.map((value) => value / peak) : done
}

/** Linear interpolation along an axis, as OpenCV's `INTER_LINEAR`. */
function along(values: Float64Array, sizes: readonly number[], axis: number, count: number): Float64Array {
  const old = sizes[axis]
  if (count === old) return values
  const inner = sizes.slice(axis + 1).reduce((a, b) => a * b, 1)
  const outer = values.length / inner / old
  const out = new Float64Array(outer * count * inner)
  for (let i = 0; i < count; i++) {
    const position = Math.min(Math.max((i + 0.5) * (old / count) - 0.5, 0), old - 1)
    const low = Math.min(Math.trunc(position), Math.max(old - 2, 0))
    const [share, high] = [position - low, Math.min(low + 1, old - 1)]
    for (let o = 0; o < outer; o++)
      for (let k = 0; k < inner; k++)
        out[(o * count + i) * inner + k] =
          values[(o * old + low) * inner + k] * (1 - share) + values[(o * old + high) * inner + k] * share
  }
  return out
}
