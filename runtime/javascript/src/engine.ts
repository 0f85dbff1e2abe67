/** Runs parts of a graph: one session of onnxruntime for each request, the latest ones kept. */

import { type Plan, outputName, writeCut } from "./cut.js"
import { ModelFileError, UsageError } from "./errors.js"
import type { Graph } from "./graph.js"
import { givenName } from "./leaf.js"
import type { Source } from "./source.js"
import type { Tensor } from "./tensors.js"
import { WireError } from "./wire.js"

/** What is used of onnxruntime-web or onnxruntime-node. */
export interface Ort {
  readonly InferenceSession: { create(model: Uint8Array, options?: any): Promise<any> }
  readonly Tensor: new (type: any, data: any, dims?: readonly number[]) => any
}

const KEPT = 4
const MOST_BYTES = 2 ** 31 - 1

export class Engine {
  readonly #sessions = new Map<string, any>()
  #last: Promise<unknown> = Promise.resolve()
  #closed = false

  constructor(
    readonly ort: Ort,
    readonly graph: Graph,
    readonly options: any,
    readonly source: Source,
  ) {}

  tensor(type: string, data: any, dims: readonly number[]): Tensor {
    return new this.ort.Tensor(type, data, [...dims])
  }

  /** Compute what a plan requests; `feeds` has the values of its inputs and starts, by tensor. Runs wait for each other. */
  run(plan: Plan, feeds: ReadonlyMap<string, Tensor>): Promise<Map<string, Tensor>> {
    const run = this.#last.then(() => this.#run(plan, feeds))
    this.#last = run.catch(() => undefined)
    return run
  }

  async release(): Promise<void> {
    this.#closed = true
    await this.#last
    for (const session of this.#sessions.values()) await session.release?.()
    this.#sessions.clear()
  }

  async #run(plan: Plan, feeds: ReadonlyMap<string, Tensor>): Promise<Map<string, Tensor>> {
    if (this.#closed) throw new UsageError("the model was released. Open it again.")
    const { tensors, appended = [] } = plan.request
    const computed = tensors.filter((name) => !plan.passed.has(name))
    const names = new Map(computed.map((name) => [name, outputName(this.graph, name)]))
    for (const name of appended.flatMap((extra) => extra.writes)) names.set(name, name)
    const found = new Map([...plan.passed].map((name) => [name, feeds.get(name)!]))
    if (!names.size) return found
    const session = await this.#session(plan, [...names.values()])
    const fed = Object.fromEntries([
      ...plan.inputs.filter((name) => session.inputNames.includes(name)).map((name) => [name, feeds.get(name)!]),
      ...[...plan.starts.values()].map((name) => [givenName(name), feeds.get(name)!]),
    ])
    let results: Record<string, Tensor>
    try {
      results = await session.run(fed, [...names.values()])
    } catch (error) {
      throw new ModelFileError(`onnxruntime cannot run the model: ${(error as Error).message}`, { cause: error })
    }
    for (const [name, output] of names) found.set(name, results[output])
    return found
  }

  async #session(plan: Plan, names: string[]): Promise<any> {
    const key = JSON.stringify([plan.request.fused, names, plan.inputs, [...plan.starts].map(([, name]) => [name, plan.request.given!.get(name)])])
    let session = this.#sessions.get(key)
    this.#sessions.delete(key)
    try {
      session ??= await this.#start(plan)
    } catch (error) {
      if (error instanceof ModelFileError) throw error
      const damaged = error instanceof WireError ? "is damaged" : "was rejected by onnxruntime"
      throw new ModelFileError(`the model ${damaged}: ${(error as Error).message}`, { cause: error })
    }
    this.#sessions.set(key, session) // the latest is the last
    for (const [old, other] of [...this.#sessions].slice(0, -KEPT)) {
      this.#sessions.delete(old)
      await other.release?.()
    }
    return session
  }

  async #start(plan: Plan): Promise<any> {
    const started = plan.starts.size ? (await import("./starts.js")).startsOf(this.graph, plan) : undefined
    const model = await writeCut(this.graph, plan, started, async (weights) =>
      (await import("./external.js")).located(this.source, this.graph, weights),
    )
    if (model.length > MOST_BYTES)
      throw new ModelFileError(
        `the request needs ${(model.length / 1e9).toFixed(1)} GB of the model, more than the possible 2.1 GB.`,
      )
    const quantised = !plan.request.fused && plan.nodes.some((at) => this.graph.nodes[at].type === "DequantizeLinear")
    const extra = { ...this.options?.extra, session: { disable_quant_qdq: "1", ...this.options?.extra?.session } }
    return this.ort.InferenceSession.create(model, { logSeverityLevel: 3, ...this.options, ...(quantised && { extra }) })
  }
}
