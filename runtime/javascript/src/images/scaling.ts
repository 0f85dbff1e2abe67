/**
 * The scaling of pixels at the end of a recipe, bit for bit as in Keras: the order of the operations
 * and their precision are part of the recipe.
 */

type PerChannel = number | readonly number[]

export type Scaling =
  | { readonly mode: "standardize"; readonly mean: PerChannel; readonly std: PerChannel }
  | { readonly mode: "samplewise"; readonly epsilon?: number }
  | { readonly mode: "rescale"; readonly scale: PerChannel; readonly offset?: PerChannel }
  | { readonly mode: "tf" | "torch" | "caffe" }

const f = Math.fround
const TORCH_MEAN = [0.485, 0.456, 0.406].map(f)
const TORCH_STD = [0.229, 0.224, 0.225].map(f)
const CAFFE_MEAN = [103.939, 116.779, 123.68].map(f) // of blue, green, red

const of = (value: PerChannel, channel: number): number => (typeof value === "number" ? value : value[channel])

/** Pixels `(h, w, channels)` of one image, scaled. */
export function scale(data: Float32Array, channels: number, scaling: Scaling | null | undefined): Float32Array {
  if (!scaling) return data
  if (scaling.mode === "samplewise") return samplewise(data, f(scaling.epsilon ?? 1e-6))
  const formulas = Array.from({ length: channels }, (_, channel) => formula(scaling, channel))
  if (scaling.mode === "caffe") return data.map((_, i) => formulas[i % 3](data[i + 2 - 2 * (i % 3)]))
  return data.map((value, i) => formulas[i % channels](value))
}

/** The formula for one channel; the result is rounded to float32 when it is stored. */
function formula(scaling: Exclude<Scaling, { mode: "samplewise" }>, channel: number): (value: number) => number {
  if (scaling.mode === "standardize") {
    const [mean, std] = [of(scaling.mean, channel), of(scaling.std, channel)]
    return (value) => (value - mean) / std
  }
  if (scaling.mode === "rescale") {
    const [factor, offset] = [f(of(scaling.scale, channel)), f(of(scaling.offset ?? 0, channel))]
    return (value) => f(value * factor) + offset
  }
  if (scaling.mode === "tf") return (value) => f(value / 127.5) - 1
  if (scaling.mode === "torch") return (value) => f(f(value / 255) - TORCH_MEAN[channel]) / TORCH_STD[channel]
  return (value) => value - CAFFE_MEAN[channel]
}

function samplewise(data: Float32Array, epsilon: number): Float32Array {
  const average = (values: Float32Array): number => f(sum(values, 0, values.length) / values.length)
  const mean = average(data)
  const centred = data.map((value) => value - mean)
  const rest = average(centred)
  const squares = centred.map((value) => f(value - rest) * f(value - rest))
  const deviation = f(f(Math.sqrt(average(squares))) + epsilon)
  return centred.map((value) => value / deviation)
}

/** The sum in float32 in numpy's order: pairs of halves, and eight sums side by side in blocks of 128. */
function sum(values: Float32Array, from: number, count: number): number {
  if (count > 128) {
    const half = (count >> 1) - ((count >> 1) % 8)
    return f(sum(values, from, half) + sum(values, from + half, count - half))
  }
  const whole = count < 8 ? 0 : count - (count % 8)
  const r = values.slice(from, from + 8)
  for (let i = 8; i < whole; i++) r[i % 8] += values[from + i]
  let total = whole ? f(f(f(r[0] + r[1]) + f(r[2] + r[3])) + f(f(r[4] + r[5]) + f(r[6] + r[7]))) : 0
  for (let i = whole; i < count; i++) total = f(total + values[from + i])
  return total
}
