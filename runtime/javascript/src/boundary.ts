/** Starting a run at given layers: which tensors of the model's inputs are missing. */

import type { Layer } from "./card.js"
import type { Plan } from "./cut.js"
import { InputError, list, show } from "./errors.js"
import type { Graph } from "./graph.js"
import { peel } from "./leaf.js"
import type { Program } from "./program.js"

/** Reject a plan that depends on inputs that were not given; the message names the layers to add. */
export function checkSeparates(
  { graph, layers, seed }: Program,
  plan: Plan,
  given: readonly string[],
  inputs: readonly string[],
): void {
  const missing = plan.inputs.filter((name) => name !== seed && !inputs.includes(name))
  if (!missing.length) return
  const names = list([...given, ...inputs], 20)
  if (!plan.starts.size)
    throw new InputError(
      `the requested layers do not depend on ${names}, but on input ${missing.map(show).join(" and ")}. Give that, or layers in between.`,
    )
  const wanted = nearest(graph, layers, plan, missing)
  throw new InputError(
    `the requested layers cannot be computed from ${names} alone: also give ${list(wanted, 20)}.`,
  )
}

/** The last layers on the paths from the missing inputs to the part after the given tensors. */
function nearest(graph: Graph, layers: readonly Layer[], plan: Plan, missing: readonly string[]): string[] {
  const later = dependents(graph, plan.starts.keys())
  const reached = dependents(graph, missing)
  const kept = new Set(plan.nodes)
  const layerOf = new Map<string, string>()
  for (const { name, tensor } of layers.toReversed())
    if (tensor !== null && graph.makers.has(tensor)) layerOf.set(peel(graph, tensor).source, name)
  const open = [...plan.request.tensors, ...plan.nodes.filter((at) => later.has(at)).flatMap((at) => graph.nodes[at].reads)]
  const found = new Set<string>()
  const seen = new Set<string>()
  while (open.length) {
    const name = open.pop()!
    const at = graph.makers.get(name) ?? -1
    if (seen.has(name) || plan.starts.has(name)) continue
    seen.add(name)
    if (missing.includes(name)) found.add(name)
    else if (kept.has(at) && !later.has(at) && reached.has(at)) {
      if (layerOf.has(name)) found.add(layerOf.get(name)!)
      else for (const one of graph.nodes[at].reads) open.push(one)
    }
  }
  return found.size ? [...found] : [...missing]
}

/** Indices of the nodes that depend on any of the tensors. */
function dependents(graph: Graph, tensors: Iterable<string>): Set<number> {
  const readers = new Map<string, number[]>()
  graph.nodes.forEach((node, at) =>
    node.reads.forEach((name) => readers.set(name, [...(readers.get(name) ?? []), at])),
  )
  const found = new Set<number>()
  const open = [...tensors]
  while (open.length)
    for (const at of readers.get(open.pop()!) ?? [])
      if (!found.has(at)) {
        found.add(at)
        for (const name of graph.nodes[at].writes) open.push(name)
      }
  return found
}
