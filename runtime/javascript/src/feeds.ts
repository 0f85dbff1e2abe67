/** From what a caller passes in to tensors for onnxruntime. */

import type { TensorInfo } from "./card.js"
import { InputError, list, show, suggest } from "./errors.js"
import type { Engine } from "./engine.js"
import { type ImageSource, isImage } from "./images/decode.js"
import { CHANNELS, type Recipe, prepare } from "./images/recipe.js"
import { type Tensor, cast, isFloat, numbers, size } from "./tensors.js"

/**
 * A value for an input: a tensor (of onnxruntime, or `{data, dims}`); an array of numbers for the
 * whole batch; or for an input of images an image, or several. A batch of integers is pixels, which
 * are prepared; one of floating-point numbers is ready.
 */
export type Value = Tensor | { data: any; dims: readonly number[] } | ArrayLike<unknown> | ImageSource | readonly ImageSource[]

/** A value for the only input; values in the order of the inputs, or by name. */
export type Inputs = Value | readonly Value[] | { readonly [name: string]: Value }

/** Values by name of the input; `needed` says what a value without a name is for. */
export function byName(given: any, inputs: readonly TensorInfo[], optional: readonly string[], needed?: string): Map<string, any> {
  const names = inputs.map((info) => info.name)
  if (Array.isArray(given) && names.length > 1 && given.length === names.length)
    return new Map(names.map((name, i) => [name, given[i]]))
  const isPlain = given && Object.getPrototypeOf(given) === Object.prototype && !("dims" in given) && !isImage(given)
  if (isPlain && !("data" in given && !names.includes("data"))) {
    const known = [...names, ...optional]
    for (const name of Object.keys(given))
      if (!known.includes(name))
        throw new InputError(`the model has no input ${show(name)}; it has ${list(names)}.${suggest(name, known)}`)
    return new Map(Object.entries(given))
  }
  if (given === undefined || given === null) return new Map()
  const only = names.length === 1 ? names[0] : needed
  if (only === undefined)
    throw new InputError(`the model has ${names.length} inputs (${list(names)}). Give an object by input name.`)
  return new Map([[only, given]])
}

/** One value as a tensor for an input. */
export async function asTensor(engine: Engine, info: TensorInfo, value: any, recipe: Recipe | null): Promise<Tensor> {
  const { name, shape, dtype } = info
  const label = `input ${show(name)}`
  const pixels = await asImages(label, info, value, recipe)
  if (pixels) return checked(label, engine.tensor(dtype, cast(label, pixels.data, dtype), pixels.dims), info)
  if (value?.dims && value.type === dtype) return checked(label, value, info)
  const [data, dims] = value?.dims ? [value.data, value.dims] : [value, undefined]
  if (dtype === "" || ["sequence", "map", "optional"].includes(dtype)) {
    if (value?.dims && value.type) return value
    throw new InputError(`${label}: the file does not state its dtype and shape. Give a tensor of onnxruntime.`)
  }
  if (data?.length === undefined || typeof data === "string")
    throw new InputError(`${label} must be a tensor or an array of numbers, got ${show(value)}.`)
  const numeric = value?.type === "float16" ? numbers(value) : data
  return checked(label, engine.tensor(dtype, cast(label, numeric, dtype), dims ?? inferred(label, data.length, shape)), info)
}

/** The shape of an array of numbers: the one free size follows from their count. */
function inferred(label: string, count: number, shape: TensorInfo["shape"]): number[] {
  const free = shape.filter((one) => one === null).length
  const rest = size(shape.map((one) => one ?? 1))
  if (free > 1)
    throw new InputError(`${label} has the shape ${shown(shape)}: give a tensor, {data, dims}, that states its sizes.`)
  if (free ? count % rest : count !== rest)
    throw new InputError(`${label} has ${count} values, which do not fit the shape ${shown(shape)}.`)
  return shape.map((one) => one ?? count / rest)
}

/** Images as a batch, by the recipe; `undefined` for a value that is ready. */
async function asImages(
  label: string,
  info: TensorInfo,
  value: any,
  recipe: Recipe | null,
): Promise<{ data: Float32Array; dims: number[] } | undefined> {
  if (info.shape.length !== 4 || info.dtype === "string") return undefined
  let images = Array.isArray(value) ? value : [value]
  const isBatch = value?.dims?.length === 4 && ["uint8", "uint16"].includes(value.type) && isFloat(info.dtype) && recipe
  if (isBatch) {
    const [n, height, width, channels] = value.dims
    const each = height * width * channels
    images = Array.from({ length: n }, (_, i) => ({ data: value.data.subarray(i * each, (i + 1) * each), width, height }))
  } else if (!images.length || !images.every(isImage)) return undefined
  if (!recipe)
    throw new InputError(
      `${label}: got an image, but the model's file has no preprocessing. Give a recipe, as in preprocess: {size: [320, 320]}, or a batch of shape ${shown(info.shape)}.`,
    )
  const first = (recipe.channels ?? (info.axes === "NCHW" ? "first" : "last")) === "first"
  const count = CHANNELS[recipe.color_mode ?? "rgb"]
  if (recipe.size) checkShape(label, [images.length, ...ordered(first, [...recipe.size, count])], info)
  const prepared = []
  for (const image of images) prepared.push(await prepare(recipe, image))
  const [{ width, height, channels }] = prepared
  const each = width * height * channels
  const data = new Float32Array(prepared.length * each)
  prepared.forEach((one, i) => {
    if (one.width !== width || one.height !== height)
      throw new InputError(
        `images of different sizes cannot form one batch: image 0 has ${height} x ${width} pixels, image ${i} has ${one.height} x ${one.width}. Set a "size" in the preprocessing.`,
      )
    if (!first) data.set(one.data, i * each)
    else for (let at = 0; at < each; at++) data[i * each + (at % channels) * width * height + Math.floor(at / channels)] = one.data[at]
  })
  return { data, dims: [prepared.length, ...ordered(first, [height, width, channels])] }
}

const ordered = (first: boolean, [height, width, channels]: number[]): number[] =>
  first ? [channels, height, width] : [height, width, channels]

export const shown = (shape: readonly (number | null)[]): string =>
  `(${shape.map((one, axis) => one ?? (axis ? "any" : "n")).join(", ")})`

function checked(label: string, tensor: Tensor, info: TensorInfo): Tensor {
  if (info.dtype) checkShape(label, tensor.dims, info)
  return tensor
}

export function checkShape(label: string, dims: readonly number[], { shape }: Pick<TensorInfo, "shape">): void {
  const fits = (given: readonly number[]): boolean =>
    given.length === shape.length && given.every((one, axis) => shape[axis] === null || shape[axis] === one)
  if (dims.some((one) => one === 0)) throw new InputError(`${label} has the shape ${shown(dims)}, without a sample.`)
  if (fits(dims)) return
  const [n, a, b, c] = dims
  const last = dims.length === 4 && fits([n, b, c, a]) ? " Its channels come first." : ""
  const swapped = dims.length === 4 && fits([n, b, a, c]) ? " Height and width are swapped." : ""
  const alone = fits([1, ...dims]) ? " Add the batch axis." : ""
  throw new InputError(`${label} has the shape ${shown(dims)}, expected ${shown(shape)}.${last || swapped || alone}`)
}
