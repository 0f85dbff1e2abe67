/** Gradients and heat maps of a class: the runs that they need. */

import type { Axes } from "./axes.js"
import { type Method, checkExtent, findMethod, finished, heat } from "./cam.js"
import type { Gradients, Layer } from "./card.js"
import { LayerNotFoundError, ModelFileError, UsageError, list, show } from "./errors.js"
import { isNamed } from "./feeds.js"
import { isImage } from "./images/kinds.js"
import { type Maps, featureMaps } from "./maps.js"
import { finishedOf } from "./pictures.js"
import type { Program, RunOptions } from "./program.js"
import { Classes, type Found, type Target, byClass, endsInActivation } from "./scores.js"
import { type Selector, isSingle, only, select } from "./select.js"
import { type Tensor, size, zeros } from "./tensors.js"

export interface TargetOptions extends RunOptions {
  /** The class to explain, by default each image's best; or a list. */
  readonly target?: Target | readonly Target[]
}

export interface CamOptions extends TargetOptions {
  readonly method?: string
  /** Set negative values to 0 and divide by the maximum; by default true. */
  readonly normalize?: boolean
  /** Enlarge the map to the model's input (by default), or to a size; `false` keeps the layer's. */
  readonly resize?: boolean | readonly number[]
}

/** Heat maps, with the classes and scores that they are for. */
export interface HeatMaps {
  readonly data: Float32Array
  /** `[h, w]` for one image and one target, otherwise `[n, targets, h, w]`. */
  readonly dims: readonly number[]
  readonly method: string
  readonly layer: string
  /** By image and target; `undefined` where weights of the classes were given. */
  readonly classes: (number | undefined)[][]
  /** By image and target: the model's output. */
  readonly scores: number[][]
}

export interface Score {
  readonly index: number
  readonly label: string | undefined
  readonly score: number
}

/** See `Model.top`. */
export async function top(program: Program, inputs: any, count: number, options: RunOptions): Promise<any> {
  if (!Number.isInteger(count) || count < 1) throw new UsageError(`the number of classes must be at least 1, got ${show(count)}.`)
  const output = outputOf(program)
  const rows = byClass((await program.compute({ tensors: [output], fused: true }, inputs, options)).get(output)!)
  const classes = classesOf(program, output, rows[0].length)
  const best = rows.map((row) =>
    classes
      .all(row)
      .map((score, index): Score => ({ index, label: classes.label(index), score }))
      .sort((a, b) => b.score - a.score)
      .slice(0, count),
  )
  return isOne(program, inputs) ? best[0] : best
}

/** See `Model.gradients`. */
export async function gradients(program: Program, inputs: any, layers: any, options: TargetOptions): Promise<any> {
  const known = required(program)
  const wanted = choose(program, known, layers)
  const { target = "top" } = options
  const { runs } = await differentiate(program, known, [...wanted.values()], [], inputs, options)
  const results = [...wanted].map(([name, tensor]) => {
    const parts = runs.map((run) => run.get(tensor)!)
    return [name, Array.isArray(target) ? stacked(program, parts) : parts[0]]
  })
  return isSingle(program.layers, layers) ? results[0][1] : Object.fromEntries(results)
}

/** See `Model.cam`. */
export async function cam(program: Program, inputs: any, layer: Selector | undefined, options: CamOptions): Promise<HeatMaps> {
  const { target = "top", normalize = true, resize = true } = options
  if (typeof normalize !== "boolean") throw new UsageError(`normalize must be true or false, got ${show(normalize)}.`)
  const facts = finishedOf(program.card)
  if (facts) {
    const { computedMaps } = await import("./finished.js")
    const { data, extent, found, outputs, targets, ...rest } = await computedMaps(program, facts, inputs, layer, options)
    const dims = isOne(program, inputs) && !Array.isArray(target) ? extent : [outputs.length, targets.length, ...extent]
    return { data, dims, ...rest, ...explained(outputs, found) }
  }
  const targets = ([] as Target[]).concat(target as Target[])
  const method = findMethod(options.method ?? "gradcam")
  const axes = await program.axes()
  const row = chooseLayer(program, axes, layer, method)
  const tensor = row.tensor!
  const known = method.takesGradients ? required(program) : undefined
  const output = known?.output ?? outputOf(program)
  const slope = known?.tensors[row.name]
  let [runs, found, feeds]: [Map<string, Tensor>[], Found[], Map<string, Tensor>] = [[], [], new Map()]
  if (known) ({ runs, found, feeds } = await differentiate(program, known, [slope!], [tensor, output], inputs, options))
  else {
    const plan = program.plan({ tensors: [tensor, output] }, inputs)
    feeds = await program.feeds(plan.inputs, inputs, options)
    runs = [await program.engine.run(plan, feeds)]
  }
  const outputs = byClass(runs[0].get(output)!)
  const classes = classesOf(program, output, outputs[0].length)
  if (!known) found = targets.map((one) => classes.find(one, outputs.length, outputs))
  const maps = (run: Map<string, Tensor>, name: string): Maps => {
    const value = run.get(name)!
    return featureMaps(row.name, value, axes(tensor, value.dims.length), row.tokens)
  }
  const activations = maps(runs[0], tensor)
  const { space } = activations
  const extent = resize === false ? space : checkExtent(resize, resize === true ? imageSize(axes, feeds, space.length) : space)
  const each = size(extent)
  const data = new Float32Array(outputs.length * targets.length * each)
  targets.forEach((_, t) =>
    heat(method, activations, slope === undefined ? undefined : maps(runs[t], slope)).forEach((map, i) =>
      data.set(finished(map, space, extent, normalize), (i * targets.length + t) * each),
    ),
  )
  return {
    data,
    dims: isOne(program, inputs) && !Array.isArray(target) ? extent : [outputs.length, targets.length, ...extent],
    method: method.name,
    layer: row.name,
    ...explained(outputs, found),
  }
}

