/**
 * Reductions computed in the graph, so that only the small result leaves the session.
 *
 * Each is a few nodes at the end of the cut, written for the file's own opset: axes are an attribute
 * of ReduceMean and ReduceMax before opset 18, and an input since then; the number of channels is an
 * attribute of TopK before opset 10. See https://onnx.ai/onnx/operators/.
 */

import type { Layer } from "./card.js"
import type { Appended } from "./cut.js"
import { UsageError, show, suggest } from "./errors.js"
import { ELEMENT_TYPES, type Graph } from "./graph.js"
import { peel } from "./leaf.js"
import { type Attribute, int64Tensor, nodeField } from "./nodes.js"
import { join } from "./wire.js"

const NAMES = ["mean", "max", "mean_l2", "flatten", "top5"]

/** The nodes that reduce a layer's activation. The result is the first output; `top5` has a second, the indices. */
export function reduced(graph: Graph, layer: Layer, how: string, meanings: string): Appended {
  if (typeof how !== "string" || !(NAMES.includes(how) || /^top[1-9]\d{0,8}$/.test(how)))
    throw new UsageError(
      `unknown reduction ${show(how)}.${suggest(String(how), NAMES)} Give one of ${NAMES.map(show).join(", ")} (or another number), or null for the whole activation.`,
    )
  const opset = graph.opsets.get("") ?? 0
  if (opset < 1) throw new UsageError("the file does not import the standard operators, so none can be added to it.")
  const leaf = peel(graph, layer.tensor!)
  const own = reducedAxes(layer, leaf.perms, how, meanings)
  // The values must be in the order of the layer's own axes.
  const direct = how === "flatten" || !own
  const source = direct ? layer.tensor! : leaf.source
  const axes = direct ? [...meanings].flatMap((letter, axis) => ("NC".includes(letter) ? [] : [axis])) : own
  const label = `layertap:${how}:${source}`
  const nodes: Uint8Array[] = []
  let [now, count] = [source, 0]
  const name = (): string => `${label}/${++count}`
  const add = (type: string, reads: string[] = [], attributes: Record<string, Attribute> = {}, also: string[] = []): void => {
    const made = name()
    nodes.push(nodeField(type, [now, ...reads], [made, ...also], attributes))
    now = made
  }
  const constant = (values: number[]): string => {
    const made = name()
    nodes.push(nodeField("Constant", [], [made], { value: int64Tensor(values) }))
    return made
  }
  const reduce = (type: string): void => {
    if (axes.length && opset < 18) add(type, [], { axes, keepdims: 0 })
    else if (axes.length) add(type, [constant(axes)], { keepdims: 0 }) // without axes, all are reduced
  }
  const writes = [label]
  if (how === "flatten") add("Flatten", [], { axis: 1 })
  else if (how === "max") reduce("ReduceMax")
  else {
    if (!layer.dtype.includes("float")) add("Cast", [], { to: ELEMENT_TYPES.indexOf("float32") })
    reduce("ReduceMean")
    if (how === "mean_l2") add("LpNormalization", [], { axis: 1, p: 2 })
    if (how.startsWith("top")) {
      const k = Number(how.slice(3))
      writes.push(`${label}/channels`)
      if (opset < 10) add("TopK", [], { axis: 1, k }, [writes[1]])
      else add("TopK", [constant([k])], { axis: 1 }, [writes[1]])
    }
  }
  nodes.push(nodeField("Identity", [now], [label]))
  return { reads: [source], writes, nodes: join(nodes) }
}

/** The source's axes except batch and channels; `undefined` if the channels come before the batch. */
function reducedAxes(
  layer: Layer,
  perms: readonly (number[] | undefined)[],
  how: string,
  meanings: string,
): number[] | undefined {
  const { shape, name } = layer
  const shown = `${show(name)}, of shape (${shape.map((one) => one ?? "null").join(", ")})`
  if (!layer.dtype) throw new UsageError(`${show(how)} needs the shape of ${show(name)}, which the file does not state.`)
  const channels = shape.length === 2 && !meanings.includes("C") ? 1 : meanings.indexOf("C")
  if (how !== "flatten" && (shape.length < 2 || channels < 0))
    throw new UsageError(`${show(how)} needs an axis of channels, but ${shown}, has none: its axes are ${meanings}.`)
  if (!shape.length) throw new UsageError(`${show(name)} is a scalar and cannot be flattened.`)
  let order = shape.map((_, axis) => axis)
  for (const perm of perms) {
    const turned = perm ?? shape.map((_, axis) => axis).reverse()
    if (String([...turned].sort((a, b) => a - b)) !== String(shape.map((_, axis) => axis))) return undefined
    order = turned.map((axis) => order[axis])
  }
  const [batch, channel] = [order[Math.max(meanings.indexOf("N"), 0)], order[Math.max(channels, 0)]]
  const most = shape[Math.max(channels, 0)]
  if (how.startsWith("top") && most !== null && Number(how.slice(3)) > most)
    throw new UsageError(`${show(how)} needs more channels than the ${most} of ${show(name)}.`)
  return batch < channel ? order.map((_, axis) => axis).filter((axis) => axis !== batch && axis !== channel) : undefined
}
