/**
 * The errors that layertap throws on purpose, to be read by people and caught by programs.
 *
 * Their text is one line without control characters, whatever a file has put into it.
 */

export class LayertapError extends Error {
  override name = "LayertapError"
  constructor(message: string, options?: ErrorOptions) {
    super(oneLine(message), options)
  }
}

/** The model file cannot be used; the message names the reason. */
export class ModelFileError extends LayertapError {
  override name = "ModelFileError"
}

/** The file's card was written by a newer layertap. */
export class CardVersionError extends ModelFileError {
  override name = "CardVersionError"
}

/** A layer name, index or pattern that selects nothing. */
export class LayerNotFoundError extends LayertapError {
  override name = "LayerNotFoundError"
}

/** An input whose rank, size, dtype or name does not fit the model. */
export class InputError extends LayertapError {
  override name = "InputError"
}

/** Bytes or an object that cannot be read as an image. */
export class ImageError extends LayertapError {
  override name = "ImageError"
}

/** A preprocessing recipe with an unknown key or an invalid value. */
export class PreprocessingError extends LayertapError {
  override name = "PreprocessingError"
}

/** An invalid option or argument; the message says what is valid. */
export class UsageError extends LayertapError {
  override name = "UsageError"
}

const LONGEST = 8000

function oneLine(text: string): string {
  const half = LONGEST / 2
  const short = text.length > LONGEST ? `${text.slice(0, half)} ... ${text.slice(-half)}` : text
  // Other characters (controls, formats, halves of pairs) and separators but the space.
  return short.replace(/(?! )[\p{C}\p{Z}]/gu, (one) => `\\u{${one.codePointAt(0)!.toString(16)}}`)
}

/** A value for a message: a text in quotes, the class of an object. */
export function show(value: unknown): string {
  if (typeof value === "string") return `'${value}'`
  if (typeof value === "function" || (typeof value === "object" && value)) {
    const name = Array.isArray(value) ? "Array" : value.constructor?.name || "Object"
    return `${/^[AEIOU]/.test(name) ? "an" : "a"} ${name}`
  }
  return String(value)
}

/** Names in quotes; of many, the first ones. */
export function list(names: Iterable<string>, most = 5): string {
  const all = [...names]
  const more = all.length > most ? ` and ${all.length - most} more` : ""
  return all.slice(0, most).map(show).join(", ") + more || "none"
}

/** Check that options are an object with these keys and no others. */
export function checkOptions(options: unknown, ...known: string[]): void {
  if (!options || typeof options !== "object" || Array.isArray(options))
    throw new UsageError(`options must be an object, as in {${known[0]}: ...}, got ${show(options)}.`)
  for (const name of Object.keys(options))
    if (!known.includes(name))
      throw new UsageError(`there is no option ${show(name)}, only ${list(known)}.${suggest(name, known)}`)
}

const COMPARED = 10_000
const CHARACTERS = 200

/** ` Did you mean 'a', 'b'?` with up to three similar names, or an empty string, as in Python. */
export function suggest(name: string, known: Iterable<string>): string {
  const wanted = name.slice(0, CHARACTERS).toLowerCase()
  const near: [number, string][] = []
  const seen = new Set<string>()
  for (const one of [...known].slice(0, COMPARED)) {
    const low = one.toLowerCase()
    const total = low.length + wanted.length || 1
    if (low.length > CHARACTERS || seen.has(low) || Math.min(low.length, wanted.length) * 4 < total) continue
    seen.add(low)
    const score = (2 * common(low, wanted)) / total
    if (score >= 0.5) near.push([score, one])
  }
  near.sort(([a, x], [b, y]) => b - a || (x < y ? 1 : -1))
  return near.length ? ` Did you mean ${list(near.slice(0, 3).map(([, one]) => one))}?` : ""
}

/** How many characters lie in common blocks (Ratcliff and Obershelp, as Python's difflib). */
function common(a: string, b: string): number {
  let [size, i, j] = [0, 0, 0]
  let before: number[] = []
  for (let x = 0; x < a.length; x++) {
    const now: number[] = []
    for (let y = 0; y < b.length; y++) {
      if (a[x] !== b[y]) continue
      now[y] = (before[y - 1] ?? 0) + 1
      if (now[y] > size) [size, i, j] = [now[y], x + 1 - now[y], y + 1 - now[y]]
    }
    before = now
  }
  if (!size) return 0
  const [left, right] = [common(a.slice(0, i), b.slice(0, j)), common(a.slice(i + size), b.slice(j + size))]
  return left + size + right
}
