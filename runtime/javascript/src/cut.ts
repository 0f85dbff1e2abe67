/**
 * The cut: a smaller model that computes some tensors and nothing else.
 *
 * onnxruntime runs every node of a graph, whichever outputs are requested. So the cut keeps only the
 * nodes that the request depends on, copied byte for byte. The other end can be cut, too: given
 * tensors become inputs, and the nodes that make them are left out.
 */

import { ModelFileError, show } from "./errors.js"
import type { Graph, Node, TensorType, Weights } from "./graph.js"
import { peel } from "./leaf.js"
import { encode, header, join } from "./wire.js"

/** Nodes that are not in the file, to be computed at the end of the cut. */
export interface Appended {
  readonly reads: readonly string[]
  readonly writes: readonly string[]
  readonly nodes: Uint8Array
}

export interface Request {
  readonly tensors: readonly string[]
  readonly appended?: readonly Appended[]
  /** Tensors that are fed instead of computed, with the types that they have. */
  readonly given?: ReadonlyMap<string, TensorType>
  /** Inputs with a value in the file that are fed. */
  readonly fed?: readonly string[]
  /** Whether a quantised model may be computed in integers, which makes values depend on what else is requested. */
  readonly fused?: boolean
}

export interface Plan {
  readonly request: Request
  /** Indices of the kept nodes, in order. */
  readonly nodes: number[]
  readonly weights: Set<string>
  /** The model's inputs that must be fed. */
  readonly inputs: string[]
  /** The given tensors that the cut reads, by their sources. */
  readonly starts: Map<string, string>
  /** The requested tensors that are inputs: their values are those that are fed. */
  readonly passed: Set<string>
}

/** The name under which a requested tensor is computed: a copy of a constant, or of what no object may have as a key. */
export const outputName = (graph: Graph, tensor: string): string =>
  graph.weights.has(tensor) || tensor in {} ? `layertap:${tensor}` : tensor

/** The inputs of a graph that have no value in the file; before IR version 4 all constants were listed, too. */
export const required = (graph: Graph): string[] => [...graph.listed.keys()].filter((name) => !graph.weights.has(name))

/** The inputs that have a value in the file. */
export const optional = (graph: Graph): string[] =>
  graph.irVersion < 4 ? [] : [...graph.listed.keys()].filter((name) => graph.weights.has(name))

export function missingTensor(name: string): ModelFileError {
  return new ModelFileError(
    `the file has no tensor ${show(name)}, which its card names. Export it again.`,
  )
}

export function planCut(graph: Graph, request: Request): Plan {
  const given = new Map([...(request.given ?? [])].map(([name]) => [peel(graph, name).source, name]))
  const fed = new Set(request.fed)
  const isInput = (name: string): boolean => graph.listed.has(name) && (!graph.weights.has(name) || fed.has(name))
  const plan: Plan = { request, nodes: [], weights: new Set(), inputs: [], starts: new Map(), passed: new Set() }
  const nodes = new Set<number>()
  const inputs = new Set<string>()
  const open = (request.appended ?? []).flatMap((extra) => extra.reads)
  for (const name of request.tensors) {
    if (isInput(name) && !given.has(name)) {
      plan.passed.add(name)
      inputs.add(name)
    } else open.push(name)
  }
  const seen = new Set<string>()
  while (open.length) {
    const name = open.pop()!
    if (seen.has(name)) continue
    seen.add(name)
    const at = graph.makers.get(name)
    if (given.has(name)) plan.starts.set(name, given.get(name)!)
    else if (isInput(name)) inputs.add(name)
    else if (graph.weights.has(name)) plan.weights.add(name)
    else if (at === undefined) throw missingTensor(name)
    else if (!nodes.has(at)) {
      nodes.add(at)
      for (const one of graph.nodes[at].reads) open.push(one)
    }
  }
  plan.nodes.push(...[...nodes].sort((a, b) => a - b))
  plan.inputs.push(...[...graph.listed.keys()].filter((name) => inputs.has(name)))
  return plan
}

/** What a cut has in addition if it starts at given tensors. */
export interface Started {
  readonly nodes: readonly Uint8Array[]
  /** The inputs that are fed. */
  readonly inputs: readonly Uint8Array[]
  /** A node of the file that also writes a given tensor, without that. */
  node(node: Node): Uint8Array
}

/**
 * The bytes of the model that a plan describes.
 *
 * @param load Reads weights that are in another file, as a field with the data inside.
 */
export async function writeCut(
  graph: Graph,
  plan: Plan,
  started: Started | undefined,
  load: (weights: Weights) => Promise<Uint8Array[]>,
): Promise<Uint8Array> {
  const { bytes } = graph
  const { tensors, appended = [] } = plan.request
  const part = ([start, end]: readonly [number, number]): Uint8Array => bytes.subarray(start, end)
  const body = [...graph.title.map(part), ...(started?.nodes ?? [])]
  for (const at of plan.nodes) {
    const node = graph.nodes[at]
    body.push(node.writes.some((name) => plan.starts.has(name)) ? started!.node(node) : part(node.span))
  }
  body.push(...appended.map((extra) => extra.nodes))
  const outputs = tensors.filter((name) => !plan.passed.has(name))
  for (const name of new Set(outputs)) {
    const copy = outputName(graph, name)
    if (copy !== name) body.push(encode(1, [encode(1, name), encode(2, copy), encode(4, "Identity")]))
  }
  for (const name of plan.weights) {
    const weights = graph.weights.get(name)!
    body.push(...(weights.external ? await load(weights) : [part(weights.span)]))
  }
  const listed = graph.irVersion < 4 ? [...plan.inputs, ...plan.weights] : plan.inputs
  for (const name of listed) if (graph.listed.has(name)) body.push(encode(11, part(graph.listed.get(name)!)))
  body.push(...(started?.inputs ?? []))
  for (const name of new Set(outputs)) {
    const stated = graph.outputs.get(name) ?? graph.values.get(name)
    body.push(encode(12, stated && outputName(graph, name) === name ? part(stated) : encode(1, outputName(graph, name))))
  }
  for (const name of appended.flatMap((extra) => extra.writes)) body.push(encode(12, encode(1, name)))
  const total = body.reduce((sum, one) => sum + one.length, 0)
  return join([...graph.head.map(part), header(7, total), ...body])
}
