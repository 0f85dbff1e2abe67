/**
 * The protobuf wire format: iterating over the fields of a message, and encoding fields.
 *
 * Values are skipped, not parsed, so a file's weights are never read. For any bytes, the functions
 * here return or throw `WireError`, and they always terminate. What is accepted here is what the
 * Python runtime accepts. The format: https://protobuf.dev/programming-guides/encoding/
 */

/** The bytes are not a protobuf message. */
export class WireError extends Error {}

/** The position of a message's contents. */
export type Span = readonly [start: number, end: number]

export const VARINT = 0
export const LEN = 2

/** The position after the varint that was read last. */
let next = 0

function varint(bytes: Uint8Array, at: number, end: number): number {
  if (at < end && bytes[at] < 128) {
    next = at + 1 // the common case
    return bytes[at]
  }
  let [value, scale] = [0, 1]
  const stop = Math.min(end, at + 10)
  for (let position = at; position < stop; scale *= 128) {
    const byte = bytes[position++]
    value += (byte & (position - at === 10 ? 1 : 127)) * scale
    if (byte < 128) {
      next = position
      return value
    }
  }
  throw new WireError(`the varint at byte ${at} has no end`)
}

/** The fields of the message in `bytes[start:end]`: number, wire type, and the positions of the tag and the value. */
export function* fields(
  bytes: Uint8Array,
  start: number,
  end: number,
): Generator<[number: number, wire: number, tag: number, start: number, end: number]> {
  for (let at = start; at < end; ) {
    const tag = at
    const key = varint(bytes, at, end)
    at = next
    if (at - tag > 1 && (!bytes[at - 1] || at - tag > 5 || key >= 2 ** 32))
      throw new WireError(`the tag at byte ${tag} is longer than a tag can be`)
    const wire = key % 8
    let stop = at
    if (wire === LEN) {
      const size = varint(bytes, at, end)
      at = next
      stop = at + size
    } else if (wire === VARINT) {
      varint(bytes, at, end)
      stop = next
    } else if (wire === 1) stop += 8
    else if (wire === 5) stop += 4
    else throw new WireError(`invalid wire type ${wire} at byte ${tag}`)
    if (key < 8) throw new WireError(`invalid field number 0 at byte ${tag}`)
    if (stop > end) throw new WireError(`the field at byte ${tag} extends beyond the end`)
    yield [Math.floor(key / 8), wire, tag, at, stop]
    at = stop
  }
}

/** The signed value of the int64 field at `at`; beyond 2^53 the nearest number. */
export function integer(bytes: Uint8Array, at: number, end: number): number {
  const value = varint(bytes, at, end)
  if (next - at < 10 || !(bytes[next - 1] & 1)) return value
  let rest = 0 // two's complement
  for (let i = 8; i >= 0; i--) rest = rest * 128 + (127 - (bytes[at + i] & 127))
  return -1 - rest
}

/** The values in one field of a repeated integer, packed or single. */
export function integers(bytes: Uint8Array, wire: number, at: number, end: number): number[] {
  const found = []
  if (wire === VARINT) found.push(integer(bytes, at, end))
  else if (wire === LEN) {
    while (at < end) {
      found.push(integer(bytes, at, end))
      at = next
    }
  }
  return found
}

const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true })

export function text(bytes: Uint8Array, start: number, end: number): string {
  let ascii = ""
  for (let at = start; at < end; at++) {
    if (bytes[at] < 128 && end - start < 99) ascii += String.fromCharCode(bytes[at])
    else {
      try {
        return decoder.decode(bytes.subarray(start, end))
      } catch {
        throw new WireError(`the name at byte ${start} is not UTF-8`)
      }
    }
  }
  return ascii
}

/** The position of the last length-delimited field `number` of a message. */
export function find(bytes: Uint8Array, [start, end]: Span, number: number): Span | undefined {
  let found: Span | undefined
  for (const [field, wire, , at, stop] of fields(bytes, start, end))
    if (field === number && wire === LEN) found = [at, stop]
  return found
}

/** The string in field `number` of a message; empty if absent. */
export function findText(bytes: Uint8Array, span: Span, number: number): string {
  const found = find(bytes, span, number)
  return found ? text(bytes, ...found) : ""
}

const encoder = new TextEncoder()

function encodeVarint(value: number): number[] {
  const out = []
  for (; value > 127; value = Math.floor(value / 128)) out.push((value % 128) | 128)
  return [...out, value]
}

/** The tag and length that precede a length-delimited value of `size` bytes. */
export const header = (number: number, size: number): Uint8Array =>
  Uint8Array.from([...encodeVarint(number * 8 + LEN), ...encodeVarint(size)])

/** One field: an integer of at least 0 as a varint, a text, or parts that make up its value. */
export function encode(number: number, value: number | string | Uint8Array | Uint8Array[]): Uint8Array {
  if (typeof value === "number") return Uint8Array.from([...encodeVarint(number * 8), ...encodeVarint(value)])
  const data = typeof value === "string" ? encoder.encode(value) : Array.isArray(value) ? join(value) : value
  return join([header(number, data.length), data])
}

export function join(parts: Uint8Array[]): Uint8Array {
  const out = new Uint8Array(parts.reduce((size, part) => size + part.length, 0))
  let at = 0
  for (const part of parts) {
    out.set(part, at)
    at += part.length
  }
  return out
}
