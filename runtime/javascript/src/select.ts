/** Selecting layers by name, glob, regular expression, index or class. */

import type { Layer } from "./card.js"
import { LayerNotFoundError, UsageError, show, suggest } from "./errors.js"

/**
 * A layer's exact name, a glob (`conv5_*`), `re:PATTERN` or a `RegExp` (which match the whole name),
 * an index (negative ones count from the end), a row of the table of layers; or the words `all` and `attention`.
 *
 * Scores of attention are large, so only what names them selects them: their name or index, the word
 * `attention`, their class, or a pattern that contains `attention_scores`.
 */
export type Selector = string | number | RegExp | Layer

const isLayer = (value: any): value is Layer => typeof value?.name === "string"

function isPattern(layers: readonly Layer[], selector: unknown): boolean {
  if (selector instanceof RegExp) return true
  if (typeof selector !== "string" || layers.some((layer) => layer.name === selector)) return false
  return /^(all|attention)$|^re:|[*?[]/.test(selector)
}

/** The layers that the file exposes. */
const inFile = (layers: readonly Layer[]): Layer[] => layers.filter((layer) => layer.tensor !== null)


/** Whether a selector is the name or index of exactly one layer. */
export const isSingle = (layers: readonly Layer[], selector: unknown): boolean =>
  !Array.isArray(selector) && selector !== undefined && !isPattern(layers, selector)

/**
 * The layers that match a selector, or one of several, and have one of the classes in `type`; each
 * once, in the order of the selectors. Patterns and `undefined` skip layers that the file lacks.
 */
export function select(
  layers: readonly Layer[],
  selector?: Selector | readonly Selector[],
  type?: string | readonly string[],
): Layer[] {
  const exposed = inFile(layers)
  const selectors = selector === undefined ? undefined : ([] as Selector[]).concat(selector as Selector[])
  const scores = type !== undefined // which leaves out those that it does not name
  let found = selectors
    ? [...new Set(selectors.flatMap((one) => matching(layers, one, scores)))]
    : exposed.filter((layer) => scores || !layer.attention)
  if (scores) {
    const known = [...new Set(exposed.map((layer) => layer.type))].sort()
    const types = ([] as string[]).concat(type as string[])
    for (const name of types)
      if (!known.includes(name))
        throw new LayerNotFoundError(
          `no exposed layer has the class ${show(name)}.${suggest(String(name), known)} The classes are ${known.join(", ")}.`,
        )
    found = found.filter((layer) => types.includes(layer.type))
    if (!found.length) throw new LayerNotFoundError(`no selected layer has the class ${types.join(" or ")}.`)
  }
  return found
}

function matching(layers: readonly Layer[], selector: Selector, scores: boolean): Layer[] {
  if (!isPattern(layers, selector)) return [only(layers, selector)]
  const regex = asRegex(selector as string | RegExp)
  const named = scores || String(selector).includes("attention_scores")
  const all = layers.filter(({ attention, name }) => (selector === "attention" ? attention : (named || !attention) && regex.test(name)))
  const found = inFile(all)
  if (found.length) return found
  const text = `the pattern ${show(String(selector))}`
  if (all.length)
    throw new LayerNotFoundError(
      `${text} only matches layers that this file does not expose. The layer ${withheld(layers, all[0])}`,
    )
  const names = inFile(layers).map((layer) => layer.name)
  const near = suggest(String(selector).replace(/^(re:)?[*?[\]^$.]*|[*?[\]^$.]+$/g, ""), names)
  const count = names.length === 1 ? "1 layer" : `${names.length} layers`
  throw new LayerNotFoundError(`${text} matches no layer; the file exposes ${count}.${near}`)
}

function asRegex(pattern: string | RegExp): RegExp {
  try {
    if (pattern instanceof RegExp) return new RegExp(`^(?:${pattern.source})$`, pattern.flags.replace(/[gy]/g, ""))
    if (pattern.startsWith("re:")) return new RegExp(`^(?:${pattern.slice(3)})$`)
    return new RegExp(`^${pattern === "all" ? ".*" : globSource(pattern)}$`, "s")
  } catch (error) {
    throw new LayerNotFoundError(`the pattern ${show(pattern)} is not a regular expression: ${(error as Error).message}.`)
  }
}

/** `*` for any text, `?` for one character, `[abc]`, `[a-z]` and `[!abc]`, as in Python's fnmatch. */
const globSource = (glob: string): string =>
  glob.replace(/\[(!?)(\]?[^\]]*)\]|[\\^$.*+?()[\]{}|/]/gs, (sign, not, set) => {
    if (set !== undefined) return `[${not && "^"}${set.replace(/[\\\][^]/g, "\\$&")}]`
    return sign === "*" ? ".*" : sign === "?" ? "." : `\\${sign}`
  })

/** The exposed layer with this exact name or index. */
export function only(layers: readonly Layer[], selector: Selector): Layer {
  const name = isLayer(selector) ? selector.name : selector
  if (typeof name !== "string" && !Number.isInteger(name))
    throw new UsageError(`cannot select a layer by ${show(selector)}: give a name, a pattern or an index.`)
  const able = layers.filter((one) => !one.attention || (name as number) >= 0)
  const layer = typeof name === "string" ? layers.find((one) => one.name === name) : able.at(name as number)
  if (!layer && typeof name === "string") {
    const names = inFile(layers).map((layer) => layer.name)
    throw new LayerNotFoundError(
      `no layer is called ${show(name)}; the file exposes ${names.length} layers.${suggest(name, names)}`,
    )
  }
  const count = able.length
  if (!layer)
    throw new LayerNotFoundError(
      `layer index ${name} is out of range: the model has ${count ? `${count} layers, 0 to ${count - 1} or -${count} to -1` : "no layers"}.`,
    )
  if (layer.tensor === null) throw new LayerNotFoundError(`the layer ${withheld(layers, layer)}`)
  return layer
}

/** The reason why a layer is not exposed, and what to do. */
function withheld(layers: readonly Layer[], layer: Layer): string {
  if (!layer.why_not)
    return `${show(layer.name)} is in the model, but this file does not expose it. Export the model again with all layers.`
  const seen = new Set<Layer>()
  const parent = (one: Layer): Layer | undefined => layers.find((other) => other.name === one.parent)
  let around = parent(layer)
  while (around?.why_not && !seen.has(around)) {
    seen.add(around)
    around = parent(around)
  }
  const hint = around && !around.why_not ? ` Request ${show(around.name)}, which contains it.` : ""
  return `${show(layer.name)} is not available: ${layer.why_not}.${hint}`
}
