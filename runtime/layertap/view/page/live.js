// A page with the model inside: it reads pictures and computes what the views ask for.

const MOST_CHANNELS = 64
let model = null
const computed = new Map() // by what was asked for; the oldest is dropped
let working = true // until the engine has started; it does one thing at a time
const waiting = [] // the latest request is served first: it is what the user looks at

function once(key, compute) {
  if (!computed.has(key)) {
    const job = new Promise((resolve, reject) => waiting.push({ compute, resolve, reject }))
    computed.set(key, job)
    job.catch(() => computed.delete(key))
    if (computed.size > 48) computed.delete(computed.keys().next().value)
    work()
  }
  return computed.get(key)
}

async function work() {
  if (working) return
  working = true
  while (waiting.length) {
    const { compute, resolve, reject } = waiting.pop()
    await new Promise((resume) => setTimeout(resume)) // the page is drawn in between
    await compute().then(resolve, reject)
  }
  working = false
}

// The inputs of a sample, which are prepared when it is added.
const inputsOf = (sample) => ({ [page.live.input]: page.samples[sample].tensor })
const identity = (sample) => page.samples[sample].identity

source = {
  values: (layer, sample) => (page.samples[sample] ? once(`values ${layer} ${identity(sample)}`, () => layerValues(layer, sample)) : null),
  scores: (output, sample) => once(`scores ${identity(sample)}`, () => liveScores(sample)),
  heat: (method, target, sample) => once(`heat ${method.name} ${target} ${page.heat.layer} ${identity(sample)}`, () => liveHeat(method, target, sample)),
  has: (layer) => layer.hidden === undefined,
}

// A model of one Identity: with it the engine compiles, before a picture is there.
const SMALLEST = "CAg6NwoQCgF4EgF5IghJZGVudGl0eRIBZ1oPCgF4EgoKCAgBEgQKAggBYg8KAXkSCgoICAESBAoCCAFCBAoAEA0="

async function ready() {
  const began = performance.now()
  const ort = globalThis.onnxruntime
  ort.env.wasm.numThreads = 1
  ort.env.logLevel = "error"
  ort.env.wasm.wasmBinary = (await inflated(byId("wasm").textContent)).buffer
  await (await ort.InferenceSession.create(decoded(SMALLEST))).release()
  model = await globalThis.layertapClient.open(ort, decoded(byId("model").textContent), { session: { logSeverityLevel: 3 } })
  for (const sample of page.samples) {
    const bytes = await block(sample.input)
    sample.tensor = new ort.Tensor("float32", new Float32Array(bytes.buffer), sample.dims)
  }
  return performance.now() - began
}

let identities = 0
for (const sample of page.live ? page.samples : []) sample.identity = ++identities

async function liveScores(sample) {
  const found = await model.top(inputsOf(sample), 1e9, { preprocess: null })
  const list = Array.isArray(found[0]) ? found[0] : found
  return list.map(({ index, score }) => ({ index, score, name: className(index, page.scores[0].labels) }))
}

async function liveHeat(method, target, sample) {
  const options = { method: method.name, normalize: false, resize: false, target: method.byClass ? page.heat.classes[target] ?? "top" : "top" }
  const found = await model.cam(inputsOf(sample), page.heat.layer, options)
  return { values: Float64Array.from(found.data), sizes: found.dims.slice(-(found.dims.length > 2 ? found.dims.length - 2 : 2)) }
}

async function layerValues(layer, sample) {
  const { name, index } = page.layers[layer], began = performance.now()
  const tensor = await model.activations(inputsOf(sample), index ?? layer)
  const made = arranged(tensor, page.layers[layer].order ?? "")
  page.layers[layer].took = performance.now() - began
  performance.mark(`layertap ${name}`)
  return made
}

