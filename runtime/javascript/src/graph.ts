/**
 * An index of an ONNX file: its nodes, weights, inputs and outputs by name, and their positions.
 *
 * It is built without reading the weights. Field numbers are those of
 * https://github.com/onnx/onnx/blob/main/onnx/onnx.proto, which never change.
 */

import { LEN, VARINT, type Span, WireError, fields, find, findText, integer, integers, text } from "./wire.js"

/** Sizes of the axes: a number, the name of a free size, or `null` for an unnamed one. */
export type Dims = readonly (number | string | null)[]

export const ELEMENT_TYPES =
  ",float32,uint8,int8,uint16,int16,int32,int64,string,bool,float16,float64,uint32,uint64,complex64,complex128,bfloat16".split(
    ",",
  )

/** What a file states of a tensor; an empty dtype, and no dims, where it states nothing. */
export interface TensorType {
  readonly dtype: string
  readonly dims?: Dims
}

/** One operation; `span` is the whole field. */
export interface Node {
  readonly type: string
  readonly domain: string
  /** What it needs: its inputs, and the outer tensors that its subgraphs use. */
  readonly reads: string[]
  readonly writes: string[]
  readonly span: Span
  /** The order of axes of a Transpose, if it states one. */
  readonly perm?: number[]
}

/** A reference to weights in another file. */
export interface External {
  readonly location: string
  readonly offset: number
  readonly length?: number
}

/** One constant; `span` is the whole field. */
export interface Weights extends TensorType {
  readonly name: string
  readonly span: Span
  readonly external?: External
}

export interface Graph {
  readonly bytes: Uint8Array
  irVersion: number
  readonly opsets: Map<string, number>
  readonly metadata: Map<string, string>
  /** `domain:name` of the functions that the file defines. */
  readonly functions: Set<string>
  readonly nodes: Node[]
  readonly weights: Map<string, Weights>
  /** Everything that the file lists as an input; the span is the `ValueInfoProto`, also below. */
  readonly listed: Map<string, Span>
  readonly outputs: Map<string, Span>
  /** Other tensors whose types are stated. */
  readonly values: Map<string, Span>
  /** Fields of the model that every cut copies: versions, operator sets, functions; and the graph's name. */
  readonly head: Span[]
  readonly title: Span[]
  /** The index of the node that writes each tensor. */
  readonly makers: Map<string, number>
}

const MAX_DEPTH = 32
const MAX_RANK = 255
/** Fields of the model that are not needed to run it: doc string, metadata, training. */
const OMITTED = [6, 14, 20]
/** Operators whose outputs cannot be left out one by one: onnxruntime ends the process if they are. */
const COMPLETE = ["If", "Loop", "Scan", "Split"]

const NESTING = new Set([0x2a, 0x32, 0x52, 0x5a, 0xb2, 0xba])

/** Index the ONNX model in `bytes`; throws a `WireError` if it is none. */
export function readGraph(bytes: Uint8Array): Graph {
  const graph: Graph = {
    bytes,
    irVersion: 0,
    opsets: new Map(),
    metadata: new Map(),
    functions: new Set(),
    nodes: [],
    weights: new Map(),
    listed: new Map(),
    outputs: new Map(),
    values: new Map(),
    head: [],
    title: [],
    makers: new Map(),
  }
  let found = false
  for (const [number, wire, tag, start, end] of fields(bytes, 0, bytes.length)) {
    const span: Span = [start, end]
    if (number === 7 && wire === LEN) {
      found = true
      readBody(graph, span) // protobuf merges a message that occurs twice
      continue
    }
    if (number === 1 && wire === VARINT) graph.irVersion = integer(bytes, start, end)
    else if (wire !== LEN) void 0
    else if (number === 8) readOpset(graph, span)
    else if (number === 14) graph.metadata.set(findText(bytes, span, 1), findText(bytes, span, 2))
    else if (number === 25) readFunction(graph, span)
    if (!OMITTED.includes(number)) graph.head.push([tag, end])
  }
  if (!found) throw new WireError("it has no graph")
  graph.nodes.forEach((node, at) => node.writes.forEach((name) => graph.makers.set(name, at)))
  for (const names of [graph.weights, graph.listed, graph.outputs, graph.makers])
    for (const name of names.keys())
      if (name.includes("\0")) throw new WireError("the name of a tensor contains a zero byte")
  return graph
}

