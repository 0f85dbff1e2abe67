/** The public API: `open` and `Model`. */

import { type Axes, featureMaps, statedAxes } from "./axes.js"
import { checkSeparates } from "./boundary.js"
import { finished, findMethod, heat, type Method } from "./cam.js"
import type { Card, Gradients, Layer, TensorInfo } from "./card.js"
import { CheckReport, allowance } from "./check.js"
import { type Appended, type Plan, type Request, missingTensor, optional, peel, planCut } from "./cut.js"
import { Engine, type Ort } from "./engine.js"
import { InputError, LayerNotFoundError, ModelFileError, UsageError, list, show } from "./errors.js"
import { type Inputs, asTensor, byName } from "./feeds.js"
import { deviation, goldenData } from "./golden.js"
import { type Graph, type TensorType, typeOf } from "./graph.js"
import { type ImageSource, isImage } from "./images/decode.js"
import { type Recipe, asRecipe } from "./images/recipe.js"
import { type Index, readIndex } from "./layers.js"
import { type Reduction, reduced } from "./reductions.js"
import { Classes, type Found, type Target, byClass, endsInActivation } from "./scores.js"
import { type Selector, isSingle, only, select } from "./select.js"
import { type Source, externalReader, readBytes } from "./source.js"
import { type Tensor, cast, size, zeros } from "./tensors.js"

export interface OpenOptions {
  /** Options for `ort.InferenceSession.create`, such as `{ executionProviders: ["webgpu"] }`. */
  readonly session?: object
}

export interface RunOptions {
  /** A recipe for images instead of the card's. */
  readonly preprocess?: Recipe
}

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

/** The result of a reduction such as `top5`: the channels with the largest means, and these. */
export interface TopChannels {
  readonly channels: Tensor
  readonly values: Tensor
}

export interface Score {
  readonly index: number
  readonly label: string | undefined
  readonly score: number
}

type Layers = Selector | readonly Selector[]
type Reductions = { readonly [selector: string]: Reduction | null }

/**
 * Open a model: the bytes of an ONNX file, a `Blob`, a URL, or with node a path. Only its index is
 * read: names, edges and the card.
 *
 * @param ort onnxruntime-web or onnxruntime-node.
 * @throws {ModelFileError} It cannot be read, or is no ONNX model.
 * @throws {CardVersionError} Its card was written by a newer layertap.
 */
export async function open(ort: Ort, source: Source, options: OpenOptions = {}): Promise<Model> {
  if (typeof ort?.InferenceSession?.create !== "function")
    throw new UsageError("the first argument must be onnxruntime-web or onnxruntime-node: open(ort, source).")
  const index = readIndex(await readBytes(source, ModelFileError))
  return new Model(new Engine(ort, index.graph, options.session, externalReader(source)), index)
}

/** An opened ONNX file: its layers, and their activations. Made by `open`. */
export class Model {
  /** The file's description of itself; `null` in a file that layertap did not export. */
  readonly card: Card | null
  /** All layers, in Keras's order; in a file without a card, every tensor that a node writes. */
  readonly layers: readonly Layer[]
  /** The model's inputs, channels last, `null` for a free size. */
  readonly inputs: readonly TensorInfo[]
  /** The model's own outputs. */
  readonly outputs: readonly TensorInfo[]
  readonly #engine: Engine
  readonly #graph: Graph
  readonly #axes: Axes
  readonly #optional: readonly string[]

  /** @internal */
  constructor(engine: Engine, index: Index) {
    this.#engine = engine
    this.#graph = index.graph
    this.card = index.card
    this.layers = index.layers
    this.inputs = index.inputs
    this.outputs = index.outputs
    this.#axes = statedAxes(this.card, this.layers)
    this.#optional = optional(index.graph)
  }

  /** Names of the classes, in the order of the output's last axis, if the card has them. */
  get labels(): readonly string[] | null {
    return this.card?.labels ?? null
  }