// A tensor as a page shows it: channels first, of the first sample; the strongest channels.
function arranged(tensor, order) {
  const dims = [...tensor.dims]
  if (tensor.type === "string") return { kind: "text", texts: [...tensor.data].slice(0, 200), shape: dims.slice(1) }
  const data = typeof tensor.data[0] === "bigint" ? Float64Array.from(tensor.data, Number) : tensor.data
  const letters = order.length === dims.length ? order : dims.length < 2 ? "N" : `N${"?".repeat(dims.length - 2)}C`
  const strides = dims.map((_, axis) => product(dims.slice(axis + 1)))
  let axes = dims.map((_, axis) => axis).filter((axis) => letters[axis] !== "N")
  const channel = axes.find((axis) => letters[axis] === "C"), alone = axes.length === 2 && channel === undefined
  if (channel !== undefined) axes = [channel, ...axes.filter((axis) => axis !== channel)]
  const sizes = axes.map((axis) => dims[axis]), shape = alone ? [1, ...sizes] : sizes, stats = statisticsOf(data, product(shape))
  if (axes.length < 2 || product(shape.slice(1)) === 1) {
    return { kind: "vector", values: data.slice(0, product(shape)), indices: null, stats, shape: [product(shape)] }
  }
  const space = axes.slice(alone ? 0 : 1), shown = space.slice(-2), before = space.slice(0, -2), cut = before.map((axis) => Math.floor(dims[axis] / 2))
  const view = {
    data, count: shape[0], step: alone ? 0 : strides[axes[0]], base: before.reduce((sum, axis, k) => sum + cut[k] * strides[axis], 0),
    height: shown.length > 1 ? dims[shown[0]] : 1, width: dims[shown.at(-1)], down: shown.length > 1 ? strides[shown[0]] : 0, right: strides[shown.at(-1)],
  }
  return {
    kind: "maps", channels: strongest(view, page.live.channels ?? MOST_CHANNELS), height: view.height, width: view.width, flat: shown.length === 1, step: 1, exact: true, stats,
    shape: [shape[0], ...shown.map((axis) => dims[axis])], cut: cut.length ? cut : undefined, sizes: before.map((axis) => dims[axis]),
  }
}

// The channels with the largest mean absolute value. One pass in the order of the memory.
function strongest({ data, count, step, base, height, width, down, right }, most) {
  const lows = new Float64Array(count).fill(Infinity), highs = new Float64Array(count).fill(-Infinity), sums = new Float64Array(count), sizes = new Float64Array(count), pixels = height * width
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) for (let k = 0, at = base + y * down + x * right; k < count; k++, at += step) {
    const value = data[at]
    if (value < lows[k]) lows[k] = value
    if (value > highs[k]) highs[k] = value
    sums[k] += value
    sizes[k] += value < 0 ? -value : value
  }
  const rank = sizes.map((size) => (Number.isNaN(size) ? -1 : size))
  const order = Array.from(rank.keys()).sort((a, b) => (rank[a] === rank[b] ? a - b : rank[b] - rank[a]))
  const kept = order.slice(0, most), maps = kept.map(() => new Float64Array(pixels))
  for (let y = 0, spot = 0; y < height; y++) for (let x = 0; x < width; x++, spot++) {
    const first = base + y * down + x * right // again in the order of the memory
    for (let k = 0; k < kept.length; k++) maps[k][spot] = data[first + kept[k] * step]
  }
  return kept.map((index, k) => {
    const values = maps[k], finite = Number.isFinite(sums[index])
    let low = lows[index], high = highs[index]
    if (!finite) {
      low = Infinity
      high = -Infinity
      values.forEach((value, at) => {
        if (!Number.isFinite(value)) values[at] = NaN
        else (low = Math.min(low, value)), (high = Math.max(high, value))
      })
      if (low > high) low = high = 0
    }
    return { index, low, high, smallest: lows[index], largest: highs[index], mean: sums[index] / pixels, strength: sizes[index] / pixels, values }
  })
}

function statisticsOf(data, count) {
  let low = Infinity, high = -Infinity, sum = 0, zeros = 0
  for (let at = 0; at < count; at++) {
    const value = data[at]
    if (value < low) low = value
    if (value > high) high = value
    if (value === 0) zeros++
    sum += value
  }
  let bad = 0
  if (!Number.isFinite(sum)) for (let at = 0; at < count; at++) if (!Number.isFinite(data[at])) bad++
  return { size: count, low, high, mean: sum / count, zeros, bad }
}

// --- Pictures -----------------------------------------------------------------------------------

// Add a picture: bytes of a file, or what a browser can draw.
async function addPicture(image, name) {
  const { live } = page, client = globalThis.layertapClient
  const tensor = await model.prepare(image, { preprocess: live.recipe })
  const seen = { ...live.recipe, scaling: null, color_mode: "rgb", depth: "scale", channels: "last" }
  const pixels = await client.prepare(seen, image).catch(() => client.prepare({ ...seen, depth: "clip" }, image))
  page.samples.push({ name, tensor, identity: ++identities, origin: "image", picture: asPicture(pixels), width: pixels.width, height: pixels.height })
  state.sample = page.samples.length - 1
}

