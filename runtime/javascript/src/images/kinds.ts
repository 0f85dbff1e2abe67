/** What counts as an image. Reading one is a part that is loaded when it is needed. */

import { type Source, isBytes } from "../source.js"

/** Pixels in memory, such as `ImageData`: 1, 3 or 4 channels of 8 or 16 bits, rows from the top. */
export interface RawImage {
  readonly data: Uint8Array | Uint8ClampedArray | Uint16Array
  readonly width: number
  readonly height: number
}

/**
 * An image: the bytes of a file, where it is, raw pixels, or what a browser can draw (an `img`, a
 * canvas, an `ImageBitmap`, a `VideoFrame`).
 */
export type ImageSource = Source | RawImage | CanvasImageSource

export const isImage = (value: any): value is ImageSource =>
  isBytes(value) ||
  typeof value === "string" ||
  value instanceof URL ||
  (!!value && typeof value === "object" && !("dims" in value) && ("width" in value || "displayWidth" in value))
