/** The projection of feature maps onto their first principal component, with the sign along their sum. */

const STEPS = 100
/** Between two looks at whether the steps are enough. */
const EVERY = 8
/** The residual at which they are, as a share of the largest eigenvalue. */
const ENOUGH = 1e-13

/** `X v` for each position: the channels are centred, and `v` is the first right singular vector. */
export function principal(maps: Float64Array, channels: number): Float64Array {
  const count = maps.length / channels
  const mean = new Float64Array(channels)
  for (let at = 0; at < maps.length; at += channels) for (let k = 0; k < channels; k++) mean[k] += maps[at + k] / count
  if (!mean.every(Number.isFinite)) return new Float64Array(count).fill(NaN)
  const at = (from: number, v: Float64Array): number => {
    let sum = 0
    for (let k = 0; k < channels; k++) sum += (maps[from + k] - mean[k]) * v[k]
    return sum
  }
  // The transpose of X times X, in one pass over the values.
  const squared = (v: Float64Array): Float64Array => {
    const out = new Float64Array(channels)
    for (let from = 0; from < maps.length; from += channels) {
      const u = at(from, v)
      for (let k = 0; k < channels; k++) out[k] += u * (maps[from + k] - mean[k])
    }
    return out
  }
  const v = largest(squared, channels)
  const projection = new Float64Array(count)
  let along = 0
  for (let p = 0; p < count; p++) {
    projection[p] = at(p * channels, v)
    let all = 0
    for (let k = 0; k < channels; k++) all += maps[p * channels + k]
    along += projection[p] * all
  }
  return along >= 0 ? projection : projection.map((value) => -value)
}

const dot = (a: Float64Array, b: Float64Array): number => a.reduce((sum, value, i) => sum + value * b[i], 0)

/** The eigenvector of the largest eigenvalue of a symmetric matrix of some size, by Lanczos's method. */
function largest(apply: (v: Float64Array) => Float64Array, size: number): Float64Array {
  let v: Float64Array = Float64Array.from({ length: size }, (_, i) => 1 + Math.sin(i + 1)) // nothing special
  const basis: Float64Array[] = []
  const diagonal: number[] = []
  const beside: number[] = []
  while (basis.length < Math.min(size, STEPS)) {
    const norm = Math.sqrt(dot(v, v))
    if (!(norm > 1e-14 * (diagonal[0] || 1e-280))) break
    if (basis.length) beside.push(norm)
    v = v.map((value) => value / norm)
    basis.push(v)
    const next = apply(v)
    diagonal.push(dot(v, next))
    for (let round = 0; round < 2; round++)
      for (const one of basis) {
        const part = dot(one, next)
        next.forEach((_, i) => (next[i] -= part * one[i]))
      }
    v = next
    if (basis.length % EVERY) continue
    const residual = Math.sqrt(dot(v, v)) * Math.abs(tridiagonal(diagonal, beside).at(-1)!)
    if (residual < ENOUGH * Math.max(...diagonal)) break
  }
  const weights = tridiagonal(diagonal, beside)
  const out = new Float64Array(size)
  basis.forEach((one, j) => one.forEach((value, i) => (out[i] += weights[j] * value)))
  const norm = Math.sqrt(dot(out, out)) || 1
  return out.map((value) => value / norm)
}

/** The eigenvector of the largest eigenvalue of a symmetric tridiagonal matrix: bisection, then inverse iteration. */
function tridiagonal(diagonal: number[], beside: number[]): number[] {
  const n = diagonal.length
  const radius = diagonal.map((one, i) => one + Math.abs(beside[i - 1] ?? 0) + Math.abs(beside[i] ?? 0))
  let [low, high] = [Math.max(...diagonal), Math.max(...radius)]
  const isAbove = (x: number): boolean => {
    let pivot = 1
    for (let i = 0; i < n; i++) {
      pivot = diagonal[i] - x - (i ? beside[i - 1] ** 2 / pivot : 0)
      if (!(pivot < 0)) return false
    }
    return true
  }
  for (let i = 0; i < 200; i++) {
    const middle = (low + high) / 2
    if (isAbove(middle)) high = middle
    else low = middle
  }
  let vector = diagonal.map(() => 1)
  const shift = high + Math.abs(high) * 1e-15 + 1e-300
  for (let round = 0; round < 4; round++) {
    const [pivots, right] = [[] as number[], [] as number[]]
    for (let i = 0; i < n; i++) {
      const share = i ? beside[i - 1] / pivots[i - 1] : 0
      pivots[i] = diagonal[i] - shift - (i ? share * beside[i - 1] : 0) || -1e-300
      right[i] = vector[i] - (i ? share * right[i - 1] : 0)
    }
    for (let i = n - 1; i >= 0; i--) right[i] = (right[i] - (i < n - 1 ? beside[i] * right[i + 1] : 0)) / pivots[i]
    const norm = Math.hypot(...right) || 1
    vector = right.map((value) => value / norm)
  }
  return vector
}
