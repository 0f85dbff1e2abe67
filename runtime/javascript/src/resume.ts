/** Resuming a run from given activations. */

import { checkSeparates } from "./boundary.js"
import type { Layer } from "./card.js"
import { InputError, UsageError, show } from "./errors.js"
import { asTensor } from "./feeds.js"
import type { TensorType } from "./graph.js"
import { peel } from "./leaf.js"
import type { Asked, Program, RunOptions } from "./program.js"
import { only } from "./select.js"
import type { Tensor } from "./tensors.js"

/** See `Model.resume`. */
export async function resume(program: Program, given: object, layers: Asked | undefined, options: RunOptions): Promise<any> {
  const { graph, engine } = program
  const [request, collect] = layers === undefined ? program.requestOutputs() : await program.request(layers)
  const inputs: Record<string, any> = {}
  const starts = new Map<string, [Layer, Tensor]>()
  const sources = new Map<string, string>()
  for (const [name, value] of Object.entries(given ?? {})) {
    const row = graph.listed.has(name) ? undefined : only(program.layers, name)
    const tensor = row?.tensor ?? name
    const { source } = peel(graph, tensor)
    if (sources.has(source))
      throw new UsageError(`${show(sources.get(source))} and ${show(name)} are the same tensor in this file. Give only one of them.`)
    sources.set(source, name)
    if (!row || graph.listed.has(tensor)) inputs[tensor] = value
    else starts.set(tensor, [row, await asTensor(engine, `layer ${show(name)}`, row, value)])
  }
  if (!sources.size) throw new UsageError("give activations by the names of layers: {layer: tensor}.")
  const types = [...starts].map(([tensor, [{ dtype, shape }, value]]): [string, TensorType] => [
    tensor,
    { dtype: value.type || dtype, dims: dtype ? shape : undefined },
  ])
  const plan = program.plan({ ...request, fused: false, given: new Map(types) }, inputs)
  const names = [...starts.values()].map(([row]) => row.name)
  checkSeparates(program, plan, names, Object.keys(inputs))
  const feeds = await program.feeds(plan.inputs, inputs, options)
  const counts = new Set<number>()
  for (const [tensor, [row, value]] of starts) {
    feeds.set(tensor, value)
    if (row.per_sample !== false && row.shape[0] === null) counts.add(value.dims[0])
  }
  if (counts.size > 1) throw new InputError(`the given values have different batch sizes: ${[...counts].join(", ")}.`)
  return collect(await engine.run(plan, feeds))
}
