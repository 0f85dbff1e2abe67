/** From what a caller has (bytes of a file, a canvas, raw pixels) to the stored pixels of an image. */

import { ImageError, LayertapError, show } from "../errors.js"
import { isBytes, readBytes } from "../source.js"
import type { ImageSource, RawImage } from "./kinds.js"
import { type Picture, checkSize } from "./picture.js"
import { isPng, readPng } from "./png.js"

export async function decode(source: ImageSource): Promise<Picture> {
  if (isBytes(source) || typeof source === "string" || source instanceof URL) {
    const bytes = await readBytes(source, ImageError)
    return isPng(bytes) ? readPng(bytes) : drawFile(bytes)
  }
  const { data, width, height } = source as RawImage
  if (!ArrayBuffer.isView(data)) return draw(source as CanvasImageSource)
  checkSize(width, height)
  const channels = data.length / (width * height)
  const known = data instanceof Uint8Array || data instanceof Uint8ClampedArray || data instanceof Uint16Array
  if (![1, 3, 4].includes(channels) || !known)
    throw new ImageError(
      `raw pixels must be a Uint8Array, Uint8ClampedArray or Uint16Array with 1, 3 or 4 values for each of ${height} x ${width} pixels, got ${show(data)} of ${(data as Uint8Array).length}.`,
    )
  // Colour of 16 bits: the upper byte, as Pillow reads it.
  const bytes = data instanceof Uint16Array && channels > 1 ? Uint8Array.from(data, (value) => value >> 8) : data
  return { data: bytes, width, height, channels }
}

/** A file of another format, decoded by the browser, without turning it or changing its colours. */
async function drawFile(bytes: Uint8Array): Promise<Picture> {
  if (typeof createImageBitmap !== "function")
    throw new ImageError(
      "the image is not a PNG file, the only format that is read outside a browser. Convert it to PNG, or give its pixels as {data, width, height}.",
    )
  const blob = new Blob([unturned(bytes)] as BlobPart[])
  try {
    return draw(await createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" }))
  } catch (error) {
    if (error instanceof LayertapError) throw error
    throw new ImageError(`the file is not an image in a format that this browser reads (${(error as Error).message}).`, {
      cause: error,
    })
  }
}

/** JPEG bytes without their APP1 segments: browsers turn an image by its EXIF orientation, Keras does not. */
function unturned(bytes: Uint8Array): Uint8Array {
  if (bytes[0] !== 0xff || bytes[1] !== 0xd8) return bytes
  const kept = [bytes.subarray(0, 2)]
  let at = 2
  while (bytes[at] === 0xff && bytes[at + 1] !== 0xda && at + 4 <= bytes.length) {
    const stop = at + 2 + bytes[at + 2] * 256 + bytes[at + 3]
    if (bytes[at + 1] !== 0xe1) kept.push(bytes.subarray(at, stop))
    at = stop
  }
  const rest = [...kept, bytes.subarray(at)]
  const out = new Uint8Array(rest.reduce((sum, one) => sum + one.length, 0))
  let to = 0
  for (const one of rest) {
    out.set(one, to)
    to += one.length
  }
  return out
}

function draw(source: any): Picture {
  const width = source.displayWidth ?? source.naturalWidth ?? (source.videoWidth || source.width)
  const height = source.displayHeight ?? source.naturalHeight ?? (source.videoHeight || source.height)
  if (!Number.isInteger(width) || typeof OffscreenCanvas !== "function")
    throw new ImageError(
      `cannot read an image from ${show(source)}: give the bytes of a file, a URL, {data, width, height}, or what a browser can draw.`,
    )
  checkSize(width, height)
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true })!
  try {
    context.drawImage(source, 0, 0)
    return { width, height, channels: 4, data: context.getImageData(0, 0, width, height).data }
  } catch (error) {
    throw new ImageError(`the image cannot be drawn: ${(error as Error).message}`, { cause: error })
  }
}
