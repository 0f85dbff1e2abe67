/** Programs: what a file contains, and how requests for it are planned and run. `Model` is their documented face. */

import { type Axes, axesOf } from "./axes.js"
import type { Card, Layer, TensorInfo } from "./card.js"
import { type Appended, type Plan, type Request, optional, planCut } from "./cut.js"
import type { Engine } from "./engine.js"
import { InputError, ModelFileError, UsageError, list, show } from "./errors.js"
import { asTensor, byName, isNamed } from "./feeds.js"
import { type Graph, typeOf } from "./graph.js"
import type { Recipe } from "./images/recipe.js"
import type { Index } from "./layers.js"
import type { Finished } from "./pictures.js"
import { type Selector, isSingle, select } from "./select.js"
import { type Tensor, cast, size } from "./tensors.js"

export interface RunOptions {
  /** A recipe for images instead of the card's. */
  readonly preprocess?: Recipe
}

/**
 * `mean`, `max`: over all axes except batch and channels; `mean_l2`: the mean, divided by its
 * Euclidean norm; `flatten`: all axes except the batch in one; `top5`, or any other number: the
 * channels with the largest means.
 */
export type Reduction = "mean" | "max" | "mean_l2" | "flatten" | `top${number}`

/** What a caller may ask for: layers, or an object from selectors to reductions. */
export type Asked = Selector | readonly Selector[] | { readonly [selector: string]: Reduction | null }

/** The result of a request, from the values of its tensors. */
export type Collect = (values: Map<string, Tensor>) => any

export class Program {
  readonly graph: Graph
  readonly card: Card | null
  readonly layers: readonly Layer[]
  readonly inputs: readonly TensorInfo[]
  readonly outputs: readonly TensorInfo[]
  /** The inputs that have a value in the file. */
  readonly optional: readonly string[]
  /** The input for the weights of the scores, which gradients are taken of; ones if it is not fed. */
  readonly seed: string | undefined
  #axes: Promise<Axes> | undefined

  constructor(
    readonly engine: Engine,
    index: Index,
  ) {
    this.graph = index.graph
    this.card = index.card
    this.layers = index.layers
    this.inputs = index.inputs
    this.outputs = index.outputs
    this.optional = optional(this.graph)
    this.seed = this.card?.gradients?.weights
  }

