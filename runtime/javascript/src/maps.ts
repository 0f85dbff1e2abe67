/** Feature maps: a layer's values with the samples first and the channels last. */

import { ModelFileError, UsageError, show } from "./errors.js"
import type { Tokens } from "./card.js"
import { type Tensor, numbers, size } from "./tensors.js"

/** Feature maps of a batch, in float64: for each sample, positions by channels. */
export interface Maps {
  readonly samples: Float64Array[]
  /** Sizes of the axes that are neither samples nor channels. */
  readonly space: number[]
  readonly channels: number
}

/**
 * The values of a tensor as feature maps: samples first, channels last. Of a sequence of tokens, those
 * that are patches of an image are the map.
 */
export function featureMaps(name: string, tensor: Tensor, axes: string, tokens?: Tokens | null): Maps {
  const { dims } = tensor
  if (dims.length < 3 || !axes.includes("C"))
    throw new UsageError(
      `a heat map needs a layer with feature maps, such as (n, h, w, c), but ${show(name)} has the shape (${dims.join(", ")}) and the axes ${axes}.`,
    )
  const [sample, channel] = [Math.max(axes.indexOf("N"), 0), axes.indexOf("C")]
  const others = dims.map((_, axis) => axis).filter((axis) => axis !== sample && axis !== channel)
  const data = transposed(numbers(tensor), dims, [sample, ...others, channel])
  const each = size(dims) / dims[sample]
  const channels = dims[channel]
  const sizes = tokens && [...(tokens.grid ?? []), (tokens.first ?? 0) + 1]
  const [from, count] = tokens ? [(tokens.first ?? 0) * channels, size(tokens.grid ?? []) * channels] : [0, each]
  if (sizes && (sizes.length !== 3 || !sizes.every((one) => one > 0 && Number.isInteger(one)) || from + count > each || others.length > 1))
    throw new ModelFileError(`the file is damaged: ${show(name)} has the shape (${dims.join(", ")}), which does not fit its patches.`)
  return {
    samples: Array.from({ length: dims[sample] }, (_, i) => data.subarray(i * each + from, i * each + from + count)),
    space: tokens ? [...tokens.grid] : others.map((axis) => dims[axis]),
    channels,
  }
}

/** Elements in C order with their axes in another order, in float64. */
function transposed(data: ArrayLike<number>, dims: readonly number[], order: readonly number[]): Float64Array {
  if (order.every((axis, i) => axis === i)) return Float64Array.from(data)
  const steps = dims.map((_, axis) => size(dims.slice(axis + 1)))
  const out = new Float64Array(data.length)
  let at = 0
  const walk = (depth: number, from: number): void => {
    if (depth === order.length) out[at++] = data[from]
    else for (let i = 0; i < dims[order[depth]]; i++) walk(depth + 1, from + i * steps[order[depth]])
  }
  walk(0, 0)
  return out
}
