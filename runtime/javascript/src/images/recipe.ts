/**
 * Preprocessing recipes: how an image becomes an input of the model. The result equals that of
 * Keras's image loading bit for bit; docs/file-format.md describes the steps.
 */

import { ImageError, PreprocessingError, show, suggest } from "../errors.js"
import { decode } from "./decode.js"
import type { ImageSource } from "./kinds.js"
import { MOST_PIXELS, type Picture } from "./picture.js"
import {
  FILTER_NAMES, type Kind, type Pixels, centre, centredBox, clip8, premultiplied, resize, scaledSize, unmultiplied,
} from "./resize.js"
import { type Scaling, scale } from "./scaling.js"

export interface Recipe {
  readonly size?: readonly [height: number, width: number] | null
  readonly color_mode?: "rgb" | "rgba" | "grayscale"
  readonly interpolation?: "nearest" | "bilinear" | "bicubic" | "lanczos" | "box" | "hamming"
  readonly keep_aspect_ratio?: boolean
  readonly shorter_side?: number | null
  readonly depth?: "clip" | "scale"
  readonly channels?: "first" | "last" | null
  readonly scaling?: Scaling | null
}

/** An image that is ready for the model: `(height, width, channels)`. */
export type Prepared = Pixels

const CHANNELS: Record<string, number> = { rgb: 3, rgba: 4, grayscale: 1 }

export const channelsOf = (recipe: Recipe): number => CHANNELS[recipe.color_mode ?? "rgb"]

type Test = (value: any) => boolean
const oneOf = (...known: unknown[]): Test => (value) => known.includes(value)
const isCount: Test = (value) => Number.isInteger(value) && value > 0
const isSize: Test = (value) => value.length === 2 && value.every(isCount) && value[0] * value[1] <= MOST_PIXELS
const isNumber: Test = (value) => Number.isFinite(f(value)) && typeof value === "number"
const isPositive: Test = (value) => isNumber(value) && value >= 2 ** -126
const f = Math.fround

const KEYS: Record<string, Test> = {
  size: (value) => value === null || (Array.isArray(value) && isSize(value)),
  color_mode: oneOf(...Object.keys(CHANNELS)),
  interpolation: oneOf(...FILTER_NAMES),
  keep_aspect_ratio: oneOf(true, false),
  shorter_side: (value) => value === null || (isCount(value) && value * value <= MOST_PIXELS),
  depth: oneOf("clip", "scale"),
  channels: oneOf("first", "last", null),
  scaling: (value) => value === null || (typeof value === "object" && !Array.isArray(value)),
}

/** The keys of each scaling, and whether a value is valid; `!` marks those that must be there. */
const SCALINGS: Record<string, Record<string, Test>> = {
  standardize: { "mean!": isNumber, "std!": isPositive },
  samplewise: { epsilon: isPositive },
  rescale: { "scale!": isNumber, offset: isNumber },
  tf: {},
  torch: {},
  caffe: {},
}

/** Check plain JSON data; throws a `PreprocessingError` for an unknown key or an invalid value. */
function asRecipe(data: unknown): Recipe {
  if (!data || typeof data !== "object" || Array.isArray(data))
    throw new PreprocessingError(`a preprocessing recipe must be an object, got ${show(data)}.`)
  const recipe = data as Recipe
  checkKeys(recipe, KEYS, "a preprocessing recipe")
  if (recipe.shorter_side && recipe.keep_aspect_ratio)
    throw new PreprocessingError('"shorter_side" and "keep_aspect_ratio" crop in different ways. Give one of them.')
  if (recipe.scaling) {
    const { mode, ...options } = recipe.scaling as any
    const count = CHANNELS[recipe.color_mode ?? "rgb"]
    if (!Object.hasOwn(SCALINGS, mode)) throw invalid("mode", mode, Object.keys(SCALINGS))
    const tests: Record<string, Test> = {}
    for (const [key, test] of Object.entries(SCALINGS[mode])) {
      const name = key.replace("!", "")
      if (key !== name && !Object.hasOwn(options, name))
        throw new PreprocessingError(`scaling "${mode}" requires "${name}".`)
      tests[name] = (value) => (Array.isArray(value) && name !== "epsilon" ? value.length === count && value.every(test) : test(value))
    }
    checkKeys(options, tests, `scaling "${mode}"`)
    if (["tf", "torch", "caffe"].includes(mode) && count !== 3)
      throw new PreprocessingError(`scaling "${mode}" is for images read as "rgb", not as "${recipe.color_mode}".`)
  }
  return recipe
}

function checkKeys(data: object, tests: Record<string, Test>, owner: string): void {
  for (const [key, value] of Object.entries(data)) {
    const names = Object.keys(tests)
    if (!names.includes(key))
      throw new PreprocessingError(`"${key}" is not a key of ${owner}, which has ${names.join(", ") || "none"}.${suggest(key, names)}`)
    if (value === undefined || !tests[key](value)) throw invalid(key, value, key === "interpolation" ? FILTER_NAMES : [])
  }
}

