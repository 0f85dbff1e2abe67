/** What the axes of tensors mean. */

import type { Card, Layer, TensorInfo } from "./card.js"
import type { Graph } from "./graph.js"

/** The meaning of each axis of a tensor, by its name in the graph and the number of its axes. */
export type Axes = (tensor: string, rank: number) => string

/**
 * What a card says of axes; if it says nothing of any tensor, what the operators of the graph say.
 * Where neither does, the channels are the last axis in a file from Keras, and the second in any other.
 */
export async function axesOf(graph: Graph, card: Card | null, layers: readonly Layer[]): Promise<Axes> {
  let known = new Map<string, string>()
  const infos: (TensorInfo & { tensor?: string | null })[] = [...layers, ...(card?.inputs ?? []), ...(card?.outputs ?? [])]
  for (const { name, tensor, axes } of infos) if (axes && tensor !== null) known.set(tensor ?? name, axes)
  const last = card && card.source.framework !== "onnx"
  if (!known.size) known = (await import("./inference.js")).inferredAxes(graph, !last)
  return (tensor, rank) => {
    const axes = known.get(tensor)
    if (axes?.length === rank) return axes
    if (rank < 2) return "N".slice(0, rank)
    return last ? `N${"?".repeat(rank - 2)}C` : `NC${"?".repeat(rank - 2)}`
  }
}
