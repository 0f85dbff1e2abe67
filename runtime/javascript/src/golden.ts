/**
 * The golden sample: a seeded input and what is known of Keras's activations for it. The formulas
 * are in docs/file-format.md: SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
 */

import type { GoldenInput, GoldenLayer } from "./card.js"
import { ModelFileError, show } from "./errors.js"
import { type Tensor, cast, isFloat, numbers, size } from "./tensors.js"

const MOST_VALUES = 2 ** 27
const WEIGHT_SEED = 100

/** Upper and lower half of an unsigned 64-bit integer. */
type Words = [high: number, low: number]

/** The product modulo 2^64. */
function times([ah, al]: Words, [bh, bl]: Words): Words {
  const [a0, a1, b0, b1] = [al & 0xffff, al >>> 16, bl & 0xffff, bl >>> 16]
  const middle = a1 * b0 + Math.floor((a0 * b0) / 65536)
  const other = a0 * b1 + (middle % 65536)
  const high = a1 * b1 + Math.floor(middle / 65536) + Math.floor(other / 65536)
  return [(high + Math.imul(ah, bl) + Math.imul(al, bh)) >>> 0, Math.imul(al, bl) >>> 0]
}

const mixed = ([high, low]: Words, shift: number): Words => [
  (high ^ (high >>> shift)) >>> 0,
  (low ^ ((low >>> shift) | (high << (32 - shift)))) >>> 0,
]

/** Number `i` of a seed. */
export function splitmix(seed: number, i: number): Words {
  const count = i + 1
  let z: Words = [(seed + Math.floor(count / 2 ** 32)) >>> 0, count >>> 0]
  z = times(z, [0x9e3779b9, 0x7f4a7c15])
  z = times(mixed(z, 30), [0xbf58476d, 0x1ce4e5b9])
  z = times(mixed(z, 27), [0x94d049bb, 0x133111eb])
  return mixed(z, 31)
}

/** What to feed for one input of the sample, in the dtype of the input. */
export function goldenData(input: GoldenInput, dtype: string, seed: number): any {
  const { low, high, choices, step } = input
  const count = size(input.shape)
  const range = high - low
  const damaged = (): ModelFileError =>
    new ModelFileError(`the golden sample in the card, for input ${show(input.name)}, is damaged or too large. Export the model again.`)
  if (!(count <= MOST_VALUES)) throw damaged()
  const element = (i: number): number => {
    if (step != null) return low + (((Math.floor(i * step) % range) + range) % range)
    return low + range * ((splitmix(seed, i)[0] >>> 8) / 2 ** 24)
  }
  const values: any = Float64Array.from({ length: count }, (_, i) => element(i))
  try {
    if (choices) {
      const chosen = Array.from(values as Float64Array, (value) => choices[Math.floor(value)])
      if (chosen.includes(undefined as any)) throw damaged()
      return cast("a choice", chosen, dtype)
    }
    if (dtype === "bool") return Uint8Array.from(values, (value: number) => Number(value >= (low + high) / 2))
    return cast("the golden sample", isFloat(dtype) ? values : values.map(Math.floor), dtype)
  } catch (error) {
    throw error instanceof ModelFileError ? error : damaged()
  }
}

/** Bytes of the weights of each sum: many tensors have the same first ones. */
const known: Uint8Array[] = []

function weightBytes(k: number, count: number): Uint8Array {
  if (!(known[k]?.length >= count)) {
    const words = Math.ceil(count / 8)
    const view = new DataView(new ArrayBuffer(words * 8))
    for (let i = 0; i < words; i++) {
      const [high, low] = splitmix(WEIGHT_SEED + k, i)
      view.setUint32(i * 8, low, true)
      view.setUint32(i * 8 + 4, high, true)
    }
    known[k] = new Uint8Array(view.buffer)
  }
  return known[k]
}

/**
 * How far a layer is from Keras: the largest difference of the golden values divided by the layer's
 * scale, or that of the norm or the sums, whichever is largest; infinite for a NaN or another shape.
 */
export function deviation(tensor: Tensor, expected: GoldenLayer): number {
  const { values, norm, scale, sums } = expected
  if (String(tensor.dims) !== String(expected.shape) || tensor.type === "string") return Infinity
  const flat = numbers(tensor)
  const [count, n] = [flat.length, values.length]
  if (n > count) return Infinity
  const largest = Math.max(0, ...values.map(Math.abs))
  const errors = values.map((value, k) => {
    const at = count <= n ? k : Math.floor((k * (count - 1)) / Math.max(n - 1, 1))
    return ratio(flat[at] - value, Math.max(scale, largest))
  })
  let [total, squares] = [0, 0]
  for (let i = 0; i < count; i++) {
    total += flat[i]
    squares += flat[i] * flat[i]
  }
  errors.push(ratio(Math.sqrt(squares) - norm, Math.max(norm, scale)))
  const sumScale = Math.max(scale * Math.sqrt(count), ...(sums ?? []).map(Math.abs))
  sums?.forEach((sum, k) => {
    const weights = weightBytes(k, count)
    let weighted = 0
    for (let i = 0; i < count; i++) weighted += flat[i] * weights[i]
    errors.push(ratio(weighted / 127.5 - total - sum, sumScale))
  })
  return errors.reduce((worst, error) => (error <= worst ? worst : Number.isNaN(error) ? Infinity : error), 0)
}

const ratio = (error: number, scale: number): number => Math.abs(scale ? error / scale : error)
