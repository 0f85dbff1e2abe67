/**
 * Reads PNG files to the pixels that Pillow reads: a canvas changes transparent pixels and 16-bit
 * grey, and applies colour profiles and gamma, which are ignored here.
 *
 * The format: https://www.w3.org/TR/png-3/
 */

import { ImageError } from "../errors.js"
import { type Picture, checkSize } from "./picture.js"

export const isPng = (bytes: Uint8Array): boolean =>
  [0x89, 0x50, 0x4e, 0x47, 13, 10, 26, 10].every((byte, i) => bytes[i] === byte)

/** Samples in a pixel, by colour type. */
const SAMPLES: Record<number, number> = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 }
const DEPTHS: Record<number, number[]> = { 0: [1, 2, 4, 8, 16], 2: [8, 16], 3: [1, 2, 4, 8], 4: [8, 16], 6: [8, 16] }
/** The passes of an interlaced image: first column and row, steps between columns and rows. */
const PASSES = [[0, 0, 8, 8], [4, 0, 8, 8], [0, 4, 4, 8], [2, 0, 4, 4], [0, 2, 2, 4], [1, 0, 2, 2], [0, 1, 1, 2]]

const damaged = (reason: string): ImageError => new ImageError(`the PNG file is damaged: ${reason}.`)

export async function readPng(bytes: Uint8Array): Promise<Picture> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  const parts: Uint8Array[] = []
  let [head, palette, alpha]: (Uint8Array | undefined)[] = []
  for (let at = 8; at + 8 <= bytes.length; ) {
    const size = view.getUint32(at)
    const name = String.fromCharCode(...bytes.subarray(at + 4, at + 8))
    const data = bytes.subarray(at + 8, at + 8 + size)
    if (name === "IHDR") head ??= data
    else if (name === "PLTE") palette ??= data
    else if (name === "tRNS") alpha ??= data
    else if (name === "IDAT") parts.push(data)
    else if (parts.length) break // the first frame ends here
    at += 12 + size
  }
  if (!head || head.length < 13) throw damaged("it has no header")
  const header = new DataView(head.buffer, head.byteOffset)
  const [width, height] = [header.getUint32(0), header.getUint32(4)]
  const [depth, type, interlaced] = [head[8], head[9], head[12]]
  if (!DEPTHS[type]?.includes(depth)) throw damaged(`it states the colour type ${type} with ${depth} bits`)
  checkSize(width, height)
  const samples = SAMPLES[type]
  const passes = (interlaced ? PASSES : [[0, 0, 1, 1]])
    .map(([x, y, dx, dy]) => ({ x, y, dx, dy, w: Math.ceil((width - x) / dx), h: Math.ceil((height - y) / dy) }))
    .filter(({ w, h }) => w > 0 && h > 0)
  const stride = (w: number): number => Math.ceil((w * samples * depth) / 8)
  const raw = await inflate(parts, passes.reduce((sum, { w, h }) => sum + h * (1 + stride(w)), 0))

  const deep = type === 0 && depth === 16
  const pixels = deep ? new Uint16Array(width * height) : new Uint8Array(width * height * samples)
  const bpp = Math.max(1, (samples * depth) >> 3)
  // Grey of fewer bits is spread over 0 to 255; an index of a palette is not.
  const spread = type === 0 && depth < 8 ? 255 / (2 ** depth - 1) : 1
  let from = 0
  for (const { x, y, dx, dy, w, h } of passes) {
    const length = stride(w)
    let above: Uint8Array = new Uint8Array(length)
    for (let row = 0; row < h; row++) {
      const line = raw.subarray(from + 1, from + 1 + length)
      unfilter(raw[from], line, above, bpp)
      let to = ((y + row * dy) * width + x) * samples
      for (let i = 0; i < w * samples; i++) {
        if (depth === 8) pixels[to] = line[i]
        else if (deep) pixels[to] = line[2 * i] * 256 + line[2 * i + 1]
        else if (depth === 16) pixels[to] = line[2 * i] // the upper byte, as Pillow reads colour
        else pixels[to] = ((line[(i * depth) >> 3] >> (8 - depth - ((i * depth) & 7))) & (2 ** depth - 1)) * spread
        to += (i + 1) % samples ? 1 : (dx - 1) * samples + 1
      }
      above = line
      from += 1 + length
    }
  }
  if (type === 3) return lookedUp({ width, height, data: pixels as Uint8Array, channels: 1 }, palette, alpha)
  let transparent: number[] | undefined
  if (alpha && samples % 2) {
    const key = new DataView(alpha.buffer, alpha.byteOffset, alpha.length)
    if (alpha.length >= 2 * samples)
      transparent = Array.from({ length: samples }, (_, i) => key.getUint16(2 * i) * (depth === 1 ? spread : 1))
  }
  return { width, height, channels: samples, data: pixels, transparent }
}

/** Indices as the colours of a palette; the colours that it lacks are black. */
function lookedUp({ width, height, data }: Picture, palette?: Uint8Array, alpha?: Uint8Array): Picture {
  if (!palette) throw damaged("it has no palette")
  const channels = alpha ? 4 : 3
  const out = new Uint8Array(data.length * channels)
  data.forEach((index, i) => {
    for (let k = 0; k < 3; k++) out[i * channels + k] = palette[index * 3 + k] ?? 0
    if (alpha) out[i * channels + 3] = alpha[index] ?? 255
  })
  return { width, height, channels, data: out }
}

/** The first `size` bytes of a zlib stream. What comes after them is not looked at, as in Pillow. */
async function inflate(parts: Uint8Array[], size: number): Promise<Uint8Array> {
  const reader = new Blob(parts as BlobPart[]).stream().pipeThrough(new DecompressionStream("deflate")).getReader()
  const chunks: Uint8Array[] = []
  let have = 0
  try {
    while (have < size) {
      const { done, value } = await reader.read()
      if (done) break
      chunks.push(value)
      have += value.length
    }
  } catch (error) {
    if (have < size) throw damaged(`its pixels cannot be decompressed (${(error as Error).message})`)
  }
  reader.cancel().catch(() => undefined)
  if (have < size) throw damaged("it is cut off")
  const out = new Uint8Array(have)
  let at = 0
  for (const chunk of chunks) {
    out.set(chunk, at)
    at += chunk.length
  }
  return out
}

/** Undo the filter of a row: each byte was stored as a difference from its neighbours. */
function unfilter(filter: number, line: Uint8Array, above: Uint8Array, bpp: number): void {
  if (filter > 4) throw damaged(`it has a row with the filter ${filter}`)
  if (!filter) return
  for (let i = 0; i < line.length; i++) {
    const [a, b, c] = [i < bpp ? 0 : line[i - bpp], above[i], i < bpp ? 0 : above[i - bpp]]
    if (filter === 1) line[i] += a
    else if (filter === 2) line[i] += b
    else if (filter === 3) line[i] += (a + b) >> 1
    else {
      const [x, y, z] = [Math.abs(b - c), Math.abs(a - c), Math.abs(a + b - 2 * c)]
      line[i] += x <= y && x <= z ? a : y <= z ? b : c
    }
  }
}