  /** How images become inputs, if the card contains that; throws a `PreprocessingError` if it is invalid. */
  get preprocessing(): Recipe | null {
    return this.card?.preprocessing ? asRecipe(this.card.preprocessing) : null
  }

  /** The layer with this exact name or index. */
  layer(what: Selector): Layer {
    return only(this.layers, what)
  }

  /** The layers that selectors match, with a class in `type`; without a selector all that the file contains. */
  select(what?: Layers, type?: string | readonly string[]): Layer[] {
    return select(this.layers, what, type)
  }

  /** Free the sessions. The model cannot run afterwards. */
  release(): Promise<void> {
    return this.#engine.release()
  }

  /** Images as a batch for the model's first input of images. */
  async prepare(images: ImageSource | readonly ImageSource[], { preprocess }: RunOptions = {}): Promise<Tensor> {
    const info = this.inputs.find(({ shape }) => shape.length === 4)
    if (!info)
      throw new InputError(`the model has no input of images: ${list(this.inputs.map(({ name }) => name))}. Give tensors.`)
    return asTensor(this.#engine, this.#withAxes(info), images, preprocess ? asRecipe(preprocess) : this.preprocessing)
  }

  /**
   * The activations of layers, in Keras's shapes, channels last. For one exact name or index: the
   * tensor; otherwise an object by the layers' names. The graph is cut to the request before it
   * runs; the sessions of the last four requests are kept.
   *
   * @param layers See `select`; or an object from such selectors to the names of reductions (or
   *   `null`), which are computed in the graph.
   */
  activations(inputs: Inputs, layers: string | number, options?: RunOptions): Promise<any>
  activations(inputs: Inputs, layers?: Layers, options?: RunOptions): Promise<Record<string, Tensor>>
  activations(inputs: Inputs, layers: Reductions, options?: RunOptions): Promise<Record<string, Tensor | TopChannels>>
  async activations(inputs: Inputs, layers?: Layers | Reductions, options: RunOptions = {}): Promise<any> {
    const [request, collect] = this.#request(layers)
    return collect(await this.#compute(request, inputs, options))
  }

  /** The model's own output; if it has several, an object by their names. */
  async predict(inputs: Inputs, options: RunOptions = {}): Promise<any> {
    const [request, collect] = this.#outputRequest()
    return collect(await this.#compute({ ...request, fused: true }, inputs, options))
  }

  /** The best classes: a list for one image, otherwise a list for each. */
  async top(inputs: Inputs, count = 5, options: RunOptions = {}): Promise<any> {
    const output = this.#output()
    const found = await this.#compute({ tensors: [output], fused: true }, inputs, options)
    const rows = byClass(found.get(output)!)
    const classes = this.#classes(output, rows[0]?.length ?? 0)
    const best = rows.map((row) =>
      classes
        .all(row)
        .map((score, index): Score => ({ index, label: classes.label(index), score }))
        .sort((a, b) => b.score - a.score)
        .slice(0, count),
    )
    return this.#isOne(inputs) ? best[0] : best
  }

  /**
   * The gradient of a class's score with respect to layers, which the file itself computes: of the
   * layer's shape; with a list of targets `(n, targets, ...)`. For one name the tensor, otherwise an
   * object by name; without layers all that have a gradient.
   */
  async gradients(inputs: Inputs, layers?: Layers, { target = "top", ...options }: TargetOptions = {}): Promise<any> {
    const known = this.#gradients()
    const wanted = this.#withGradient(known, layers)
    const targets = Array.isArray(target) ? target : [target]
    const { runs } = await this.#differentiate(known, [...wanted.values()], [], inputs, targets, options)
    const results = [...wanted].map(([name, tensor]) => {
      const parts = runs.map((run) => run.get(tensor)!)
      return [name, Array.isArray(target) ? this.#stacked(parts) : parts[0]]
    })
    const single = isSingle(this.layers, layers) && results.length === 1
    return single ? results[0][1] : Object.fromEntries(results)
  }

  /**
   * Heat maps: which parts of an image the score of a class depends on. The methods are `gradcam`,
   * `gradcam++`, `xgradcam`, `layercam`, `hirescam`, `gradcamelementwise` and `eigengradcam`, which
   * need a file with gradients, and `eigencam`.
   *
   * @param layer A layer with feature maps, or `last-conv` for the last of them; by default the last
   *   one that the file has a gradient for.
   */
  async cam(inputs: Inputs, layer?: Selector, options: CamOptions = {}): Promise<HeatMaps> {
    const { target = "top", normalize = true, resize = true, method: name = "gradcam", ...rest } = options
    const method = findMethod(name)
    const row = this.#camLayer(layer, method)
    const tensor = row.tensor!
    const targets: readonly Target[] = Array.isArray(target) ? target : [target]
    const known = method.takesGradients ? this.#gradients() : this.card?.gradients
    const output = known?.output ?? this.#output()
    let [runs, found, feeds]: [Map<string, Tensor>[], Found[], Map<string, Tensor>] = [[], [], new Map()]
    const slope = method.takesGradients ? known!.tensors[row.name] : undefined
    if (slope !== undefined) {
      ;({ runs, found, feeds } = await this.#differentiate(known!, [slope], [tensor, output], inputs, targets, rest))
    } else {
      const plan = this.#plan({ tensors: [tensor, output] }, inputs)
      feeds = await this.#feeds(plan, inputs, rest)
      runs = [await this.#engine.run(plan, feeds)]
    }
    const outputs = byClass(runs[0].get(output)!)
    const classes = this.#classes(output, outputs[0].length)
    if (slope === undefined) found = targets.map((one) => classes.find(one, outputs.length, outputs))
    const maps = (run: Map<string, Tensor>, name: string): ReturnType<typeof featureMaps> =>
      featureMaps(row.name, run.get(name)!, this.#axes(tensor, run.get(name)!.dims.length))
    const activations = maps(runs[0], tensor)
    const extent = Array.isArray(resize) ? resize : resize ? this.#imageSize(feeds, activations.space.length) : activations.space
    if (extent.length !== activations.space.length || !extent.every((one) => Number.isInteger(one) && one > 0))
      throw new UsageError(`resize must be true, false or ${activations.space.length} sizes, got [${extent.join(", ")}].`)
    const each = size(extent)
    const data = new Float32Array(outputs.length * targets.length * each)
    targets.forEach((_, t) => {
      const gradient = slope === undefined ? undefined : maps(runs[t], slope)
      heat(method, activations, gradient).forEach((map, i) =>
        data.set(finished(map, activations.space, extent, normalize), (i * targets.length + t) * each),
      )
    })
    const single = this.#isOne(inputs) && !Array.isArray(target)
    return {
      data,
      dims: single ? extent : [outputs.length, targets.length, ...extent],
      method: method.name,
      layer: row.name,
      classes: outputs.map((_, i) => found.map((one) => one.classes?.[i])),
      scores: outputs.map((scores, i) =>
        found.map(({ weights, offsets }) =>
          scores.reduce((sum, score, k) => sum + score * weights[i * scores.length + k], offsets[i]),
        ),
      ),
    }
  }

  /**
   * Continue a run from given activations, without computing anything before them.
   *
   * @param given Activations by the names of layers, in Keras's shapes; inputs may be among them.
   * @param layers As in `activations`; by default the model's own outputs.
   */
  async resume(given: { readonly [layer: string]: any }, layers?: Layers | Reductions, options: RunOptions = {}): Promise<any> {
    const [request, collect] = layers === undefined ? this.#outputRequest() : this.#request(layers)
    const inputs: Record<string, any> = {}
    const starts = new Map<string, [Layer, Tensor]>()
    const sources = new Map<string, string>()
    for (const [name, value] of Object.entries(given ?? {})) {
      const isInput = this.#graph.listed.has(name)
      const row = isInput ? undefined : only(this.layers, name)
      const tensor = row?.tensor ?? name
      const { source } = peel(this.#graph, tensor)
      const other = sources.get(source)
      if (other !== undefined)
        throw new UsageError(`${show(other)} and ${show(name)} are the same tensor in this file. Give only one of them.`)
      sources.set(source, name)
      if (!row || this.#graph.listed.has(tensor)) inputs[tensor] = value
      else starts.set(tensor, [row, await this.#given(row, value)])
    }
    if (!sources.size) throw new UsageError("give activations by the names of layers: {layer: tensor}.")
    const types = [...starts].map(([tensor, [{ dtype, shape }, value]]): [string, TensorType] => [
      tensor,
      { dtype: value.type || dtype, dims: shape.length === value.dims.length ? shape : undefined },
    ])
    const plan = this.#plan({ ...request, given: new Map(types) }, inputs)
    const names = [...starts.values()].map(([row]) => row.name)
    const seed = this.card?.gradients?.weights
    checkSeparates(this.#graph, this.layers, plan, names, [...Object.keys(inputs), ...(seed ? [seed] : [])])
    const feeds = await this.#feeds(plan, inputs, options)
    for (const [tensor, [, value]] of starts) feeds.set(tensor, value)
    const rows = [...starts.values()].filter(([row]) => row.per_sample !== false && row.shape[0] === null)
    const counts = new Set(rows.map(([, value]) => value.dims[0]))
    if (counts.size > 1) throw new InputError(`the given values have different batch sizes: ${[...counts].join(", ")}.`)
    return collect(await this.#engine.run(plan, feeds))
  }

  /**
   * Compare this machine's results with those of Keras at the export, for the golden sample in the
   * file: the report says which layer differs.
   *
   * @param options `tolerance`: the largest scaled error that passes, by default that of the export;
   *   give a larger one for a file that was converted to 16 bits.
   */
  async check({ tolerance }: { tolerance?: number } = {}): Promise<CheckReport> {
    const { card } = this
    if (!card?.golden || !Object.keys(card.golden.layers).length)
      throw new ModelFileError("the file has no golden sample to check against; files that layertap exports do.")
    const { seed, inputs, layers } = card.golden
    const order = new Map(this.layers.map((row) => [row.tensor, row.index]))
    const names = Object.keys(layers).sort((a, b) => (order.get(a) ?? Infinity) - (order.get(b) ?? Infinity) || 0)
    const given: Record<string, Tensor> = {}
    for (const input of inputs) {
      const dtype = this.inputs.find(({ name }) => name === input.name)?.dtype
      if (dtype === undefined) throw missingTensor(input.name)
      given[input.name] = this.#engine.tensor(dtype, goldenData(input, dtype, seed), input.shape)
    }
    const values = await this.#compute({ tensors: names }, given, {})
    const { tolerance: base, allowed } = allowance(card, tolerance)
    return new CheckReport(
      base,
      names.map((name) => ({ name, scaled: deviation(values.get(name)!, layers[name]), allowed: allowed(name) })),
    )
  }

  // --- Requests -----------------------------------------------------------------------------------

  #outputRequest(): [Request, (values: Map<string, Tensor>) => any] {
    const names = this.outputs.map(({ name }) => name)
    const collect = (values: Map<string, Tensor>): any =>
      names.length === 1 ? values.get(names[0]) : Object.fromEntries(names.map((name) => [name, values.get(name)]))
    return [{ tensors: names }, collect]
  }

  #request(asked: Layers | Reductions | undefined): [Request, (values: Map<string, Tensor>) => any] {
    const reductions = new Map<Layer, Reduction | null>()
    const isReductions = asked && Object.getPrototypeOf(asked) === Object.prototype && !("tensor" in (asked as object))
    if (isReductions) {
      for (const [selector, how] of Object.entries(asked as Reductions))
        for (const row of this.select(selector)) reductions.set(row, how)
      if (!reductions.size) throw new UsageError("the object of reductions is empty.")
    } else for (const row of this.select(asked as Layers)) reductions.set(row, null)
    const tensors: string[] = []
    const appended = new Map<string, Appended>()
    const results = new Map<string, readonly string[]>()
    for (const [row, how] of reductions) {
      const tensor = row.tensor!
      if (how === null || how === undefined) {
        tensors.push(tensor)
        results.set(row.name, [tensor])
      } else {
        const extra = reduced(this.#graph, row, how, this.#axes(tensor, row.shape.length))
        appended.set(extra.writes[0], extra)
        results.set(row.name, extra.writes)
      }
    }
    const collect = (values: Map<string, Tensor>): any => {
      const found = [...results].map(([name, names]) => {
        const [first, second] = names.map((one) => values.get(one)!)
        return [name, second ? { channels: second, values: first } : first] as const
      })
      return !isReductions && isSingle(this.layers, asked) ? found[0][1] : Object.fromEntries(found)
    }
    return [{ tensors, appended: [...appended.values()] }, collect]
  }

  #plan(request: Request, inputs: any): Plan {
    const seed = this.card?.gradients?.weights
    const plain = inputs && Object.getPrototypeOf(inputs) === Object.prototype
    const fed = this.#optional.filter((name) => name === seed || (plain && Object.hasOwn(inputs, name)))
    return planCut(this.#graph, { ...request, fed })
  }

  async #compute(request: Request, inputs: any, options: RunOptions): Promise<Map<string, Tensor>> {
    const plan = this.#plan(request, inputs)
    return this.#engine.run(plan, await this.#feeds(plan, inputs, options))
  }

  /** Values of the inputs that a plan needs. */
  async #feeds(plan: Plan, inputs: any, { preprocess }: RunOptions): Promise<Map<string, Tensor>> {
    const seed = this.card?.gradients?.weights
    const needed = plan.inputs.filter((name) => name !== seed)
    const values = byName(inputs, this.inputs, this.#optional, needed.length === 1 ? needed[0] : undefined)
    const missing = needed.find((name) => !values.has(name))
    if (missing !== undefined)
      throw new InputError(`input ${show(missing)} is missing: the request needs ${list(needed)}.`)
    const recipe = preprocess ? asRecipe(preprocess) : null
    const feeds = new Map<string, Tensor>()
    let batch: [string, number] | undefined
    for (const name of plan.inputs) {
      const info = this.inputs.find((one) => one.name === name) ?? this.#info(name)
      const value = values.get(name)
      if (value === undefined) {
        feeds.set(name, this.#seed(new Float32Array(this.#seedShape(name).at(-1)!).fill(1), 1))
        continue
      }
      const images = info.shape.length === 4 && !(value as any).dims?.length
      const own = recipe ?? (images || /^uint/.test((value as any).type) ? this.preprocessing : null)
      const tensor = await asTensor(this.#engine, this.#withAxes(info), value, own)
      feeds.set(name, tensor)
      if (!this.card || info.shape[0] !== null || !this.inputs.includes(info)) continue
      batch ??= [name, tensor.dims[0]]
      if (batch[1] !== tensor.dims[0])
        throw new InputError(
          `the inputs have different batch sizes: ${show(batch[0])} has ${batch[1]}, ${show(name)} has ${tensor.dims[0]}.`,
        )
    }
    return feeds
  }

  #info(name: string): TensorInfo {
    const { dtype, dims } = typeOf(this.#graph, name)
    return { name, dtype: dims ? dtype : "", shape: (dims ?? []).map((one) => (typeof one === "number" ? one : null)) }
  }

  #withAxes(info: TensorInfo): TensorInfo {
    return { ...info, axes: this.#axes(info.name, info.shape.length) }
  }

  /** A given activation, as a tensor of the layer's dtype. */
  async #given(row: Layer, value: any): Promise<Tensor> {
    return asTensor(this.#engine, { ...row, shape: row.shape }, value, null).catch((error) => {
      throw error instanceof InputError ? new InputError(error.message.replace("input", "layer")) : error
    })
  }

  #isOne(inputs: any): boolean {
    const plain = inputs && Object.getPrototypeOf(inputs) === Object.prototype && !isImage(inputs) && !("data" in inputs)
    const values = plain ? Object.values(inputs) : [inputs]
    return this.inputs.some(({ shape }) => shape.length === 4) && values.some(isImage)
  }

  // --- Scores and gradients -----------------------------------------------------------------------

  #output(): string {
    const name = this.card?.gradients?.output ?? this.outputs[0]?.name
    if (name === undefined) throw new UsageError("the model has no outputs, and so no scores of classes.")
    return name
  }

  #classes(output: string, width: number): Classes {
    return new Classes(width, this.labels, endsInActivation(this.#graph, output))
  }

  #gradients(): Gradients {
    const known = this.card?.gradients
    if (!known || !Object.keys(known.tensors).length)
      throw new ModelFileError("the file has no gradients. `layertap gradients FILE --layers LAYER -o NEW.onnx` writes a file with them.")
    if (!this.#graph.listed.has(known.weights))
      throw new ModelFileError(
        `the file cannot give the gradient of a class: ${show(known.weights)}, the weights of the classes, is no input of the graph. Another program may have made it a constant.`,
      )
    return known
  }

  #withGradient(known: Gradients, layers?: Layers): Map<string, string> {
    const names = Object.keys(known.tensors)
    if (layers === undefined || layers === "all") return new Map(Object.entries(known.tensors))
    const wanted = ([] as Selector[]).concat(layers as Selector[]).flatMap((one) => {
      if (typeof one === "string" && names.includes(one)) return [one]
      const found = select(this.layers, one).map((row) => row.name)
      const having = found.filter((name) => names.includes(name))
      return isSingle(this.layers, one) || !having.length ? found : having
    })
    return new Map(wanted.map((name) => [name, names.includes(name) ? known.tensors[name] : this.#noGradient(known, name)]))
  }

  #noGradient(known: Gradients, name: string): never {
    throw new LayerNotFoundError(
      `the file has no gradient for ${show(name)}, only for ${list(Object.keys(known.tensors))}. \`layertap gradients FILE --layers ${name} -o NEW.onnx\` writes a file with it.`,
    )
  }

  #seedShape(name: string): number[] {
    const dims = (this.#graph.weights.get(name) ?? typeOf(this.#graph, name)).dims ?? []
    const sizes = dims.map((one) => (typeof one === "number" ? one : 1))
    if (!sizes.length || size(sizes) > 2 ** 24)
      throw new ModelFileError(`the file is damaged: its weights of classes, ${show(name)}, have the shape (${dims.join(", ")}).`)
    return sizes
  }

  /** The input for the weights of the scores, `(rows, classes)`. */
  #seed(weights: Float32Array, rows: number): Tensor {
    const name = this.card!.gradients!.weights
    const shape = this.#seedShape(name)
    const { dtype } = this.#graph.weights.get(name) ?? typeOf(this.#graph, name)
    return this.#engine.tensor(dtype, cast(name, weights, dtype), [rows, ...shape.slice(1, -1).fill(1), shape.at(-1)!].slice(-Math.max(shape.length, 2)))
  }

  /** Gradients and other tensors for each target. */
  async #differentiate(
    known: Gradients,
    wanted: readonly string[],
    also: readonly string[],
    inputs: any,
    targets: readonly Target[],
    options: RunOptions,
  ): Promise<{ runs: Map<string, Tensor>[]; found: Found[]; feeds: Map<string, Tensor> }> {
    if (!targets.length) throw new UsageError("the list of targets is empty. Give labels or indices of classes, or 'top'.")
    const plan = this.#plan({ tensors: [...new Set([...wanted, ...also])] }, inputs)
    const whole = this.#plan({ tensors: [known.output] }, inputs)
    const union: Plan = { ...plan, inputs: [...new Set([...plan.inputs, ...whole.inputs])] }
    const feeds = await this.#feeds(union, inputs, options)
    const classes = this.#classes(known.output, this.#seedShape(known.weights).at(-1)!)
    const first = union.inputs.find((name) => name !== known.weights)
    if (first === undefined) throw new ModelFileError("the file is damaged: its gradients depend on no input.")
    const samples = feeds.get(first)!.dims[Math.max(this.#axes(first, feeds.get(first)!.dims.length).indexOf("N"), 0)]
    let scores: Float64Array[] | undefined
    if (targets.some((one) => classes.isTop(one)))
      scores = byClass((await this.#engine.run(whole, feeds)).get(known.output)!)
    const found = targets.map((one) => classes.find(one, samples, scores))
    const runs: Map<string, Tensor>[] = []
    for (const { weights } of found) {
      const fed = new Map(feeds).set(known.weights, this.#seed(weights, samples))
      runs.push(await this.#engine.run(plan, fed))
    }
    return { runs, found, feeds }
  }

  /** Tensors `(n, ...)` of several targets as one, `(n, targets, ...)`. */
  #stacked(parts: readonly Tensor[]): Tensor {
    const [{ type, dims, data }] = parts
    const each = size(dims.slice(1))
    const out = zeros(type, data.length * parts.length)
    parts.forEach((part, t) => {
      for (let i = 0; i < dims[0]; i++) out.set(part.data.subarray(i * each, (i + 1) * each), (i * parts.length + t) * each)
    })
    return this.#engine.tensor(type, out, [dims[0], parts.length, ...dims.slice(1)])
  }

  #camLayer(layer: Selector | undefined, method: Method): Layer {
    const known = method.takesGradients ? this.#gradients() : this.card?.gradients
    const having = (row: Layer): boolean => !!known && Object.hasOwn(known.tensors, row.name)
    const rows = this.layers.filter((row) => row.tensor !== null && !this.#graph.listed.has(row.tensor))
    const hasMaps = ({ tensor, shape }: Layer): boolean => shape.length > 2 && this.#axes(tensor!, shape.length).includes("C")
    if (layer === "last-conv" && this.layers.every(({ name }) => name !== layer)) {
      const maps = rows.filter(hasMaps)
      const last = maps.filter((row) => !method.takesGradients || having(row)).at(-1)
      if (!last && maps.length) this.#noGradient(known!, maps.at(-1)!.name)
      if (!last) throw new LayerNotFoundError("the file has no layer with feature maps, so no 'last-conv'.")
      return last
    }
    if (layer !== undefined) {
      const row = only(this.layers, layer)
      return method.takesGradients && !having(row) ? this.#noGradient(known!, row.name) : row
    }
    const last = rows.filter(having).at(-1)
    if (last) return last
    const maps = rows.filter(hasMaps).at(-1)
    throw new UsageError(
      `give a layer: the file has no gradients to choose one by.${maps ? ` The last one with feature maps is ${show(maps.name)}.` : ""}`,
    )
  }

  /** The size of the image that maps with `rank` axes cover; one map covers all frames of a video. */
  #imageSize(feeds: ReadonlyMap<string, Tensor>, rank: number): number[] {
    const sizes = [...feeds].map(([name, { dims }]) => {
      const axes = this.#axes(name, dims.length)
      return dims.filter((_, axis) => !"NC".includes(axes[axis]))
    })
    const found = sizes.find((one) => one.length === rank) ?? sizes.find((one) => one.length === rank + 1 && rank > 1)?.slice(1)
    if (found) return found
    throw new UsageError(`the layer gives maps with ${rank} axes, but no input has that many between batch and channels. Give resize: false.`)
  }
}

