/** The public names. */

import type { ImageSource } from "./images/kinds.js"
import type { Prepared, Recipe } from "./images/recipe.js"

/** Read one image as a recipe says, without a model. */
export async function prepare(recipe: Recipe, image: ImageSource): Promise<Prepared> {
  return (await import("./images/batch.js")).prepare(recipe, image)
}

export { open, Model } from "./model.js"
export type { OpenOptions, TopChannels } from "./model.js"
export type { Card, Layer, TensorInfo, Shape, Gradients } from "./card.js"
export type { CheckReport, LayerDeviation } from "./check.js"
export type { Ort } from "./engine.js"
export {
  LayertapError, ModelFileError, CardVersionError, LayerNotFoundError, InputError, ImageError, PreprocessingError, UsageError,
} from "./errors.js"
export type { CamOptions, HeatMaps, Score, TargetOptions } from "./explain.js"
export type { Inputs, Value } from "./feeds.js"
export type { ImageSource, RawImage } from "./images/kinds.js"
export type { Recipe, Prepared } from "./images/recipe.js"
export type { Asked, Reduction, RunOptions } from "./program.js"
export type { Target } from "./scores.js"
export type { Selector } from "./select.js"
export type { Source } from "./source.js"
export type { Tensor } from "./tensors.js"