/** The classes that maps explain, and their scores. */
function explained(outputs: readonly Float64Array[], found: readonly Found[]): Pick<HeatMaps, "classes" | "scores"> {
  return {
    classes: outputs.map((_, i) => found.map((one) => one.classes?.[i])),
    scores: outputs.map((scores, i) =>
      found.map(({ weights, offsets }) => scores.reduce((sum, one, k) => sum + one * weights[i * scores.length + k], offsets[i])),
    ),
  }
}

/** Whether one image was given, not a list of images or a batch. */
function isOne(program: Program, inputs: any): boolean {
  const values = isNamed(inputs) ? Object.values(inputs) : [inputs]
  const image = finishedOf(program.card)?.image
  if (image) return program.inputs.some(({ name, shape }) => name === image && shape.length === 3) || values.some(isImage)
  return program.inputs.some(({ shape }) => shape.length === 4) && values.some(isImage)
}

function outputOf({ card, outputs }: Program): string {
  const name = card?.gradients?.output ?? finishedOf(card)?.scores ?? outputs[0]?.name
  if (name === undefined) throw new UsageError("the model has no outputs, and so no scores of classes.")
  return name
}

const classesOf = (program: Program, output: string, width: number): Classes =>
  new Classes(width, labelsOf(program, output), endsInActivation(program.graph, output))

/** The names of the classes of an output; the channels of a layer have none. */
function labelsOf({ card, outputs }: Program, output: string): readonly string[] | null | undefined {
  const known = card?.gradients
  if (!known?.of || known.output !== output) return card?.labels
  const own = outputs.find(({ name }) => name === known.of)
  const at = known.channel
  if (typeof at !== "number" || own?.shape.at(-1) !== card?.labels?.length) return null
  return card?.labels?.slice(at, at + 1)
}

/** Check that the channels of a layer that is the score are its last axis. */
function checkScore({ card, layers, outputs }: Program, axes: Axes): void {
  const of = card?.gradients?.of
  const row = layers.find(({ name }) => name === of)
  if (!row?.tensor || outputs.some(({ name }) => name === of)) return
  const letters = axes(row.tensor, row.shape.length)
  if (letters.length > 2 && letters.slice(1, -1).includes("C"))
    throw new UsageError(`the gradients are those of the layer ${show(of)}, whose channels are not its last axis. Use layertap for Python.`)
}

/** The card's description of the file's gradients. */
function required({ card, graph }: Program): Gradients {
  const known = card?.gradients
  if (!known || !Object.keys(known.tensors).length)
    throw new ModelFileError("the file has no gradients. `layertap gradients FILE --layers LAYER -o NEW.onnx` writes a file with them.")
  if (!graph.listed.has(known.weights))
    throw new ModelFileError(
      `the file cannot give the gradient of a class: ${show(known.weights)}, the weights of the classes, is no input of the graph. Another program may have made it a constant.`,
    )
  return known
}

function missing(known: Gradients, name: string): never {
  throw new LayerNotFoundError(
    `the file has no gradient for ${show(name)}, only for ${list(Object.keys(known.tensors))}. \`layertap gradients FILE --layers ${name} -o NEW.onnx\` writes a file with it.`,
  )
}

/** The gradients' tensors by name of the layer or input. */
function choose(program: Program, known: Gradients, layers: any): Map<string, string> {
  const has = (name: string): boolean => Object.hasOwn(known.tensors, name)
  const selectors: Selector[] = layers === undefined || layers === "all" ? Object.keys(known.tensors) : [].concat(layers)
  const wanted = selectors.flatMap((one) => {
    if (typeof one === "string" && has(one)) return [one]
    const found = select(program.layers, one).map((row) => row.name)
    const having = found.filter(has)
    return isSingle(program.layers, one) || !having.length ? found : having
  })
  return new Map(wanted.map((name) => [name, has(name) ? known.tensors[name] : missing(known, name)]))
}

