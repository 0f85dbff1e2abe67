/** From what a caller passes in to tensors for onnxruntime. */

import type { TensorInfo } from "./card.js"
import type { Engine } from "./engine.js"
import { InputError, list, show, suggest } from "./errors.js"
import { type ImageSource, isImage } from "./images/kinds.js"
import type { Recipe } from "./images/recipe.js"
import { checkShape, shown } from "./shapes.js"
import { type Tensor, cast, isFloat, size } from "./tensors.js"

/**
 * A value for an input: a tensor (of onnxruntime, or `{data, dims}`); an array of numbers for the
 * whole batch; or for an input of images an image, or several. A batch of integers is pixels, which
 * are prepared; one of floating-point numbers is ready.
 */
export type Value = Tensor | { data: any; dims: readonly number[] } | ArrayLike<unknown> | ImageSource | readonly ImageSource[]

/** A value for the only input; values in the order of the inputs, or by name. */
export type Inputs = Value | readonly Value[] | { readonly [name: string]: Value }

/** Whether a value is an object with values by name. */
export const isNamed = (value: any): boolean =>
  !!value && Object.getPrototypeOf(value) === Object.prototype && !value.dims && !isImage(value)

/** Values by name of the input; `needed` says what a value without a name is for. */
export function byName(given: any, inputs: readonly TensorInfo[], optional: readonly string[], needed?: string): Map<string, any> {
  const names = inputs.map((info) => info.name)
  if (given == null) return new Map()
  if (Array.isArray(given) && names.length > 1 && given.length === names.length)
    return new Map(names.map((name, i) => [name, given[i]]))
  if (isNamed(given)) {
    const known = [...names, ...optional]
    for (const name of Object.keys(given))
      if (!known.includes(name))
        throw new InputError(`the model has no input ${show(name)}; it has ${list(names)}.${suggest(name, known)}`)
    return new Map(Object.entries(given))
  }
  const only = names.length === 1 ? names[0] : needed
  if (only === undefined)
    throw new InputError(`the model has ${names.length} inputs (${list(names)}). Give an object by input name.`)
  return new Map([[only, given]])
}

/** One value as a tensor; `recipe` gives how images are prepared, and the axes of the input. */
export async function asTensor(
  engine: Engine,
  label: string,
  info: TensorInfo,
  value: any,
  recipe?: () => Promise<[recipe: Recipe | null, axes: string]>,
): Promise<Tensor> {
  const { shape } = info
  const dtype = info.dtype || value?.type // without a dtype, the file does not state how many axes there are
  const images = imagesOf(value, info)
  if (images && recipe) {
    const [known, axes] = await recipe()
    if (known) value = await (await import("./images/batch.js")).batch(label, { ...info, axes }, images, known)
    else if (!images.dims)
      throw new InputError(
        `${label}: got an image, but the file has no preprocessing. Give preprocess: {size: [320, 320]}, or a batch of shape ${shown(shape)}.`,
      )
  }
  const check = (dims: readonly number[]): void => void (info.dtype && checkShape(label, dims, info))
  if (value?.location && value.type === dtype) {
    check(value.dims)
    return value
  }
  const data = value?.dims ? value.data : value
  if (!dtype || data?.length === undefined || typeof data === "string")
    throw new InputError(`${label} must be a tensor${dtype ? " or an array of numbers" : ""}, got ${show(value)}.`)
  const dims = value.dims ?? inferred(label, data.length, shape)
  check(dims)
  if (data.length !== size(dims)) throw new InputError(`${label} has ${data.length} values, but the shape ${shown(dims)}.`)
  return engine.tensor(dtype, cast(label, data, dtype, value.type), dims)
}

/** The images in a value for an input of images, if it has some: a list, or a batch of integers. */
function imagesOf(value: any, { shape, dtype }: TensorInfo): any {
  if (shape.length !== 4 || dtype === "string") return undefined
  const isInteger = /int/i.test(value?.type ?? value?.data?.constructor.name)
  if (value?.dims?.length === 4 && isInteger && isFloat(dtype)) return value
  const images = Array.isArray(value) ? value : [value]
  return images.length && images.every(isImage) ? images : undefined
}

/** The shape of an array of numbers: the one free size follows from their count. */
function inferred(label: string, count: number, shape: TensorInfo["shape"]): number[] {
  const rest = size(shape.map((one) => one ?? 1))
  const free = shape.filter((one) => one === null).length
  if (free > 1 || (free ? count % rest : count !== rest))
    throw new InputError(
      `${label} has ${count} values, expected ${shown(shape)}. Give a tensor, {data, dims}, with its sizes.`,
    )
  return shape.map((one) => one ?? count / rest)
}
