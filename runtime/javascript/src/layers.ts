/** What is known of a file without running it: its card, or where it has none, its tensors as layers. */

import { type Card, type Layer, type TensorInfo, readCard } from "./card.js"
import { required } from "./cut.js"
import { type Graph, type TensorType, readGraph, typeOf } from "./graph.js"

export interface Index {
  readonly graph: Graph
  readonly card: Card | null
  readonly layers: readonly Layer[]
  readonly inputs: readonly TensorInfo[]
  readonly outputs: readonly TensorInfo[]
}

const KEY = "layertap"

/** Read it; weights are passed over. Throws a `WireError` if the bytes are no ONNX model. */
export function readIndex(bytes: Uint8Array): Index {
  const graph = readGraph(bytes)
  const text = graph.metadata.get(KEY)
  if (text === undefined) {
    const info = (name: string): TensorInfo => ({ name, ...stated(typeOf(graph, name)) })
    return {
      graph,
      card: null,
      layers: tensorLayers(graph),
      inputs: required(graph).map(info),
      outputs: [...graph.outputs.keys()].map(info),
    }
  }
  const card = readCard(text)
  // A converter to float16 changes the dtypes that the card states.
  const own = <T extends TensorInfo>(one: T, tensor: string | null): T => ({
    ...one,
    dtype: (tensor !== null && typeOf(graph, tensor).dtype) || one.dtype,
  })
  const [inputs, outputs] = [card.inputs, card.outputs].map((infos) => infos.map((one) => own(one, one.name)))
  const changed = [...inputs, ...outputs].some(({ dtype }, i) => dtype !== [...card.inputs, ...card.outputs][i].dtype)
  const layers = card.layers.map((one) => ({ ...(changed ? own(one, one.tensor ?? null) : one), tensor: one.tensor ?? null }))
  return { graph, card, layers, inputs, outputs }
}

/** A row for every tensor that a node writes. */
function tensorLayers(graph: Graph): Layer[] {
  const rows: Layer[] = []
  for (const { type, reads, writes } of graph.nodes) {
    const isWeight = (name: string): boolean => graph.weights.has(name)
    const inbound = reads.filter((name) => !isWeight(name))
    let parameters = reads.filter(isWeight).reduce((sum, name) => sum + count(graph.weights.get(name)!), 0)
    for (const name of writes) {
      rows.push({ name, type, index: rows.length, ...stated(typeOf(graph, name)), parameters, inbound, tensor: name })
      parameters = 0 // counted once, with the node's first tensor
    }
  }
  return rows
}

/** How many weights; shapes, axes and the like (whole numbers of 64 bits) are none. */
const count = ({ dtype, dims }: TensorType): number =>
  ["int64", "bool", "string"].includes(dtype) ? 0 : (dims as number[]).reduce((a, b) => a * b, 1)

/** Shape and dtype; both empty where the file does not state the number of axes. */
const stated = ({ dtype, dims }: TensorType): { shape: (number | null)[]; dtype: string } => ({
  shape: (dims ?? []).map((size) => (typeof size === "number" ? size : null)),
  dtype: dims || ["sequence", "map", "optional"].includes(dtype) ? dtype : "",
})
