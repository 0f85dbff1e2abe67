/**
 * The cut: a smaller model that computes some tensors and nothing else.
 *
 * onnxruntime runs every node of a graph, whichever outputs are requested. So the cut keeps only the
 * nodes that the request depends on, copied byte for byte. The other end can be cut, too: given
 * tensors become inputs, and the nodes that make them are left out.
 */

import { ModelFileError, show } from "./errors.js"
import type { External, Graph, TensorType } from "./graph.js"
import { chain, nodeField, renamed, valueInfo } from "./nodes.js"
import { encode, fields, header, join } from "./wire.js"

/** How a tensor is made from a computed one, by Transposes and Identities only. */
export interface Leaf {
  readonly source: string
  /** The order of axes of each Transpose; `undefined` reverses them. */
  readonly perms: readonly (number[] | undefined)[]
}

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

/** The name under which a given tensor is fed. */
export const givenName = (tensor: string): string => `layertap:given:${tensor}`

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

/** The bytes of the model that a plan describes; `load` reads weights that are in another file. */
export async function writeCut(
  graph: Graph,
  plan: Plan,
  load: (external: External) => Promise<Uint8Array>,
): Promise<Uint8Array> {
  const { bytes } = graph
  const { tensors, appended = [], given } = plan.request
  const part = ([start, end]: readonly [number, number]): Uint8Array => bytes.subarray(start, end)
  const body = graph.title.map(part)
  for (const [source, name] of plan.starts) body.push(...chain(givenName(name), source, inverse(peel(graph, name))))
  for (const at of plan.nodes) {
    const node = graph.nodes[at]
    const isGiven = node.writes.some((name) => plan.starts.has(name)) // kept for its other outputs
    const rename = (name: string): string | undefined => (plan.starts.has(name) ? `layertap:unused:${name}` : undefined)
    body.push(isGiven ? renamed(graph, node, rename) : part(node.span))
  }
  body.push(...appended.map((extra) => extra.nodes))
  const outputs = tensors.filter((name) => !plan.passed.has(name))
  for (const name of new Set(outputs))
    if (outputName(graph, name) !== name) body.push(nodeField("Identity", [name], [outputName(graph, name)]))
  for (const name of plan.weights) {
    const { span, external } = graph.weights.get(name)!
    body.push(...(external ? located(bytes, span, await load(external)) : [part(span)]))
  }
  const listed = graph.irVersion < 4 ? [...plan.inputs, ...plan.weights] : plan.inputs
  for (const name of listed) if (graph.listed.has(name)) body.push(encode(11, part(graph.listed.get(name)!)))
  for (const name of plan.starts.values()) {
    const { dtype, dims } = given!.get(name)!
    body.push(encode(11, valueInfo(givenName(name), dtype, dims)))
  }
  for (const name of new Set(outputs)) {
    const stated = graph.outputs.get(name) ?? graph.values.get(name)
    body.push(encode(12, stated && outputName(graph, name) === name ? part(stated) : encode(1, outputName(graph, name))))
  }
  for (const name of appended.flatMap((extra) => extra.writes)) body.push(encode(12, encode(1, name)))
  const total = body.reduce((sum, one) => sum + one.length, 0)
  return join([...graph.head.map(part), header(7, total), ...body])
}

function inverse({ perms }: Leaf): (number[] | undefined)[] {
  return perms.toReversed().map((perm) => perm?.map((_, axis) => perm.indexOf(axis)))
}

const [RAW_DATA, EXTERNAL_DATA, DATA_LOCATION] = [9, 13, 14]

/** A `TensorProto` field with its data inside. */
function located(bytes: Uint8Array, span: readonly [number, number], data: Uint8Array): Uint8Array[] {
  const [[, , , start, end]] = fields(bytes, ...span)
  const kept: Uint8Array[] = []
  for (const [number, , tag, , stop] of fields(bytes, start, end))
    if (![RAW_DATA, EXTERNAL_DATA, DATA_LOCATION].includes(number)) kept.push(bytes.subarray(tag, stop))
  kept.push(header(RAW_DATA, data.length), data)
  return [header(5, kept.reduce((sum, one) => sum + one.length, 0)), ...kept]
}
