/** The public names. */

export { open, Model } from "./model.js"
export type { OpenOptions, RunOptions, TargetOptions, CamOptions, HeatMaps, TopChannels, Score } from "./model.js"
export type { Card, Layer, TensorInfo, Shape, Gradients } from "./card.js"
export { CheckReport, type LayerDeviation } from "./check.js"
export type { Ort } from "./engine.js"
export {
  LayertapError, ModelFileError, CardVersionError, LayerNotFoundError, InputError, ImageError, PreprocessingError, UsageError,
} from "./errors.js"
export type { Inputs, Value } from "./feeds.js"
export type { ImageSource, RawImage } from "./images/decode.js"
export { prepare, asRecipe, type Recipe, type Prepared } from "./images/recipe.js"
export type { Reduction } from "./reductions.js"
export type { Target } from "./scores.js"
export type { Selector } from "./select.js"
export type { Source } from "./source.js"
export type { Tensor } from "./tensors.js"
