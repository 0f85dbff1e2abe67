/** Scores of the classes, and the class, or weighted sum of classes, that is explained. */

import { UsageError, list, show, suggest } from "./errors.js"
import type { Graph } from "./graph.js"
import { type Tensor, numbers, size } from "./tensors.js"

/**
 * A label, the index of a class (negative ones count from the end), `"top"` (each image's class with
 * the highest score), or one weight for each class; or a list of these for several maps.
 */
export type Target = string | number | Float32Array | Float64Array

/** A target of each image of a batch. */
export interface Found {
  /** The weights of the scores, `(n, classes)`. */
  readonly weights: Float32Array
  /** The class of each image; `undefined` if weights were given. */
  readonly classes?: number[]
  /** Added to the weighted score: 1 for the probability of the negative of two classes. */
  readonly offsets: number[]
}

/** The scores of the classes, one array for each image; their mean if there are several positions. */
export function byClass(outputs: Tensor): Float64Array[] {
  const { dims } = outputs
  if (dims.length < 2)
    throw new UsageError(`the scores must have at least two axes, (n, classes), got the shape (${dims.join(", ")}).`)
  const [samples, classes] = [dims[0], dims.at(-1)!]
  const positions = size(dims.slice(1, -1))
  const data = numbers(outputs)
  return Array.from({ length: samples }, (_, i) => {
    const mean = new Float64Array(classes)
    for (let at = 0; at < positions * classes; at++) mean[at % classes] += data[i * positions * classes + at] / positions
    return mean
  })
}

/** Whether the values of an output are probabilities: it ends in a sigmoid or softmax. */
export function endsInActivation(graph: Graph, output: string): boolean {
  const seen = new Set<number>()
  for (let name = output; ; ) {
    const at = graph.makers.get(name) ?? -1
    const node = graph.nodes[at]
    if (!node || node.domain || graph.functions.has(`:${node.type}`) || !node.reads.length || seen.has(at)) return false
    if (["Sigmoid", "Softmax", "LogSoftmax"].includes(node.type)) return true
    if (!["Identity", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast"].includes(node.type)) return false
    seen.add(at)
    name = node.reads[0]
  }
}

/** Finds targets among the classes of a model. */
export class Classes {
  readonly #binary: boolean
  readonly #labels: readonly string[]
  readonly count: number

  constructor(
    readonly width: number,
    labels: readonly string[] | null | undefined,
    readonly probability: boolean,
  ) {
    this.#binary = width === 1 && labels?.length === 2 // [negative, positive]
    this.count = this.#binary ? 2 : width
    this.#labels = labels?.length === this.count ? labels : []
  }

  label(index: number): string | undefined {
    return this.#labels[index]
  }

  /** Whether the scores must be known before the target is. */
  isTop(target: Target): boolean {
    return target === "top" && !this.#labels.includes(target)
  }

  /** The scores of all classes: of a model with one score for two classes, also of the negative. */
  all(scores: Float64Array): number[] {
    return this.#binary ? [this.probability ? 1 - scores[0] : -scores[0], scores[0]] : [...scores]
  }

  find(target: Target, samples: number, scores?: readonly Float64Array[]): Found {
    if (ArrayBuffer.isView(target)) {
      if (target.length !== this.width && target.length !== samples * this.width)
        throw new UsageError(`weights of the classes must be ${this.width} numbers, or as many for each image, got ${target.length}.`)
      const weights = Float32Array.from({ length: samples * this.width }, (_, i) => target[i % target.length])
      return { weights, offsets: Array(samples).fill(0) }
    }
    const classes = this.isTop(target)
      ? scores!.map((row) => (this.#binary ? Number(row[0] > (this.probability ? 0.5 : 0)) : row.indexOf(Math.max(...row))))
      : Array(samples).fill(this.#index(target))
    const weights = new Float32Array(samples * this.width)
    classes.forEach((index, i) => {
      if (this.#binary) weights[i] = index ? 1 : -1
      else weights[i * this.width + index] = 1
    })
    return { weights, classes, offsets: classes.map((index) => Number(this.#binary && !index && this.probability)) }
  }

  #index(target: Target): number {
    const range = `0 to ${this.count - 1}`
    if (typeof target === "string") {
      const at = this.#labels.indexOf(target)
      if (at >= 0) return at
      if (!this.#labels.length)
        throw new UsageError(`unknown class ${show(target)}: the file has no labels. Give an index, ${range}, or 'top'.`)
      throw new UsageError(
        `no class is called ${show(target)}; there are ${list(this.#labels, 3)}.${suggest(target, this.#labels)}`,
      )
    }
    if (!Number.isInteger(target))
      throw new UsageError(`${show(target)} is not a valid target. Give a label or an index, 'top', or an array of weights.`)
    const index = target as number
    if (index < -this.count || index >= this.count)
      throw new UsageError(`class ${index} is out of range: the output has ${this.count}, ${range}.`)
    return (index + this.count) % this.count
  }
}
