/** The projection of feature maps onto their first principal component, with the sign along their sum. */

const STEPS = 100

/** `X v` for each position: the channels are centred, and `v` is the first right singular vector. */
export function principal(maps: Float64Array, channels: number): Float64Array {
  const count = maps.length / channels
  const mean = new Float64Array(channels)
  maps.forEach((value, i) => (mean[i % channels] += value / count))
  const x = maps.map((value, i) => value - mean[i % channels])
  if (x.some((value) => !Number.isFinite(value))) return new Float64Array(count).fill(NaN)
  const times = (v: Float64Array): Float64Array => {
    const out = new Float64Array(count)
    x.forEach((value, i) => (out[Math.floor(i / channels)] += value * v[i % channels]))
    return out
  }
  const back = (u: Float64Array): Float64Array => {
    const out = new Float64Array(channels)
    x.forEach((value, i) => (out[i % channels] += value * u[Math.floor(i / channels)]))
    return out
  }
  const projection = times(largest((v) => back(times(v)), channels))
  const along = projection.reduce((sum, value, at) => {
    let all = 0
    for (let k = 0; k < channels; k++) all += maps[at * channels + k]
    return sum + value * all
  }, 0)
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
