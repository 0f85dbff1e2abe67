/**
 * The card: what a file says about itself, as JSON in `metadata_props["layertap"]`.
 *
 * docs/file-format.md describes its keys. Unknown keys are ignored; a card of a newer major version
 * is refused. Values are checked here; those of the golden sample, the recipe and the tokens before they
 * are used.
 */

import { CardVersionError, ModelFileError, show } from "./errors.js"

/** The shape of a tensor in Keras's order of axes, batch first; `null` is a free size. */
export type Shape = readonly (number | null)[]

export interface TensorInfo {
  readonly name: string
  readonly shape: Shape
  readonly dtype: string
  /** What each axis means, one letter for each: `NHWC`. */
  readonly axes?: string | null
}

/** One row of the table of layers. */
export interface Layer extends TensorInfo {
  /** The Keras class; in a file without a card, the ONNX operator. */
  readonly type: string
  readonly index: number
  readonly parameters: number
  readonly inbound: readonly string[]
  /** The graph's tensor with the activations; `null` if the file does not contain them. */
  readonly tensor: string | null
  readonly parent?: string | null
  readonly why_not?: string | null
  readonly per_sample?: boolean | null
  /** What attention scores belong to; missing for any other layer. */
  readonly attention?: (Partial<Tokens> & { readonly of: string; readonly heads: number }) | null
  /** Which tokens of a sequence are patches of an image, if the file states it. */
  readonly tokens?: Tokens | null
}

/** Tokens of which some are the patches of an image, row by row. */
export interface Tokens {
  /** Rows and columns of patches. */
  readonly grid: readonly [number, number]
  /** How many tokens come before the patches. */
  readonly first?: number
}

export interface GoldenInput {
  readonly name: string
  readonly shape: readonly number[]
  readonly low: number
  readonly high: number
  readonly choices?: readonly (string | number)[] | null
  readonly step?: number | null
}

export interface GoldenLayer {
  readonly shape: readonly number[]
  readonly norm: number
  readonly scale: number
  readonly values: readonly number[]
  readonly sums?: readonly number[] | null
}

export interface Gradients {
  readonly output: string
  readonly score: string
  readonly weights: string
  readonly tensors: Readonly<Record<string, string>>
  readonly broadcasts: boolean
  readonly class_input?: string | null
  /** The layer that is differentiated, or the model's output if it is one channel of that. */
  readonly of?: string | null
  /** The only channel of `of` that is differentiated. */
  readonly channel?: number | null
}

export interface Card {
  readonly format: string
  readonly source: { readonly framework: string; readonly version: string; readonly model: string; readonly type: string }
  readonly inputs: readonly TensorInfo[]
  readonly outputs: readonly TensorInfo[]
  readonly layers: readonly Layer[]
  readonly preprocessing?: Readonly<Record<string, unknown>> | null
  readonly labels?: readonly string[] | null
  readonly verification?: {
    readonly tolerance: number
    readonly layers: Readonly<Record<string, { max_abs: number; scaled: number; reference?: number | null }>>
  } | null
  readonly golden?: {
    readonly seed: number
    readonly inputs: readonly GoldenInput[]
    readonly layers: Readonly<Record<string, GoldenLayer>>
  } | null
  readonly gradients?: Gradients | null
  readonly quantized?: { readonly to: string; readonly golden: Readonly<Record<string, number>> } | null
  readonly notes?: readonly string[] | null
  /** Keys that this version does not know. */
  readonly [key: string]: unknown
}

const MAJOR = 1

export type Test = (value: any) => boolean
export const isText: Test = (value) => typeof value === "string"
const isFlag: Test = (value) => typeof value === "boolean"
export const isCount: Test = (value) => Number.isInteger(value) && value >= 0
export const isNumber: Test = Number.isFinite
const isObject: Test = (value) => !!value && typeof value === "object" && !Array.isArray(value)
const isShape: Test = (value) => listOf(orNull(isCount))(value) && value.length < 256
const isAxes: Test = (value) => isText(value) && /^[NCDHWT?]*$/.test(value) && !/([A-Z]).*\1/.test(value)
export const orNull = (test: Test): Test => (value) => value == null || test(value)
export const listOf = (test: Test): Test => (value) => Array.isArray(value) && value.every(test)
export const mapOf = (test: Test): Test => (value) => isObject(value) && Object.values(value).every(test)
export const checks = (keys: Record<string, Test>): Test => (value) => {
  if (!isObject(value)) return false
  for (const [key, test] of Object.entries(keys))
    if (!test(Object.hasOwn(value, key) ? value[key] : undefined))
      throw new TypeError(`${show(value[key])} is not valid as ${show(key)}`)
  // Without a dtype, the file does not state how many axes there are.
  return !value.axes || !value.dtype || value.axes.length === value.shape.length
}

const INFO = { name: isText, shape: isShape, dtype: isText, axes: orNull(isAxes) }
const isCard = checks({
  source: checks({ framework: isText, version: isText, model: isText, type: isText }),
  inputs: listOf(checks(INFO)),
  outputs: listOf(checks(INFO)),
  layers: listOf(
    checks({
      ...INFO,
      type: isText,
      index: isCount,
      parameters: isCount,
      inbound: listOf(isText),
      tensor: orNull(isText),
      parent: orNull(isText),
      why_not: orNull(isText),
      per_sample: orNull(isFlag),
    }),
  ),
  preprocessing: orNull(isObject),
  labels: orNull(listOf(isText)),
  gradients: orNull(
    checks({ output: isText, score: isText, weights: isText, tensors: mapOf(isText), broadcasts: isFlag }),
  ),
  notes: orNull(listOf(isText)),
})

/** Check data of a card; throws a `ModelFileError` if it is not valid. */
export function readChecked(test: Test, data: unknown): any {
  try {
    if (test(data)) return data
    throw new TypeError("it is not valid")
  } catch (error) {
    throw new ModelFileError(
      `the file has a damaged layertap card (${(error as Error).message}). Export the model again.`,
      { cause: error },
    )
  }
}

/** Read a card; throws a `CardVersionError` for a newer major version, a `ModelFileError` for a damaged one. */
export function readCard(text: string): Card {
  let card: any
  let newer = false
  readChecked(() => {
    card = JSON.parse(text)
    const major = /^(\d+)(\.|$)/.exec(isObject(card) ? card.format : "")
    if (!major) throw new TypeError("it does not state a format version")
    newer = Number(major[1]) > MAJOR
    if (/\\ud/i.test(text) && /(?<!\\)(\\\\)*\\ud[89a-f]/.test(JSON.stringify(card))) throw new TypeError("it contains half of a character")
    return newer || isCard(card)
  }, card)
  if (newer)
    throw new CardVersionError(
      `the file has a layertap card of format ${card.format}; this layertap reads format ${MAJOR}. Upgrade layertap.`,
    )
  return card
}