function readBody(graph: Graph, [start, end]: Span): void {
  const { bytes } = graph
  for (const [number, wire, tag, at, stop] of fields(bytes, start, end)) {
    if (wire !== LEN) continue
    const named = number === 11 ? graph.listed : number === 12 ? graph.outputs : number === 13 && graph.values
    if (named) named.set(findText(bytes, [at, stop], 1), [at, stop])
    else if (number === 1) graph.nodes.push(readNode(bytes, [tag, stop], at, 0))
    else if (number === 2) graph.title.push([tag, stop])
    else if (number === 5 || number === 15) {
      const weights = number === 5 ? readTensor(bytes, [at, stop]) : readSparse(bytes, [at, stop])
      graph.weights.set(weights.name, { ...weights, span: [tag, stop] })
    }
  }
}

const standard = (domain: string): string => (domain === "ai.onnx" ? "" : domain)

function readOpset({ bytes, opsets }: Graph, span: Span): void {
  let version = 0
  for (const [number, wire, , at, stop] of fields(bytes, ...span))
    if (number === 2 && wire === VARINT) version = integer(bytes, at, stop)
  opsets.set(standard(findText(bytes, span, 1)), version)
}

function readFunction({ bytes, functions }: Graph, span: Span): void {
  for (const [number, wire, tag, at, stop] of fields(bytes, ...span)) {
    if (number === 7 && wire === LEN) readNode(bytes, [tag, stop], at, 0)
    else if (number === 11 && wire === LEN) readAttribute(bytes, [at, stop], 0)
  }
  functions.add(`${standard(findText(bytes, span, 10))}:${findText(bytes, span, 1)}`)
}

function readNode(bytes: Uint8Array, span: Span, start: number, depth: number): Node {
  const reads = new Set<string>()
  const writes: string[] = []
  const attributes: Span[] = []
  let [type, domain, omits] = ["", "", false]
  for (const [number, wire, , at, stop] of fields(bytes, start, span[1])) {
    if (wire !== LEN) continue
    if (number === 5) attributes.push([at, stop])
    else if (number === 1) {
      if (stop > at) reads.add(text(bytes, at, stop)) // one that is left out has an empty name
    } else if (number === 2) {
      if (stop > at) writes.push(text(bytes, at, stop))
      else omits = true
    } else if (number === 4) type = text(bytes, at, stop)
    else if (number === 7) domain = text(bytes, at, stop)
  }
  if (omits && COMPLETE.includes(type))
    throw new WireError(`a node of type ${type} leaves out one of its outputs`)
  let perm: number[] | undefined
  for (const one of attributes) {
    if (type === "Transpose") perm = readPerm(bytes, one) ?? perm
    // A quick test for the tags of fields with tensors and graphs; a tag has one spelling only.
    if (bytes.subarray(...one).some((byte) => NESTING.has(byte)))
      for (const name of readAttribute(bytes, one, depth)) reads.add(name)
  }
  return { type, domain: standard(domain), reads: [...reads], writes, span, perm }
}

function readPerm(bytes: Uint8Array, span: Span): number[] | undefined {
  const axes: number[] = []
  for (const [number, wire, , at, stop] of fields(bytes, ...span))
    if (number === 8) addSizes(axes, integers(bytes, wire, at, stop))
  return findText(bytes, span, 1) === "perm" ? axes : undefined
}

/** The outer tensors that subgraphs in an attribute use. */
function readAttribute(bytes: Uint8Array, [start, end]: Span, depth: number): string[] {
  let names: string[] = []
  for (const [number, wire, , at, stop] of fields(bytes, start, end)) {
    if (wire !== LEN) continue
    if (number === 6 || number === 11) names = names.concat(readSubgraph(bytes, [at, stop], depth + 1))
    else if (number === 5 || number === 10) inside(readTensor(bytes, [at, stop]))
    else if (number === 22 || number === 23) readSparse(bytes, [at, stop])
  }
  return names
}

/** The outer tensors that a subgraph (a body of If, Loop or Scan) uses. */
function readSubgraph(bytes: Uint8Array, [start, end]: Span, depth: number): string[] {
  if (depth > MAX_DEPTH) throw new WireError(`subgraphs are nested more than ${MAX_DEPTH} deep`)
  const reads = new Set<string>()
  const own = new Set<string>()
  for (const [number, wire, tag, at, stop] of fields(bytes, start, end)) {
    if (wire !== LEN) continue
    if (number === 1) {
      const node = readNode(bytes, [tag, stop], at, depth)
      node.reads.forEach((name) => reads.add(name))
      node.writes.forEach((name) => own.add(name))
    } else if (number === 5) own.add(inside(readTensor(bytes, [at, stop])).name)
    else if (number === 15) own.add(readSparse(bytes, [at, stop]).name)
    else if (number === 11) own.add(findText(bytes, [at, stop], 1))
    else if (number === 12) reads.add(findText(bytes, [at, stop], 1))
  }
  return [...reads].filter((name) => !own.has(name))
}

