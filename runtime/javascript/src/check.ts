/** Checking a file on this machine against the golden sample that it contains. */

import { type Test, checks, isCount, isNumber, isText, listOf, mapOf, orNull, readChecked } from "./card.js"
import { missingTensor } from "./cut.js"
import { ModelFileError, UsageError, show } from "./errors.js"
import { deviation, goldenData } from "./golden.js"
import type { Program } from "./program.js"
import type { Tensor } from "./tensors.js"

export interface LayerDeviation {
  /** The graph's tensor. */
  readonly name: string
  /** How far it is from Keras's result at the export, as a part of the layer's scale. */
  readonly scaled: number
  /** The largest deviation that passes. */
  readonly allowed: number
}

export class CheckReport {
  constructor(
    readonly tolerance: number,
    /** In the order in which the layers run; gradients come last. */
    readonly layers: readonly LayerDeviation[],
  ) {}

  get failed(): LayerDeviation[] {
    return this.layers.filter(({ scaled, allowed }) => !(scaled <= allowed))
  }

  /** Whether every layer passed. */
  get passed(): boolean {
    return !this.failed.length
  }

  toString(): string {
    const [first] = this.failed
    const count = this.layers.length
    if (first)
      return `${this.failed.length} of ${count} tensors differ from the golden sample. The first to diverge is '${first.name}', by ${first.scaled.toExponential(1)} of its scale; allowed are ${first.allowed.toExponential(0)}.`
    const worst = this.layers.reduce((a, b) => (b.scaled > a.scaled ? b : a))
    return `${count} tensors agree with the golden sample: largest scaled error ${worst.scaled.toExponential(1)} in '${worst.name}', allowed ${worst.allowed.toExponential(0)}.`
  }
}

const TOLERANCE = 1e-4
/** Where Keras itself could not hold the tolerance, four times as much as it was off is allowed in addition. */
const UNSTEADY = 4
/** How many times the deviation is allowed in addition that was measured when the file was quantised. */
const QUANTIZED = 1.5

const isSizes: Test = (value) => listOf(isCount)(value) && value.length < 256
const isGolden = checks({
  verification: orNull(checks({ tolerance: isNumber, layers: mapOf(checks({ reference: orNull(isNumber) })) })),
  quantized: orNull(checks({ golden: mapOf(isNumber) })),
  golden: checks({
    // JavaScript's numbers are exact up to there.
    seed: (value) => isCount(value) && Number.isSafeInteger(value),
    inputs: listOf(
      checks({
        name: isText,
        shape: isSizes,
        low: isNumber,
        high: isNumber,
        choices: orNull(listOf((one) => isText(one) || isNumber(one))),
        step: orNull(isNumber),
      }),
    ),
    layers: mapOf(
      checks({
        shape: isSizes,
        norm: isNumber,
        scale: isNumber,
        values: listOf(isNumber),
        sums: orNull(listOf(isNumber)),
      }),
    ),
  }),
})

/** See `Model.check`. */
export async function check(program: Program, tolerance?: number): Promise<CheckReport> {
  if (tolerance !== undefined && !(typeof tolerance === "number" && tolerance >= 0))
    throw new UsageError(`tolerance must be a number of at least 0, got ${show(tolerance)}.`)
  const { golden, verification, quantized } = program.card ?? {}
  if (!golden) throw new ModelFileError("the file has no golden sample to check against; files that layertap exports do.")
  readChecked(isGolden, program.card)
  const layers = new Map(Object.entries(golden.layers))
  const given: Record<string, Tensor> = {}
  for (const input of golden.inputs) {
    const dtype = program.inputs.find(({ name }) => name === input.name)?.dtype
    if (dtype === undefined) throw missingTensor(input.name)
    given[input.name] = program.engine.tensor(dtype, goldenData(input, dtype, golden.seed), input.shape)
  }
  const order = new Map(program.layers.map((row) => [row.tensor, row.index]))
  const place = (name: string): number => order.get(name) ?? program.layers.length
  const tensors = [...layers.keys()].sort((a, b) => place(a) - place(b))
  const values = await program.compute({ tensors }, given, {})
  const base = tolerance ?? verification?.tolerance ?? TOLERANCE
  const own = new Map(Object.entries(tolerance === undefined ? (verification?.layers ?? {}) : {}))
  const rounded = new Map(Object.entries(tolerance === undefined ? (quantized?.golden ?? {}) : {}))
  return new CheckReport(
    base,
    tensors.map((name) => ({
      name,
      scaled: deviation(values.get(name)!, layers.get(name)!),
      allowed: base + UNSTEADY * (own.get(name)?.reference ?? 0) + QUANTIZED * (rounded.get(name) ?? 0),
    })),
  )
}
