/** Images as a batch for an input. */

import type { TensorInfo } from "../card.js"
import { InputError } from "../errors.js"
import { checkShape, shown } from "../shapes.js"
import type { ImageSource } from "./kinds.js"
import { type Prepared, type Recipe, channelsOf, prepare } from "./recipe.js"

export { prepare }

/** A batch of pixels. */
interface Pixels {
  readonly data: any
  readonly dims: readonly number[]
}

/** The images of a batch `(n, h, w, c)`; or `(n, c, h, w)`, if `first` channels come first and can only be there. */
function separate(label: string, { data, dims }: Pixels, first: number | false): ImageSource[] {
  const isFirst = dims[1] === first && dims[3] !== first
  const [n, height, width, channels] = isFirst ? [dims[0], dims[2], dims[3], dims[1]] : dims
  const area = height * width
  const each = area * channels
  if (data.length !== n * each) throw new InputError(`${label} has ${data.length} values, but the shape ${shown(dims)}.`)
  const ordered = isFirst
    ? data.map((_: unknown, i: number) => data[i - (i % each) + (i % channels) * area + Math.floor((i % each) / channels)])
    : data
  return Array.from({ length: n }, (_, i) => ({ data: ordered.subarray(i * each, (i + 1) * each), width, height }))
}

/** Images prepared by a recipe, `(n, h, w, c)` or `(n, c, h, w)`, float32. */
export async function batch(
  label: string,
  info: TensorInfo,
  given: readonly ImageSource[] | Pixels,
  recipe: Recipe,
): Promise<{ data: Float32Array; dims: number[] }> {
  const first = (recipe.channels ?? (info.axes === "NCHW" ? "first" : "last")) === "first"
  const images = "dims" in given ? separate(label, given, first && channelsOf(recipe)) : given
  const shape = (height: number, width: number, channels: number): number[] =>
    first ? [images.length, channels, height, width] : [images.length, height, width, channels]
  if (recipe.size) checkShape(label, shape(...recipe.size, channelsOf(recipe)), info)
  const prepared: Prepared[] = []
  for (const image of images) prepared.push(await prepare(recipe, image))
  const [{ width, height, channels }] = prepared
  const each = width * height * channels
  const data = new Float32Array(images.length * each)
  prepared.forEach((one, i) => {
    if (one.width !== width || one.height !== height)
      throw new InputError(
        `images of different sizes cannot form one batch: image 0 has ${height} x ${width} pixels, image ${i} has ${one.height} x ${one.width}. Set a "size" in the preprocessing.`,
      )
    if (!first) data.set(one.data, i * each)
    else one.data.forEach((value, at) => (data[i * each + (at % channels) * width * height + Math.floor(at / channels)] = value))
  })
  return { data, dims: shape(height, width, channels) }
}