function asPicture({ data, width, height, channels }) {
  const canvas = el("canvas", {}), image = new ImageData(width, height)
  canvas.width = width
  canvas.height = height
  for (let at = 0; at < width * height; at++) {
    for (let k = 0; k < 3; k++) image.data[4 * at + k] = Math.round(data[at * channels + Math.min(k, channels - 1)])
    image.data[4 * at + 3] = 255
  }
  canvas.getContext("2d").putImageData(image, 0, 0)
  return canvas.toDataURL()
}

let notices = []

async function addFiles(files) {
  notices = []
  for (const file of files) {
    try {
      await addPicture(new Uint8Array(await file.arrayBuffer()), file.name)
    } catch (problem) {
      notices.push(`${file.name}: ${problem.message}`)
    }
  }
  await chooseBest()
  drawHeader()
  drawTree()
  show()
}

// The class of the heat maps is that with the best score of the new picture.
async function chooseBest() {
  if (!page.heat || !page.samples.length) return
  const [best] = await scoresOf(page.scores[0], state.sample).catch(() => [])
  if (best) state.target = Math.max(0, page.heat.classes.indexOf(best.index))
}

function clearPictures() {
  page.samples.length = 0
  pictures.clear()
  computed.clear()
  notices = []
  Object.assign(state, { sample: 0, all: false })
  drawHeader()
  drawTree()
  show()
}

function liveControls() {
  const input = el("input", { type: "file", multiple: true, accept: "image/*", class: "hidden", "aria-label": "pictures", onchange: () => addFiles([...input.files]) })
  return el("div", { class: "drop" },
    el("p", {}, model ? "Drop pictures anywhere on this page; they do not leave it." : "The engine starts ..."),
    el("div", { class: "controls" },
      input,
      el("button", { class: "plain", disabled: !model, onclick: () => input.click() }, "Choose pictures"),
      navigator.mediaDevices?.getUserMedia ? el("button", { class: "plain", disabled: !model, onclick: openCamera }, "Camera") : null,
      page.samples.length ? el("button", { class: "plain", onclick: clearPictures }, "Remove all") : null,
    ),
    ...notices.map((text) => el("p", { class: "notice warn", role: "alert" }, text)),
  )
}

async function openCamera() {
  const dialog = byId("help"), video = el("video", { autoplay: true, muted: true, playsinline: true, "aria-label": "camera" })
  let stream
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: true })
  } catch (problem) {
    notices = [`The camera cannot be used: ${problem.message}.`]
    return show()
  }
  video.srcObject = stream
  const stop = () => stream.getTracks().forEach((track) => track.stop())
  dialog.addEventListener("close", stop, { once: true })
  const take = async () => {
    const frame = await createImageBitmap(video)
    dialog.close()
    try {
      await addPicture(frame, `camera ${page.samples.length + 1}`)
    } catch (problem) {
      notices = [problem.message]
    }
    await chooseBest()
    drawHeader()
    show()
  }
  fill(dialog, el("h2", {}, "Camera"), video, el("p", { class: "controls" }, el("button", { class: "plain", onclick: take }, "Take the picture"), el("button", { class: "plain", onclick: () => dialog.close() }, "Close")))
  dialog.showModal()
}

function prepareDrops() {
  const over = (on) => document.body.classList.toggle("dropping", on)
  document.addEventListener("dragover", (event) => (event.preventDefault(), over(true)))
  document.addEventListener("dragleave", (event) => event.relatedTarget === null && over(false))
  document.addEventListener("drop", (event) => {
    event.preventDefault()
    over(false)
    if (model) addFiles([...event.dataTransfer.files])
  })
}

// The first chosen target is the best class; errors of the engine are shown in the overview.
async function startLive() {
  prepareDrops()
  try {
    const took = await ready()
    Object.assign(globalThis.layertap, { readyAfter: took, readyAt: performance.now() })
    Object.assign(globalThis.layertap, { model, arranged })
    working = false
    work()
  } catch (problem) {
    notices = [`The model cannot be run here: ${problem.message}`]
    console.error(problem)
  }
  drawHeader()
  show()
}
