/** Tensors that are another one with its axes in another order, and how they are fed. */

import type { Graph } from "./graph.js"

/** How a tensor is made from a computed one, by Transposes and Identities only. */
export interface Leaf {
  readonly source: string
  /** The order of axes of each Transpose; `undefined` reverses them. */
  readonly perms: readonly (number[] | undefined)[]
}

/** The name under which a given tensor is fed. */
export const givenName = (tensor: string): string => `layertap:given:${tensor}`

const VIEWS = ["Identity", "Transpose"]
const MOST_PEELED = 64

/** Walk back from a tensor over Transposes and Identities. */
export function peel(graph: Graph, tensor: string): Leaf {
  const perms: (number[] | undefined)[] = []
  let source = tensor
  for (let i = 0; i < MOST_PEELED; i++) {
    const node = graph.nodes[graph.makers.get(source) ?? -1]
    if (!node || !VIEWS.includes(node.type) || node.domain || graph.functions.has(`:${node.type}`)) break
    if (node.reads.length !== 1) break
    if (node.type === "Transpose") perms.unshift(node.perm)
    source = node.reads[0]
  }
  return { source, perms }
}
