/** Heat maps from a finished file, which computes them itself. */

import { checkExtent, finished, methodName } from "./cam.js"
import { LayerNotFoundError, UsageError, show } from "./errors.js"
import { type Finished, TOP } from "./pictures.js"
import type { Program, RunOptions } from "./program.js"
import { Classes, type Target, byClass, endsInActivation } from "./scores.js"
import { type Tensor, numbers, size } from "./tensors.js"

interface Options extends RunOptions {
  readonly target?: Target | readonly Target[]
  readonly method?: string
  readonly normalize?: boolean
  readonly resize?: boolean | readonly number[]
}

/** Heat maps as in `Model.cam`, with all axes; of a list of targets, or of one. */
export async function computedMaps(program: Program, facts: Finished, inputs: any, layer: any, options: Options) {
  const output = checked(facts, layer, options)
  const { target = "top", resize = true } = options
  const targets = ([] as Target[]).concat(target as Target[])
  if (!targets.length) throw new UsageError("the list of targets is empty. Give labels or indices of classes, or 'top'.")
  const plan = program.plan({ tensors: [output, facts.scores!], fused: true }, inputs)
  const feeds = await program.feeds(plan.inputs, inputs, options)
  const run = (classes: readonly number[]): Promise<Map<string, Tensor>> => {
    const given = facts.target && program.engine.tensor("int64", BigInt64Array.from(classes, BigInt), [classes.length])
    return program.engine.run(plan, given ? new Map(feeds).set(facts.target!, given) : feeds)
  }
  const count = facts.target ? (feeds.get(facts.target)?.dims[0] ?? 1) : 1
  const first = await run(Array(count).fill(TOP))
  const outputs = byClass(first.get(facts.scores!)!)
  const classes = new Classes(outputs[0].length, program.card?.labels, endsInActivation(program.graph, facts.scores!))
  const found = targets.map((one) => classes.find(one, outputs.length, outputs))
  const maps: Tensor[] = []
  for (const [t, one] of found.entries()) {
    if (!one.classes)
      throw new UsageError(
        "a finished file computes the heat map of one class. Weights of the classes need the file that it was made from.",
      )
    const isFirst = !facts.target || classes.isTop(targets[t])
    maps.push((isFirst ? first : await run(one.classes)).get(output)!)
  }
  const space = maps[0].dims.slice(-2)
  const extent = checkExtent(resize, space)
  const [stored, each] = [size(space), size(extent)]
  const data = new Float32Array(outputs.length * targets.length * each)
  maps.forEach((map, t) => {
    const values = Float64Array.from(numbers(map))
    outputs.forEach((_, i) => {
      const own = values.subarray(i * stored, (i + 1) * stored)
      data.set(finished(own, space, extent, false), (i * targets.length + t) * each)
    })
  })
  return { data, extent, found, outputs, targets, method: facts.method!, layer: facts.layer! }
}

/** The output with the map, if what is asked for is what the file computes. */
function checked({ heat_map, layer, method, scores }: Finished, given: any, options: Options): string {
  if (heat_map == null || scores == null)
    throw new UsageError("the file is a finished file without a heat map. `layertap finish --heat-map LAYER` writes one with it.")
  const name = given?.name ?? given
  if (name !== undefined && name !== layer)
    throw new LayerNotFoundError(`the file is a finished file with the heat map of ${show(layer)}, got layer ${show(name)}.`)
  if (options.method !== undefined && methodName(options.method) !== method)
    throw new UsageError(`the file is a finished file with the method ${method}, got ${show(options.method)}.`)
  const { normalize = true, resize = true } = options
  const wrong = normalize ? (resize ? "" : "resize: false") : "normalize: false"
  if (wrong)
    throw new UsageError(
      `the file is a finished file: it computes its heat map itself, so ${wrong} has no effect. Use the file that it was made from.`,
    )
  return heat_map
}
