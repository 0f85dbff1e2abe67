/**
 * Resizing of images, bit for bit as Pillow's `resize`: horizontally first, then vertically; each
 * pass rounds to the image's integers. Pillow 13 may take the height first; models were trained
 * with the old order, which the recipe states.
 */

import { roundEven } from "../tensors.js"

/** Pixels `(height, width, channels)`, kept as float32, which holds integers of up to 24 bits. */
export interface Pixels {
  readonly data: Float32Array
  readonly width: number
  readonly height: number
  readonly channels: number
}

/** What a pass rounds to: integers of 8 or 16 bits, or nothing. */
export type Kind = 8 | 16 | "float"

/** A rectangle: left, top, width, height. */
export type Box = readonly [number, number, number, number]

/** A filter's support, and its weight at a distance; constants and order of operations are those of Pillow. */
const FILTERS: Record<string, [number, (x: number) => number]> = {
  box: [0.5, (x) => (x > -0.5 && x <= 0.5 ? 1 : 0)],
  bilinear: [1, (x) => Math.max(1 - Math.abs(x), 0)],
  hamming: [
    1,
    (x) => {
      const y = Math.abs(x)
      if (y >= 1) return 0
      return y ? sinc(y) * (Math.fround(0.54) + Math.fround(0.46) * Math.cos(y * Math.PI)) : 1
    },
  ],
  bicubic: [
    2,
    (x) => {
      const y = Math.abs(x)
      if (y < 1) return (1.5 * y - 2.5) * y * y + 1
      return y < 2 ? (((y - 5) * y + 8) * y - 4) * -0.5 : 0
    },
  ],
  lanczos: [3, (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0)],
}

export const FILTER_NAMES = ["nearest", ...Object.keys(FILTERS)]

const sinc = (x: number): number => (x ? Math.sin(x * Math.PI) / (x * Math.PI) : 1)

const BITS = 2 ** 22

/** Resize a rectangle of an image; filters reach beyond it into the image. */
export function resize(pixels: Pixels, [left, top, w, h]: Box, width: number, height: number, filter: string, kind: Kind): Pixels {
  if (filter === "nearest") return nearest(pixels, [left, top, w, h], width, height, kind)
  const across = pass(pixels, left, w, width, filter, kind, false)
  return pass(across, top, h, height, filter, kind, true)
}

function nearest({ data, width: old, height: rows, channels }: Pixels, [left, top, w, h]: Box, width: number, height: number, kind: Kind): Pixels {
  // Pillow adds up its steps; but not in grey of 16 bits.
  const places = (first: number, size: number, count: number, most: number): number[] => {
    const step = size / count
    let place = first + step * 0.5
    return Array.from({ length: count }, (_, i) => {
      if (kind === 16) place = step * (i + 0.5) + first
      const at = Math.min(Math.floor(place), most - 1)
      place += step
      return at
    })
  }
  const [xs, ys] = [places(left, w, width, old), places(top, h, height, rows)]
  const out = new Float32Array(width * height * channels)
  let to = 0
  for (const y of ys)
    for (const x of xs) for (let k = 0; k < channels; k++) out[to++] = data[(y * old + x) * channels + k]
  return { data: out, width, height, channels }
}

/** For each new pixel: the first old pixel under the filter, and the weights from there on. */
function taps(first: number, size: number, count: number, most: number, filter: string, kind: Kind): [number, number[]][] {
  const [support, weight] = FILTERS[filter]
  const step = size / count
  const wide = Math.max(step, 1)
  return Array.from({ length: count }, (_, i) => {
    const centre = first + (i + 0.5) * step
    const from = Math.max(Math.trunc(centre - support * wide + 0.5), 0)
    const to = Math.min(Math.trunc(centre + support * wide + 0.5), most)
    const weights = []
    for (let x = from; x < to; x++) weights.push(weight((x - centre + 0.5) * (1 / wide)))
    const sum = weights.reduce((a, b) => a + b, 0)
    const shares = weights.map((one) => (sum ? one / sum : one))
    return [from, kind === 8 ? shares.map((one) => Math.trunc(one * BITS + (one < 0 ? -0.5 : 0.5))) : shares]
  })
}

