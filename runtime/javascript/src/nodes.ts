/** Nodes, their attributes and types as bytes of the ONNX format. */

import { ELEMENT_TYPES, type Dims, type Graph, type Node } from "./graph.js"
import { encode, fields, join, text } from "./wire.js"

/** An integer of at least 0, several, or a tensor as `int64Tensor` writes it. */
export type Attribute = number | readonly number[] | Uint8Array

const [INT, TENSOR, INTS] = [2, 4, 7] // AttributeProto.AttributeType

/** A node of the standard operator set, as a field of the graph. */
export function nodeField(
  type: string,
  reads: readonly string[],
  writes: readonly string[],
  attributes: Record<string, Attribute> = {},
): Uint8Array {
  return encode(1, [
    ...reads.map((name) => encode(1, name)),
    ...writes.map((name) => encode(2, name)),
    encode(4, type),
    ...Object.entries(attributes).map(([name, value]) => encode(5, [encode(1, name), ...attribute(value)])),
  ])
}

function attribute(value: Attribute): Uint8Array[] {
  if (typeof value === "number") return [encode(3, value), encode(20, INT)]
  if (value instanceof Uint8Array) return [encode(5, value), encode(20, TENSOR)]
  return [...value.map((one) => encode(8, one)), encode(20, INTS)]
}

/** A `TensorProto` of one axis. */
export function int64Tensor(values: readonly number[]): Uint8Array {
  const data = new Uint8Array(BigInt64Array.from(values, BigInt).buffer)
  return join([encode(1, values.length), encode(2, ELEMENT_TYPES.indexOf("int64")), encode(9, data)])
}

/** Transposes from one tensor to another; an Identity where there are none. `undefined` reverses the axes. */
export function chain(source: string, target: string, perms: readonly (number[] | undefined)[]): Uint8Array[] {
  if (!perms.length) return [nodeField("Identity", [source], [target])]
  return perms.map((perm, i) =>
    nodeField(
      "Transpose",
      [i ? `layertap:${target}/${i}` : source],
      [i < perms.length - 1 ? `layertap:${target}/${i + 1}` : target],
      perm ? { perm } : {},
    ),
  )
}

/** A node of a file with other names for some of the tensors that it writes. */
export function renamed({ bytes }: Graph, { span }: Node, names: (name: string) => string | undefined): Uint8Array {
  const [[, , , start, end]] = fields(bytes, ...span)
  const parts: Uint8Array[] = []
  for (const [number, , tag, at, stop] of fields(bytes, start, end)) {
    const name = number === 2 ? names(text(bytes, at, stop)) : undefined
    parts.push(name === undefined ? bytes.subarray(tag, stop) : encode(2, name))
  }
  return encode(1, parts)
}

/** The `ValueInfoProto` of a tensor. */
export function valueInfo(name: string, dtype: string, dims?: Dims): Uint8Array {
  const sizes = (dims ?? []).map((size) => encode(1, typeof size === "number" ? encode(1, size) : []))
  const tensor = [encode(1, Math.max(ELEMENT_TYPES.indexOf(dtype), 0)), ...(dims ? [encode(2, sizes)] : [])]
  return join([encode(1, name), encode(2, [encode(1, tensor)])])
}