function invalid(key: string, value: unknown, known: string[]): PreprocessingError {
  const shown = typeof value === "object" ? JSON.stringify(value) : show(value)
  const valid = known.length ? ` It must be one of ${known.join(", ")}.${suggest(String(value), known)}` : ""
  return new PreprocessingError(`${shown} is not valid as "${key}" of a preprocessing recipe.${valid}`)
}

/** Read one image, as the recipe says. */
export async function prepare(given: Recipe, image: ImageSource): Promise<Prepared> {
  const recipe = asRecipe(given)
  const pixels = await load(recipe, await decode(image))
  return { ...pixels, data: scale(pixels.data, pixels.channels, recipe.scaling) }
}

/** The pixels before scaling, float32 from 0 to 255; deep grey read as `grayscale` with `clip` keeps its range. */
function load(recipe: Recipe, picture: Picture): Pixels {
  const mode = recipe.color_mode ?? "rgb"
  const deep = picture.data instanceof Uint16Array
  if (deep && recipe.depth === "scale") {
    const data = Float32Array.from(picture.data, (value) => (value * 255) / 65535)
    const grey = fitted({ ...picture, data }, recipe, "float")
    return expanded({ ...grey, data: grey.data.map(clip8) }, mode)
  }
  const late = picture.channels < 3 && mode === "rgb"
  const converted = deep && mode === "grayscale" ? floats(picture) : late ? grey(picture) : colour(picture, mode)
  const pixels = fitted(converted, recipe, deep && mode === "grayscale" ? 16 : 8)
  return late ? expanded(pixels, mode) : pixels
}

const floats = (picture: Picture): Pixels => ({ ...picture, data: Float32Array.from(picture.data) })

/** Grey of 8 bits, which is what deep grey is clipped to, without its alpha. */
function grey({ width, height, channels, data }: Picture): Pixels {
  const out = new Float32Array(width * height)
  for (let i = 0; i < out.length; i++) out[i] = Math.min(data[i * channels], 255)
  return { width, height, channels: 1, data: out }
}

/** An image converted to a colour mode, as Pillow does. */
function colour(picture: Picture, mode: string): Pixels {
  const { width, height, channels, data, transparent } = picture
  if (mode === "grayscale" && channels < 3) return grey(picture)
  const count = CHANNELS[mode]
  const out = new Float32Array(width * height * count)
  const key = transparent?.map((one) => one & 255)
  for (let i = 0; i < width * height; i++) {
    const at = i * channels
    const [r, g, b] = channels < 3 ? Array(3).fill(Math.min(data[at], 255)) : [data[at], data[at + 1], data[at + 2]]
    if (count === 1) out[i] = (19595 * r + 38470 * g + 7471 * b + 32768) >> 16
    else out.set([r, g, b], i * count)
    if (count < 4) continue
    const hidden = key && (channels === 1 ? key[0] === r : key[0] === r && key[1] === g && key[2] === b)
    out[i * 4 + 3] = channels % 2 ? (hidden ? 0 : 255) : data[at + channels - 1]
  }
  return { width, height, channels: count, data: out }
}

/** Grey as a colour mode, with an opaque alpha channel. */
function expanded({ width, height, data }: Pixels, mode: string): Pixels {
  const channels = CHANNELS[mode]
  const out = new Float32Array(data.length * channels).map((_, i) => (i % channels === 3 ? 255 : data[Math.floor(i / channels)]))
  return { width, height, channels, data: out }
}

/** The image in its final size. */
function fitted(pixels: Pixels, recipe: Recipe, kind: Kind): Pixels {
  const [height, width] = recipe.size ?? [pixels.height, pixels.width]
  if (!recipe.shorter_side) return resized(pixels, width, height, recipe, kind)
  const [w, h] = scaledSize(pixels, recipe.shorter_side)
  if (w * h > MOST_PIXELS)
    throw new ImageError(
      `with "shorter_side" ${recipe.shorter_side}, its ${pixels.height} x ${pixels.width} pixels become ${h} x ${w}, which are more than ${MOST_PIXELS}.`,
    )
  const scaled = resized(pixels, w, h, { ...recipe, keep_aspect_ratio: false }, kind)
  return recipe.size ? centre(scaled, width, height) : scaled
}

function resized(pixels: Pixels, width: number, height: number, recipe: Recipe, kind: Kind): Pixels {
  if (width === pixels.width && height === pixels.height) return pixels
  const box = recipe.keep_aspect_ratio ? centredBox(pixels, width, height) : ([0, 0, pixels.width, pixels.height] as const)
  const filter = recipe.interpolation ?? "nearest"
  if (pixels.channels < 4 || filter === "nearest") return resize(pixels, box, width, height, filter, kind)
  return unmultiplied(resize(premultiplied(pixels), box, width, height, filter, kind)) // colours weighted by their alpha
}