function pass(
  pixels: Pixels,
  first: number,
  size: number,
  count: number,
  filter: string,
  kind: Kind,
  down: boolean,
): Pixels {
  const { data, width, height, channels } = pixels
  const most = down ? height : width
  if (!first && size === most && count === most) return pixels
  const found = taps(first, size, count, most, filter, kind)
  const [w, h] = down ? [width, count] : [count, height]
  const out = new Float32Array(w * h * channels)
  const step = down ? width * channels : channels
  let to = 0
  for (let y = 0; y < h; y++)
    for (let x = 0; x < w; x++) {
      const [from, weights] = found[down ? y : x]
      const start = down ? (from * width + x) * channels : (y * width + from) * channels
      for (let k = 0; k < channels; k++) {
        let sum = 0
        for (let i = 0, at = start + k; i < weights.length; i++, at += step) sum += weights[i] * data[at]
        out[to++] = kind === 8 ? clip8(Math.floor((sum + BITS / 2) / BITS)) : kind === 16 ? clip16(Math.floor(sum + 0.5)) : sum
      }
    }
  return { data: out, width: w, height: h, channels }
}

export const clip8 = (value: number): number => Math.min(Math.max(value, 0), 255)

const clip16 = (value: number): number => Math.min(Math.max(value, 0), 65535)

/** Colours times their alpha, as Pillow's mode RGBa; the filters mix these. */
export function premultiplied(pixels: Pixels): Pixels {
  return byAlpha(pixels, (colour, alpha) => {
    const product = colour * alpha + 128
    return ((product >> 8) + product) >> 8
  })
}

/** The reverse of `premultiplied`. */
export function unmultiplied(pixels: Pixels): Pixels {
  return byAlpha(pixels, (colour, alpha) =>
    alpha === 0 || alpha === 255 ? colour : clip8(Math.floor((255 * colour) / alpha)),
  )
}

function byAlpha(pixels: Pixels, change: (colour: number, alpha: number) => number): Pixels {
  const data = pixels.data.map((value, i, all) => (i % 4 === 3 ? value : change(value, all[i - (i % 4) + 3])))
  return { ...pixels, data }
}

/** Keras's crop to the aspect ratio of a size. */
export function centredBox({ width: w, height: h }: Pixels, width: number, height: number): Box {
  const [bw, bh] = [Math.min(w, Math.floor((h * width) / height)), Math.min(h, Math.floor((w * height) / width))]
  return [(w - bw) >> 1, (h - bh) >> 1, bw, bh]
}

/** The size after a resize in which the shorter side gets a length, as in torchvision. */
export function scaledSize({ width, height }: Pixels, shorter: number): [width: number, height: number] {
  const longer = Math.trunc((shorter * Math.max(width, height)) / Math.min(width, height))
  return height <= width ? [longer, shorter] : [shorter, longer]
}

/** The centre of an image, 0 where the image does not reach, as in torchvision. */
export function centre(pixels: Pixels, width: number, height: number): Pixels {
  const start = (have: number, wanted: number): number =>
    have < wanted ? -((wanted - have) >> 1) : roundEven((have - wanted) / 2)
  const [left, top, { channels, data }] = [start(pixels.width, width), start(pixels.height, height), pixels]
  const out = new Float32Array(width * height * channels)
  for (let y = Math.max(0, -top); y < Math.min(height, pixels.height - top); y++) {
    const [from, to] = [Math.max(0, left), Math.max(0, -left)]
    const count = Math.min(width - to, pixels.width - from)
    const at = ((y + top) * pixels.width + from) * channels
    out.set(data.subarray(at, at + count * channels), (y * width + to) * channels)
  }
  return { data: out, width, height, channels }
}
