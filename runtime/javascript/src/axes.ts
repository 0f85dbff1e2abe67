/** What the axes of tensors mean. */

import type { Card, Layer, TensorInfo } from "./card.js"

/** The meaning of each axis of a tensor, by its name in the graph and the number of its axes. */
export type Axes = (tensor: string, rank: number) => string

/**
 * What a card says of axes. Where it says nothing, the channels are the last axis in a file from
 * Keras, and the second in any other.
 */
export function statedAxes(card: Card | null, layers: readonly Layer[]): Axes {
  const stated = new Map<string, string>()
  const infos: (TensorInfo & { tensor?: string | null })[] = [...layers, ...(card?.inputs ?? []), ...(card?.outputs ?? [])]
  for (const { name, tensor, axes } of infos) if (axes && tensor !== null) stated.set(tensor ?? name, axes)
  const last = card && card.source.framework !== "onnx"
  return (tensor, rank) => {
    const known = stated.get(tensor)
    if (known?.length === rank) return known
    if (rank < 2) return "N".slice(0, rank)
    return last ? `N${"?".repeat(rank - 2)}C` : `NC${"?".repeat(rank - 2)}`
  }
}