  /** What the axes of tensors mean. */
  axes(): Promise<Axes> {
    return (this.#axes ??= axesOf(this.graph, this.card, this.layers))
  }

  /** A request for the model's own outputs. */
  requestOutputs(): [Request, Collect] {
    const names = this.outputs.map(({ name }) => name)
    const collect: Collect = (values) =>
      names.length === 1 ? values.get(names[0]) : Object.fromEntries(names.map((name) => [name, values.get(name)]))
    return [{ tensors: names, fused: true }, collect]
  }

  /** A request for layers, or for reductions of them. */
  async request(asked?: Asked): Promise<[Request, Collect]> {
    const rows = new Map<Layer, Reduction | null>()
    const named = isNamed(asked) && !("tensor" in (asked as object))
    if (named) {
      for (const [selector, how] of Object.entries(asked as object))
        for (const row of select(this.layers, selector)) rows.set(row, how)
      if (!rows.size) throw new UsageError("the object of reductions is empty.")
    } else for (const row of select(this.layers, asked as Selector)) rows.set(row, null)
    const tensors: string[] = []
    const appended = new Map<string, Appended>() // two layers may be the same tensor
    const results: [string, readonly string[]][] = []
    for (const [row, how] of rows) {
      const tensor = row.tensor!
      if (how == null) {
        tensors.push(tensor)
        results.push([row.name, [tensor]])
        continue
      }
      const { reduced } = await import("./reductions.js")
      const extra = reduced(this.graph, row, how, (await this.axes())(tensor, row.shape.length))
      appended.set(extra.writes[0], extra)
      results.push([row.name, extra.writes])
    }
    const single = !named && isSingle(this.layers, asked)
    const collect: Collect = (values) => {
      const found = results.map(([name, [first, second]]) => {
        const value = values.get(first)!
        return [name, second ? { channels: values.get(second)!, values: value } : value] as const
      })
      return single ? found[0][1] : Object.fromEntries(found)
    }
    return [{ tensors, appended: [...appended.values()] }, collect]
  }

  plan(request: Request, inputs: any): Plan {
    const fed = this.optional.filter((name) => name === this.seed || (isNamed(inputs) && Object.hasOwn(inputs, name)))
    return planCut(this.graph, { ...request, fed })
  }

  async compute(request: Request, inputs: any, options: RunOptions): Promise<Map<string, Tensor>> {
    const plan = this.plan(request, inputs)
    return this.engine.run(plan, await this.feeds(plan.inputs, inputs, options))
  }

  /** Values of the inputs with these names. */
  async feeds(names: readonly string[], inputs: any, options: RunOptions): Promise<Map<string, Tensor>> {
    const needed = names.filter((name) => name !== this.seed)
    const finished = this.card?.finished as Finished | undefined
    if (finished) {
      const { withPictures } = await import("./pictures.js")
      inputs = await withPictures(finished, inputs, this.inputs, needed, options.preprocess)
    }
    const values = byName(inputs, this.inputs, this.optional, needed.length === 1 ? needed[0] : undefined)
    const missing = needed.find((name) => !values.has(name))
    if (missing !== undefined)
      throw new InputError(`input ${show(missing)} is missing: the request needs ${list(needed)}.`)
    const feeds = new Map<string, Tensor>()
    const sizes = new Map<string, number>()
    for (const name of names) {
      if (!values.has(name)) {
        feeds.set(name, this.seeds(new Float32Array(this.seedShape().at(-1)!).fill(1), 1))
        continue
      }
      const tensor = await this.tensor(name, values.get(name), options)
      feeds.set(name, tensor)
      if (this.card && !finished && this.inputs.find((one) => one.name === name)?.shape[0] === null) sizes.set(name, tensor.dims[0])
    }
    if (new Set(sizes.values()).size > 1)
      throw new InputError(
        `the inputs have different batch sizes: ${[...sizes].map(([name, count]) => `${show(name)} has ${count}`).join(", ")}.`,
      )
    return feeds
  }

  /** A value for an input, as a tensor. */
  tensor(name: string, value: any, { preprocess }: RunOptions): Promise<Tensor> {
    let info = this.inputs.find((one) => one.name === name)
    if (!info) {
      const { dtype, dims } = typeOf(this.graph, name)
      info = { name, dtype: dims ? dtype : "", shape: (dims ?? []).map((one) => (typeof one === "number" ? one : null)) }
    }
    const recipe = async (): Promise<[Recipe | null, string]> => [
      preprocess ?? (this.card?.preprocessing as Recipe) ?? null,
      (await this.axes())(name, 4),
    ]
    return asTensor(this.engine, `input ${show(name)}`, info, value, recipe)
  }

  /** The shape of the input for the weights of the scores; 1 for a free size. */
  seedShape(): number[] {
    const name = this.seed!
    const dims = (this.graph.weights.get(name) ?? typeOf(this.graph, name)).dims ?? []
    const sizes = dims.map((one) => (typeof one === "number" ? one : 1))
    if (!sizes.length || size(sizes) > 2 ** 24)
      throw new ModelFileError(`the weights of classes, ${show(name)}, have the invalid shape (${dims.join(", ")}).`)
    return sizes
  }

  /** Weights of the scores, `(rows, classes)`, in the shape and dtype of their input. */
  seeds(weights: Float32Array, rows: number): Tensor {
    const name = this.seed!
    const shape = this.seedShape().map((one, axis, all) => (axis === all.length - 1 ? one : axis ? 1 : rows))
    const { dtype } = this.graph.weights.get(name) ?? typeOf(this.graph, name)
    return this.engine.tensor(dtype, cast(name, weights, dtype), shape)
  }
}