type Tensor = Omit<Weights, "span">

/** Refuses a tensor in another file: only weights of the graph itself may be there. */
function inside(tensor: Tensor): Tensor {
  if (tensor.external) throw new WireError("it refers to data in another file")
  return tensor
}

function readSparse(bytes: Uint8Array, [start, end]: Span): Tensor {
  let [name, dtype] = ["", ""]
  const dims: number[] = []
  for (const [number, wire, , at, stop] of fields(bytes, start, end)) {
    if (number === 3) addSizes(dims, integers(bytes, wire, at, stop))
    else if ((number === 1 || number === 2) && wire === LEN) {
      const part = inside(readTensor(bytes, [at, stop]))
      if (number === 1) ({ name, dtype } = part)
    }
  }
  return { name, dtype, dims }
}

/** A `TensorProto`, without its data. */
function readTensor(bytes: Uint8Array, [start, end]: Span): Tensor {
  const dims: number[] = []
  const entries = new Map<string, string>()
  let [name, dtype, outside] = ["", "", false]
  for (const [number, wire, tag, at, stop] of fields(bytes, start, end)) {
    if (number === 1) addSizes(dims, integers(bytes, wire, at, stop))
    else if (number === 2 && wire === VARINT) dtype = elementType(integer(bytes, at, stop))
    else if (number === 8 && wire === LEN) name = text(bytes, at, stop)
    else if (number === 13 && wire === LEN)
      entries.set(findText(bytes, [at, stop], 1), findText(bytes, [at, stop], 2))
    else if (number === 14 && wire === VARINT) {
      const place = integer(bytes, at, stop)
      if (place !== 0 && place !== 1) throw new WireError(`the data location at byte ${tag} is ${place}, not 0 or 1`)
      outside = place === 1
    }
  }
  if (dims.reduce((a, b) => a * b, 1) >= 2 ** 63)
    throw new WireError(`the tensor at byte ${start} has an impossible size`)
  return { name, dtype, dims, external: outside ? readExternal(entries) : undefined }
}

function readExternal(entries: Map<string, string>): External {
  const [offset, length] = ["offset", "length"].map((key) => {
    const digits = entries.get(key) || ""
    if (!/^\d{0,15}$/.test(digits)) throw new WireError(`invalid external data: ${key} ${digits}`)
    return digits ? Number(digits) : undefined
  })
  return { location: entries.get("location") ?? "", offset: offset ?? 0, length }
}

function addSizes(dims: number[], sizes: number[]): void {
  if (dims.length + sizes.length > MAX_RANK) throw new WireError(`a tensor has more than ${MAX_RANK} axes`)
  dims.push(...sizes)
}

const elementType = (code: number): string => ELEMENT_TYPES[code] ?? `type ${code}`

const CONTAINERS: Record<number, string> = { 4: "sequence", 5: "map", 9: "optional" }

/** The type that a `ValueInfoProto` states. */
export function readType(bytes: Uint8Array, value?: Span): TensorType {
  const type = value && find(bytes, value, 2)
  for (const [number, wire, , start, end] of type ? fields(bytes, ...type) : []) {
    if (CONTAINERS[number]) return { dtype: CONTAINERS[number] }
    if ((number !== 1 && number !== 8) || wire !== LEN) continue
    let [dtype, dims]: [string, Dims | undefined] = ["", undefined]
    for (const [inner, innerWire, , at, stop] of fields(bytes, start, end)) {
      if (inner === 1 && innerWire === VARINT) dtype = elementType(integer(bytes, at, stop))
      else if (inner === 2 && innerWire === LEN) dims = readDims(bytes, [at, stop])
    }
    return { dtype, dims }
  }
  return { dtype: "" }
}

function readDims(bytes: Uint8Array, span: Span): Dims {
  const dims: (number | string | null)[] = []
  for (const [number, wire, , at, stop] of fields(bytes, ...span)) {
    if (number !== 1 || wire !== LEN) continue
    let size: number | string | null = null
    for (const [inner, innerWire, , first, last] of fields(bytes, at, stop)) {
      if (inner === 1 && innerWire === VARINT) {
        const value = integer(bytes, first, last)
        size = value >= 0 ? value : null
      } else if (inner === 2 && innerWire === LEN) size = text(bytes, first, last) || null
    }
    if (dims.length === MAX_RANK) throw new WireError(`a tensor has more than ${MAX_RANK} axes`)
    dims.push(size)
  }
  return dims
}

/** What the file states of a tensor of the main graph, by name. */
export function typeOf(graph: Graph, name: string): TensorType {
  const { bytes, listed, outputs, values } = graph
  return readType(bytes, listed.get(name) ?? outputs.get(name) ?? values.get(name))
}