/** Gradients and other tensors, by a run for each target. */
async function differentiate(
  program: Program,
  known: Gradients,
  wanted: readonly string[],
  also: readonly string[],
  inputs: any,
  options: TargetOptions,
): Promise<{ runs: Map<string, Tensor>[]; found: Found[]; feeds: Map<string, Tensor> }> {
  const targets = ([] as Target[]).concat((options.target ?? "top") as Target[])
  if (!targets.length) throw new UsageError("the list of targets is empty. Give labels or indices of classes, or 'top'.")
  const plan = program.plan({ tensors: [...new Set([...wanted, ...also])] }, inputs)
  const whole = program.plan({ tensors: [known.output] }, inputs)
  const feeds = await program.feeds([...new Set([...plan.inputs, ...whole.inputs])], inputs, options)
  const axes = await program.axes()
  checkScore(program, axes)
  const classes = classesOf(program, known.output, program.seedShape().at(-1)!)
  const [first, value] = [...feeds].find(([name]) => name !== known.weights) ?? []
  if (!value) throw new ModelFileError("the file is damaged: its gradients depend on no input.")
  const samples = value.dims[Math.max(axes(first!, value.dims.length).indexOf("N"), 0)]
  const isTop = targets.some((one) => classes.isTop(one))
  const scores = isTop ? byClass((await program.engine.run(whole, feeds)).get(known.output)!) : undefined
  const found = targets.map((one) => classes.find(one, samples, scores))
  const runs: Map<string, Tensor>[] = []
  for (const { weights } of found)
    runs.push(await program.engine.run(plan, new Map(feeds).set(known.weights, program.seeds(weights, samples))))
  return { runs, found, feeds }
}

/** Tensors `(n, ...)` of several targets as one, `(n, targets, ...)`. */
function stacked({ engine }: Program, parts: readonly Tensor[]): Tensor {
  const [{ type, dims, data }] = parts
  const each = size(dims.slice(1))
  const out = zeros(type, data.length * parts.length)
  parts.forEach((part, t) => {
    for (let i = 0; i < dims[0]; i++) out.set(part.data.subarray(i * each, (i + 1) * each), (i * parts.length + t) * each)
  })
  return engine.tensor(type, out, [dims[0], parts.length, ...dims.slice(1)])
}

/** The given layer, or the last one with gradients; `last-conv` is the last one with feature maps. */
function chooseLayer(program: Program, axes: Axes, layer: Selector | undefined, method: Method): Layer {
  const { layers, graph } = program
  const known = method.takesGradients ? required(program) : program.card?.gradients
  const having = (row: Layer): boolean => !!known && Object.hasOwn(known.tensors, row.name)
  const rows = layers.filter((row) => !row.attention && row.tensor !== null && !graph.listed.has(row.tensor))
  const patches = lastTokens(layers)
  const maps = rows.filter(({ tensor, shape, name, tokens }) => {
    const letters = shape.length > 2 ? axes(tensor!, shape.length) : ""
    return letters.includes("C") && (!patches || (tokens ? name === patches.name : letters.includes("H")))
  })
  const isLast = layer === "last-conv" && layers.every(({ name }) => name !== layer)
  const last = (isLast ? maps : rows).filter((row) => (isLast && !method.takesGradients) || having(row)).at(-1)
  if (layer !== undefined && !isLast) {
    const row = only(layers, layer)
    return method.takesGradients && !having(row) ? missing(known!, row.name) : row
  }
  if (last) return last
  const end = maps.at(-1)
  if (isLast && end) missing(known!, end.name)
  if (isLast) throw new LayerNotFoundError("the file has no layer with feature maps, so no 'last-conv'.")
  const hint = end ? ` The last one with feature maps is ${show(end.name)}.` : ""
  throw new UsageError(`give a layer: the file has no gradients to choose one by.${hint}`)
}

/** The size of the image that maps with `rank` axes cover; one map covers all frames of a video. */
function imageSize(axes: Axes, feeds: ReadonlyMap<string, Tensor>, rank: number): number[] {
  const sizes = [...feeds].map(([name, { dims }]) => {
    const letters = axes(name, dims.length)
    return dims.filter((_, axis) => !"NC".includes(letters[axis]))
  })
  const found = sizes.find((one) => one.length === rank) ?? sizes.find((one) => one.length === rank + 1 && rank > 1)?.slice(1)
  if (found) return found
  throw new UsageError(`the layer gives maps with ${rank} axes, but no input has that many between batch and channels. Give resize: false.`)
}

/**
 * The layer of tokens that Grad-CAM explains in a vision transformer: what the last attention layer
 * reads. After it, a class token does not read the patches any more.
 */
function lastTokens(layers: readonly Layer[]): Layer | undefined {
  const tokens = layers.filter((layer) => layer.tokens && layer.tensor !== null)
  const scores = layers.filter((layer) => layer.attention?.grid)
  for (const { inbound } of scores.reverse()) {
    const read = tokens.filter((layer) => inbound.includes(layer.name)).at(-1)
    if (read) return read
  }
  const last = layers.find((layer) => layer.name === scores[0]?.attention?.of)
  const around = new Set<string>()
  for (let one = last; one && !around.has(one.name); one = layers.find(({ name }) => name === one!.parent)) around.add(one.name)
  return tokens.filter(({ index, name }) => last && index < last.index && !around.has(name)).at(-1) ?? tokens.at(-1)
}
