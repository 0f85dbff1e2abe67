/** The start of a cut at given tensors, which become inputs. */

import type { Plan, Started } from "./cut.js"
import { type Dims, ELEMENT_TYPES, type Graph, type Node } from "./graph.js"
import { type Leaf, givenName, peel } from "./leaf.js"
import { nodeField } from "./nodes.js"
import { encode, fields, join, text } from "./wire.js"

/** What a cut that starts at given tensors has in addition. */
export function startsOf(graph: Graph, { starts, request }: Plan): Started {
  const names = (name: string): string | undefined => (starts.has(name) ? `layertap:unused:${name}` : undefined)
  return {
    nodes: [...starts].flatMap(([source, name]) => chain(givenName(name), source, inverse(peel(graph, name)))),
    inputs: [...starts.values()].map((name) => {
      const { dtype, dims } = request.given!.get(name)!
      return encode(11, valueInfo(givenName(name), dtype, dims))
    }),
    node: (node) => renamed(graph, node, names),
  }
}

function inverse({ perms }: Leaf): (number[] | undefined)[] {
  return perms.toReversed().map((perm) => perm?.map((_, axis) => perm.indexOf(axis)))
}

/** Transposes from one tensor to another; an Identity where there are none. `undefined` reverses the axes. */
function chain(source: string, target: string, perms: readonly (number[] | undefined)[]): Uint8Array[] {
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
function renamed({ bytes }: Graph, { span }: Node, names: (name: string) => string | undefined): Uint8Array {
  const [[, , , start, end]] = fields(bytes, ...span)
  const parts: Uint8Array[] = []
  for (const [number, , tag, at, stop] of fields(bytes, start, end)) {
    const name = number === 2 ? names(text(bytes, at, stop)) : undefined
    parts.push(name === undefined ? bytes.subarray(tag, stop) : encode(2, name))
  }
  return encode(1, parts)
}

/** The `ValueInfoProto` of a tensor. */
function valueInfo(name: string, dtype: string, dims?: Dims): Uint8Array {
  const sizes = (dims ?? []).map((size) => encode(1, typeof size === "number" ? encode(1, size) : []))
  const tensor = [encode(1, Math.max(ELEMENT_TYPES.indexOf(dtype), 0)), ...(dims ? [encode(2, sizes)] : [])]
  return join([encode(1, name), encode(2, [encode(1, tensor)])])
}
