/** An image as it was stored: the pixels of its first frame, before any conversion. */

import { ImageError } from "../errors.js"

export interface Picture {
  readonly width: number
  readonly height: number
  /** 1: grey, 2: grey and alpha, 3: RGB, 4: RGBA. */
  readonly channels: number
  /** 8 bits; or 16, of grey alone. Rows from the top, channels last. */
  readonly data: Uint8Array | Uint8ClampedArray | Uint16Array
  /** The grey value or colour whose pixels are transparent. */
  readonly transparent?: readonly number[]
}

/** Pillow's limit for images. */
export const MOST_PIXELS = 178_956_970

export function checkSize(width: number, height: number): void {
  if (!(width > 0 && height > 0)) throw new ImageError(`the image has no pixels (height ${height}, width ${width}).`)
  if (width * height > MOST_PIXELS)
    throw new ImageError(`the image has ${height} x ${width} pixels, which are more than ${MOST_PIXELS}.`)
}
