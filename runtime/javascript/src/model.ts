/** The public API: `open` and `Model`. All work is done by the program inside a model. */

import type { Card, Layer, TensorInfo } from "./card.js"
import type { CheckReport } from "./check.js"
import { Engine, type Ort } from "./engine.js"
import { InputError, ModelFileError, UsageError, checkOptions, list } from "./errors.js"
import type { CamOptions, HeatMaps, TargetOptions } from "./explain.js"
import type { Inputs } from "./feeds.js"
import type { ImageSource } from "./images/kinds.js"
import type { Recipe } from "./images/recipe.js"
import { readIndex } from "./layers.js"
import { type Asked, Program, type RunOptions } from "./program.js"
import { type Selector, only, select } from "./select.js"
import { type Source, readBytes } from "./source.js"
import type { Tensor } from "./tensors.js"
import { WireError } from "./wire.js"

export interface OpenOptions {
  /** Options for `ort.InferenceSession.create`, such as `{ executionProviders: ["webgpu"] }`. */
  readonly session?: object
}

/** The result of a reduction such as `top5`: the channels with the largest means, and these. */
export interface TopChannels {
  readonly channels: Tensor
  readonly values: Tensor
}

/**
 * Open a model: the bytes of an ONNX file, a `Blob`, a URL, or with node a path. Only its index is
 * read: names, edges and the card.
 *
 * @param ort onnxruntime-web or onnxruntime-node.
 * @throws {ModelFileError} It cannot be read, or is no ONNX model.
 * @throws {CardVersionError} Its card was written by a newer layertap.
 */
export async function open(ort: Ort, source: Source, options: OpenOptions = {}): Promise<Model> {
  if (typeof ort?.InferenceSession?.create !== "function")
    throw new UsageError("the first argument must be onnxruntime: open(ort, source).")
  checkOptions(options, "session")
  const bytes = await readBytes(source, ModelFileError)
  try {
    const index = readIndex(bytes)
    return new Model(new Program(new Engine(ort, index.graph, options.session, source), index))
  } catch (error) {
    throw error instanceof WireError ? (await import("./looks.js")).refusal(bytes, error) : error
  }
}

/** An opened ONNX file: its layers, and their activations. Made by `open`. */
export class Model {
  /** The file's description of itself; `null` in a file that layertap did not export. */
  readonly card: Card | null
  /** All layers, in Keras's order; in a file without a card, every tensor that a node writes. */
  readonly layers: readonly Layer[]
  /** The model's inputs, channels last, `null` for a free size. */
  readonly inputs: readonly TensorInfo[]
  /** The model's own outputs. */
  readonly outputs: readonly TensorInfo[]
  readonly #program: Program

  /** @internal */
  constructor(program: Program) {
    this.#program = program
    this.card = program.card
    this.layers = program.layers
    this.inputs = program.inputs
    this.outputs = program.outputs
  }

  /** Names of the classes, in the order of the output's last axis, if the card has them. */
  get labels(): readonly string[] | null {
    return this.card?.labels ?? null
  }

  /** How images become inputs, if the card contains that. It is checked when an image is prepared. */
  get preprocessing(): Recipe | null {
    return (this.card?.preprocessing as Recipe) ?? null
  }

  /** The layer with this exact name or index. */
  layer(what: Selector): Layer {
    return only(this.layers, what)
  }

  /** The layers that selectors match, with a class in `type`; without a selector all that the file contains. */
  select(what?: Selector | readonly Selector[], type?: string | readonly string[]): Layer[] {
    return select(this.layers, what, type)
  }

  /** Free the sessions. The model cannot run afterwards. */
  release(): Promise<void> {
    return this.#program.engine.release()
  }

  /** Images as a batch for the model's first input of images. */
  async prepare(images: ImageSource | readonly ImageSource[], options: RunOptions = {}): Promise<Tensor> {
    checkOptions(options, "preprocess")
    if (this.card?.finished) throw new UsageError("a finished file prepares pictures itself. Give them to predict.")
    const info = this.inputs.find(({ shape }) => shape.length === 4)
    if (!info)
      throw new InputError(`the model has no input of images: ${list(this.inputs.map(({ name }) => name))}. Give tensors.`)
    return this.#program.tensor(info.name, images, options)
  }

  /**
   * The activations of layers, in Keras's shapes, channels last. For one exact name or index: the
   * tensor; otherwise an object by the layers' names. The graph is cut to the request before it
   * runs; the sessions of the last four requests are kept.
   *
   * @param layers See `select`; or an object from such selectors to the names of reductions (or
   *   `null`), which are computed in the graph.
   */
  async activations(inputs: Inputs, layers?: Asked, options: RunOptions = {}): Promise<any> {
    checkOptions(options, "preprocess")
    const [request, collect] = await this.#program.request(layers)
    return collect(await this.#program.compute(request, inputs, options))
  }

  /** The model's own output; if it has several, an object by their names. */
  async predict(inputs: Inputs, options: RunOptions = {}): Promise<any> {
    checkOptions(options, "preprocess")
    const [request, collect] = this.#program.requestOutputs()
    return collect(await this.#program.compute(request, inputs, options))
  }

  /** The best classes, `{index, label, score}`: a list for one image, otherwise a list for each. */
  async top(inputs: Inputs, count = 5, options: RunOptions = {}): Promise<any> {
    checkOptions(options, "preprocess")
    return (await import("./explain.js")).top(this.#program, inputs, count, options)
  }

  /**
   * The gradient of a class's score with respect to layers, which the file itself computes: of the
   * layer's shape; with a list of targets `(n, targets, ...)`. For one name the tensor, otherwise an
   * object by name; without layers all that have a gradient.
   */
  async gradients(inputs: Inputs, layers?: Selector | readonly Selector[], options: TargetOptions = {}): Promise<any> {
    checkOptions(options, "preprocess", "target")
    return (await import("./explain.js")).gradients(this.#program, inputs, layers, options)
  }

  /**
   * Heat maps: which parts of an image the score of a class depends on. The methods are `gradcam`,
   * `gradcam++`, `xgradcam`, `layercam`, `hirescam`, `gradcamelementwise` and `eigengradcam`, which
   * need a file with gradients, and `eigencam`.
   *
   * @param layer A layer with feature maps, or `last-conv` for the last of them; by default the last
   *   one that the file has a gradient for.
   */
  async cam(inputs: Inputs, layer?: Selector, options: CamOptions = {}): Promise<HeatMaps> {
    checkOptions(options, "preprocess", "target", "method", "normalize", "resize")
    return (await import("./explain.js")).cam(this.#program, inputs, layer, options)
  }

  /**
   * Continue a run from given activations, without computing anything before them.
   *
   * @param given Activations by the names of layers, in Keras's shapes; inputs may be among them.
   * @param layers As in `activations`; by default the model's own outputs.
   */
  async resume(given: { readonly [layer: string]: any }, layers?: Asked, options: RunOptions = {}): Promise<any> {
    checkOptions(options, "preprocess")
    return (await import("./resume.js")).resume(this.#program, given, layers, options)
  }

  /**
   * Compare this machine's results with those of Keras at the export, for the golden sample in the
   * file: the report says which layer differs.
   *
   * @param options `tolerance`: the largest scaled error that passes, by default that of the export;
   *   give a larger one for a file that was converted to 16 bits.
   */
  async check(options: { tolerance?: number } = {}): Promise<CheckReport> {
    checkOptions(options, "tolerance")
    return (await import("./check.js")).check(this.#program, options.tolerance)
  }
}
