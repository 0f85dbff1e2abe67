// What is in the page: the JSON, and blocks of bytes that are unpacked when they are needed.
// A page with the model inside computes instead; `source` is where the views get values from.

const page = JSON.parse(byId("data").textContent)
const unpacked = new Map()

function block(at) {
  if (!unpacked.has(at)) unpacked.set(at, inflated(byId(`block${at}`).textContent))
  return unpacked.get(at)
}

// Browsers since 2025 have a fast way.
const decoded = (text) => (Uint8Array.fromBase64 ? Uint8Array.fromBase64(text) : Uint8Array.from(atob(text), (one) => one.charCodeAt(0)))

async function inflated(text) {
  const bytes = decoded(text)
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))
  return new Uint8Array(await new Response(stream).arrayBuffer())
}

// The bytes may begin anywhere, so they are copied.
const floats = (bytes, at, count) => new Float32Array(bytes.slice(at, at + 4 * count).buffer)

const HEADS = 6 // low, high, smallest, largest, mean, strength
const blocksOf = (sizes, step) => sizes.map((size) => Math.ceil(size / step))
const product = (sizes) => sizes.reduce((a, b) => a * b, 1)

// The number of bytes that one sample's part takes in the block of its layer.
function bytesOf(part) {
  if (part.count !== undefined) {
    return part.count * (4 * HEADS + product(blocksOf(part.shape.slice(1), part.step)))
  }
  if (part.dtype === undefined) return 0
  const size = part.dtype === "f8" ? 8 : 4
  return part.kept === undefined ? size * part.shape[0] : part.kept * (size + 4)
}

// A layer's values for one sample: {kind: "maps", channels, ...}, {kind: "vector", values, ...},
// {kind: "text", texts}; null if they are not in the page.
async function storedValues(layer, sample) {
  const stored = page.layers[layer].maps, part = stored?.samples[sample]
  if (!part || !part.shape) return null
  if (part.texts) return { kind: "text", texts: part.texts, shape: part.shape }
  const bytes = await block(stored.block)
  let at = 0
  for (let before = 0; before < sample; before++) at += bytesOf(stored.samples[before])
  return part.count === undefined ? vectorOf(part, bytes, at) : mapsOf(stored, part, bytes, at)
}

function vectorOf(part, bytes, at) {
  const count = part.kept ?? part.shape[0]
  let indices = null
  if (part.kept !== undefined) {
    indices = new Uint32Array(bytes.slice(at, at + 4 * count).buffer)
    at += 4 * count
  }
  const kind = part.dtype === "f8" ? Float64Array : Float32Array
  const values = new kind(bytes.slice(at, at + kind.BYTES_PER_ELEMENT * count).buffer)
  return { kind: "vector", values, indices, stats: part.stats, shape: part.shape }
}

function mapsOf(stored, part, bytes, at) {
  const count = part.count, sizes = blocksOf(part.shape.slice(1), part.step), pixels = product(sizes)
  const heads = Array.from({ length: HEADS }, (_, k) => floats(bytes, at + 4 * count * k, count))
  const start = at + 4 * count * HEADS, numbers = part.channels ?? stored.channels
  const channels = Array.from({ length: count }, (_, k) => {
    const [low, high, smallest, largest, mean, strength] = heads.map((head) => head[k])
    const levels = bytes.subarray(start + k * pixels, start + (k + 1) * pixels)
    const step = (high - low) / 254
    const values = Float64Array.from(levels, (level) => (level === 255 ? NaN : low + level * step))
    return { index: numbers[k], low, high, smallest, largest, mean, strength, values }
  })
  const height = sizes.length > 1 ? sizes[0] : 1, width = sizes.at(-1)
  const flat = sizes.length === 1
  return { kind: "maps", channels, height, width, flat, step: part.step, stats: part.stats, shape: part.shape, cut: part.cut, sizes: part.sizes }
}

// The scores of one sample: [{index, name, score}], the best first.
async function storedScores(output, sample) {
  const table = floats(await block(output.block), 4 * output.classes * sample, output.classes)
  const scores = Array.from(table, (score, index) => ({ index, score, name: className(index, output.labels) }))
  return scores.sort((a, b) => (Number.isNaN(a.score) ? 1 : Number.isNaN(b.score) ? -1 : b.score - a.score || a.index - b.index))
}

const className = (index, labels) => (labels && page.labels[index] !== undefined ? page.labels[index] : `class ${index}`)

// A heat map as the formula gives it: {values, sizes}; what `layertap.cam` does not normalize.
async function storedHeat(method, target, sample) {
  const bytes = await block(method.block), column = method.byClass ? target : 0
  let at = 0
  for (let before = 0; before < sample; before++) at += 4 * method.targets * product(method.sizes[before])
  const sizes = method.sizes[sample], size = product(sizes)
  return { values: floats(bytes, at + 4 * size * column, size), sizes }
}

let source = {
  values: storedValues, scores: storedScores, heat: storedHeat,
  has: (layer) => layer.maps !== undefined,
}
const valuesOf = (layer, sample) => source.values(layer, sample)
const scoresOf = (output, sample) => source.scores(output, sample)
const heatOf = (method, target, sample) => source.heat(method, target, sample)
