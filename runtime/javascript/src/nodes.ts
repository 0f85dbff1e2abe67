/** Nodes and their attributes as bytes of the ONNX format. */

import { ELEMENT_TYPES } from "./graph.js"
import { encode, join } from "./wire.js"

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
