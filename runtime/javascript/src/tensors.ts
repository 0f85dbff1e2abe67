/** Tensors, as onnxruntime for JavaScript has them, and the conversion of numbers between dtypes. */

import { InputError } from "./errors.js"

export type Data =
  | Float32Array | Float64Array | Int8Array | Uint8Array | Int16Array | Uint16Array | Int32Array | Uint32Array
  | BigInt64Array | BigUint64Array | string[]

/** A tensor of onnxruntime: its dtype, its elements in C order, and its shape. */
export interface Tensor {
  readonly type: string
  readonly data: any
  readonly dims: readonly number[]
}

const ARRAYS = {
  float32: Float32Array,
  float64: Float64Array,
  float16: Uint16Array,
  int8: Int8Array,
  uint8: Uint8Array,
  bool: Uint8Array,
  int16: Int16Array,
  uint16: Uint16Array,
  int32: Int32Array,
  uint32: Uint32Array,
  int64: BigInt64Array,
  uint64: BigUint64Array,
} as const

type Numeric = keyof typeof ARRAYS

export const size = (dims: readonly number[]): number => dims.reduce((a, b) => a * b, 1)

export const isFloat = (dtype: string): boolean => dtype.startsWith("float")

/** An array of zeros of a dtype. */
export const zeros = (dtype: string, count: number): any => new (ARRAYS[dtype as Numeric] ?? Float32Array)(count)

/** The elements as numbers; 64-bit integers beyond 2^53 become the nearest ones. */
export function numbers({ type, data }: Tensor): ArrayLike<number> {
  if (type === "float16" && data instanceof Uint16Array) return Float32Array.from(data, fromHalf)
  if (type.endsWith("int64")) return Float64Array.from(data, Number)
  return data
}

/**
 * Convert elements to a dtype, as numpy and Keras do: any numbers for a float, whole ones that fit
 * for an integer. An array of the right class is not copied.
 */
export function cast(label: string, data: any, dtype: string, from = ""): any {
  if (from === "float16") data = numbers({ type: from, data, dims: [] })
  if (dtype === "string") {
    if (!Array.isArray(data) || data.some((one) => typeof one !== "string"))
      throw new InputError(`${label} must contain strings.`)
    return data
  }
  const array = ARRAYS[dtype as Numeric]
  if (!array) throw new InputError(`${label} must be a tensor of dtype ${dtype}.`)
  if (data instanceof array && dtype !== "float16" && dtype !== "bool") return data
  const given = Array.from(data as ArrayLike<number | bigint | boolean>)
  if (given.some((one) => !["number", "bigint", "boolean"].includes(typeof one)))
    throw new InputError(`${label} takes numbers (${dtype}).`)
  const values = given.map(Number)
  if (dtype === "float16") return Uint16Array.from(values, toHalf)
  if (isFloat(dtype)) return (array as any).from(values)
  const whole = given.map((one, i) => (Number.isInteger(values[i]) ? one : 0))
  const out = (array as any).from(/64/.test(dtype) ? whole.map(BigInt) : whole)
  const wrong = values.findIndex((value, i) => Number(out[i]) !== value || (dtype === "bool" && value > 1))
  if (wrong >= 0) throw new InputError(`${label} must contain integers (${dtype}), got ${values[wrong]}.`)
  return out
}

function fromHalf(bits: number): number {
  const [exponent, fraction] = [(bits >> 10) & 31, bits & 1023]
  const sign = bits >> 15 ? -1 : 1
  if (exponent === 31) return fraction ? NaN : sign * Infinity
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : fraction * 2 ** -24)
}

/** The nearest float16, of two equally near ones the even one. */
function toHalf(value: number): number {
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0
  const size = Math.abs(value)
  if (!(size < 65520)) return sign | (size > 0 ? 0x7c00 : 0x7e00)
  const exponent = Math.max(-14, Math.floor(Math.log2(size || 1e-9)))
  return sign | (((exponent + 14) << 10) + roundEven(size / 2 ** (exponent - 10)))
}

/** Rounds to the nearest integer, of two equally near ones to the even one. */
export function roundEven(value: number): number {
  const low = Math.floor(value)
  return value - low === 0.5 ? low + (low & 1) : Math.round(value)
}
