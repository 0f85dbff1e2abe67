/** Pictures as inputs of a finished file, which prepares them itself. */

import { type Card, type TensorInfo, checks, isText, orNull, readChecked } from "./card.js"
import { InputError, UsageError, list, show } from "./errors.js"
import { isNamed } from "./feeds.js"
import { type ImageSource, isImage } from "./images/kinds.js"
import type { Recipe } from "./images/recipe.js"
import { roundEven } from "./tensors.js"

/** What a finished file takes and gives; see docs/file-format.md. */
export interface Finished {
  readonly scores?: string | null
  readonly image?: string | null
  readonly preprocessing?: Recipe | null
  readonly target?: string | null
  readonly heat_map?: string | null
  readonly layer?: string | null
  readonly method?: string | null
}

/** The value of the input for the class that stands for the class with the highest score. */
export const TOP = -1

const name = orNull(isText)
const isFinished = checks({ scores: name, image: name, target: name, heat_map: name, layer: name, method: name })

/** What a card says of a finished file; `undefined` for any other. */
export const finishedOf = (card: Card | null): Finished | undefined =>
  card?.finished ? readChecked(isFinished, card.finished) : undefined

/** The values that a caller gives, by input name, with pictures as bytes and without a class the best one. */
export async function withPictures(
  facts: Finished,
  given: any,
  inputs: readonly TensorInfo[],
  needed: readonly string[],
  preprocess: Recipe | undefined,
): Promise<Record<string, any>> {
  const { image, target } = readChecked(isFinished, facts) as Finished
  if (preprocess && image)
    throw new UsageError("the file is a finished file: it prepares pictures itself, so it takes no preprocessing.")
  let values: Record<string, any> = { ...given }
  if (!isNamed(given)) {
    const own = inputs.map((info) => info.name).filter((one) => one !== target)
    const only = image ?? (own.length === 1 ? own[0] : undefined)
    if (only === undefined)
      throw new InputError(`the file has ${own.length} inputs (${list(own)}). Give an object by input name.`)
    values = given == null ? {} : { [only]: given }
  }
  const info = inputs.find((one) => one.name === image)
  if (info && Object.hasOwn(values, info.name)) values[info.name] = await picture(facts, info, values[info.name])
  if (target && needed.includes(target) && !Object.hasOwn(values, target)) {
    const count = info?.shape.length === 4 ? (values[info.name]?.dims?.[0] ?? 1) : 1
    values[target] = Array(count).fill(TOP)
  }
  return values
}

/** One picture `(h, w, c)`, or several `(n, h, w, c)`; what is no picture is returned as it is. */
async function picture(facts: Finished, { name, shape }: TensorInfo, value: any): Promise<any> {
  const label = `input ${show(name)}`
  const several = shape.length === 4
  const one = (count: number): void => {
    if (count !== 1 && !several)
      throw new InputError(
        `${label} takes one picture, (height, width, channels), got ${count}. Give them one by one; \`layertap finish --batch\` writes a file that takes several.`,
      )
  }
  const images: ImageSource[] = Array.isArray(value) ? value : [value]
  if (images.length && images.every(isImage)) {
    one(images.length)
    const found = []
    for (const image of images) found.push(await read(label, facts, image))
    const [{ dims }] = found
    const other = found.find((each) => String(each.dims) !== String(dims))
    if (other)
      throw new InputError(`${label}: pictures in one batch must have one size, got (${dims.join(", ")}) and (${other.dims.join(", ")}).`)
    const data = new Uint8Array(found.length * found[0].data.length)
    found.forEach((each, i) => data.set(each.data, i * each.data.length))
    return { type: "uint8", data, dims: several ? [found.length, ...dims] : dims }
  }
  if (!value?.dims) return value
  let dims: readonly number[] = value.dims
  if (dims.length === 2) dims = [...dims, 1]
  if (dims.length === 3 && several) dims = [1, ...dims]
  if (dims.length === 4 && !several) {
    one(dims[0])
    dims = dims.slice(1)
  }
  return dims === value.dims ? value : { type: value.type, data: value.data, dims }
}

/** An image in its own size, read as the recipe inside the file does, which does the rest. */
async function read(label: string, facts: Finished, image: ImageSource): Promise<{ data: Uint8Array; dims: number[] }> {
  const { color_mode, depth } = facts.preprocessing ?? {}
  const recipe = { ...(color_mode && { color_mode }), ...(depth && { depth }) }
  const { prepare } = await import("./images/batch.js")
  const { data, height, width, channels } = await prepare(recipe, image)
  const most = data.reduce((a, b) => Math.max(a, b), 0)
  if (most > 255)
    throw new InputError(
      `${label} takes pixels from 0 to 255, got ${most}. The file prepares them itself; grey of more than 8 bits needs "depth": "scale" in its recipe.`,
    )
  return { data: Uint8Array.from(data, roundEven), dims: [height, width, channels] }
}
