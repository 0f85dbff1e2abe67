// Drawing: colours, maps, lines, bars, heat maps over pictures.

const tables = Object.fromEntries(Object.entries(page.colormaps).map(([name, hex]) => [name, Uint8Array.from(hex.match(/../g), (two) => parseInt(two, 16))]))
tables.grey = Uint8Array.from({ length: 768 }, (_, at) => Math.floor(at / 3))
// Each shade as a number whose bytes, little-endian, are red, green, blue and 255.
const words = Object.fromEntries(Object.entries(tables).map(([name, table]) => [name, Uint32Array.from({ length: 256 }, (_, at) => table[3 * at] | (table[3 * at + 1] << 8) | (table[3 * at + 2] << 16) | (255 << 24))]))
const COLORMAPS = [["viridis", "viridis"], ["magma", "magma"], ["grey", "grey"]]

const styled = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim()

// Values of (height, width) as a canvas with one pixel for each; what is not finite is clear.
function drawMap(canvas, values, height, width, low, high, colormap) {
  canvas.width = width
  canvas.height = height
  const context = canvas.getContext("2d"), image = context.createImageData(width, height)
  const pixels = new Uint32Array(image.data.buffer), table = words[colormap], factor = high > low ? 256 / (high - low) : 0
  for (let at = 0; at < values.length; at++) {
    const value = values[at]
    if (value !== value) continue // NaN
    const shade = (value - low) * factor
    pixels[at] = table[shade >= 255 ? 255 : shade > 0 ? shade | 0 : 0]
  }
  context.putImageData(image, 0, 0)
  return canvas
}

function colourBar(colormap, text) {
  const canvas = el("canvas", { "aria-hidden": "true" })
  drawMap(canvas, Float64Array.from({ length: 256 }, (_, at) => at), 1, 256, 0, 256, colormap)
  return el("span", { class: "scale" }, text[0], canvas, text[1])
}

// A canvas whose pixels are those of the screen, drawn as soon as its size is known.
function sharp(canvas, draw) {
  const paint = () => {
    const ratio = window.devicePixelRatio || 1, { width, height } = canvas.getBoundingClientRect()
    if (!width || !height) return
    canvas.width = Math.round(width * ratio)
    canvas.height = Math.round(height * ratio)
    const context = canvas.getContext("2d")
    context.scale(ratio, ratio)
    draw(context, width, height)
  }
  new ResizeObserver(paint).observe(canvas)
  return canvas
}

// A heat map of a sequence as a ground, which is the stronger, the larger its values are.
function drawHeat(context, width, height, heat) {
  const table = tables.viridis
  for (let x = 0; x < width; x++) {
    const value = heat[Math.min(heat.length - 1, Math.floor((x / width) * heat.length))]
    const shade = Math.min(255, Math.floor(value * 256))
    context.fillStyle = `rgb(${table[3 * shade]} ${table[3 * shade + 1]} ${table[3 * shade + 2]} / ${0.75 * value})`
    context.fillRect(x, 0, 1, height)
  }
}

// The values of a sequence as a line from `low` to `high`.
function drawLine(context, width, height, values, low, high, heat) {
  const range = high - low || 1, step = width / Math.max(values.length, 1)
  const y = (value) => height - 4 - ((value - low) / range) * (height - 8)
  if (heat) drawHeat(context, width, height, heat)
  if (low < 0 && high > 0) {
    context.fillStyle = styled("--line")
    context.fillRect(0, y(0), width, 1)
  }
  context.strokeStyle = styled("--accent")
  context.lineWidth = 1.4
  context.beginPath()
  let drawing = false
  values.forEach((value, at) => {
    if (Number.isNaN(value)) return (drawing = false)
    const x = (at + 0.5) * step
    if (drawing) context.lineTo(x, y(value))
    else context.moveTo(x, y(value))
    drawing = true
  })
  context.stroke()
}

function drawBars(context, width, height, values, chosen) {
  let low = 0, high = 0
  for (const value of values) if (Number.isFinite(value)) (low = Math.min(low, value)), (high = Math.max(high, value))
  const range = high - low || 1, y = (value) => 8 + ((high - value) / range) * (height - 16), step = width / values.length
  values.forEach((value, at) => {
    if (!Number.isFinite(value)) return
    context.fillStyle = at === chosen ? styled("--warn") : styled("--bar")
    const top = Math.min(y(value), y(0)), size = Math.max(1, Math.abs(y(value) - y(0)))
    context.fillRect(at * step, top, Math.max(0.75, step * (step > 4 ? 0.85 : 1)), size)
  })
  context.fillStyle = styled("--soft")
  context.fillRect(0, y(0), width, 1)
}

// Bilinear resizing along each axis, as `layertap.cam.resize`.
function resized(values, sizes, wanted) {
  let now = Float64Array.from(values), shape = [...sizes]
  for (let axis = 0; axis < shape.length; axis++) {
    const old = shape[axis], size = wanted[axis]
    if (old === size) continue
    const outer = product(shape.slice(0, axis)), inner = product(shape.slice(axis + 1)), next = new Float64Array(outer * size * inner)
    for (let at = 0; at < size; at++) {
      const place = Math.min(old - 1, Math.max(0, ((at + 0.5) * old) / size - 0.5))
      const low = Math.min(Math.floor(place), Math.max(old - 2, 0)), high = Math.min(low + 1, old - 1), share = place - low
      for (let o = 0; o < outer; o++) for (let i = 0; i < inner; i++) {
        const a = now[(o * old + low) * inner + i], b = now[(o * old + high) * inner + i]
        next[(o * size + at) * inner + i] = a * (1 - share) + b * share
      }
    }
    now = next
    shape[axis] = size
  }
  return now
}

// A heat map as `Model.cam` gives it: negative values are 0, resized, the largest value is 1.
function finished(heat, wanted) {
  const map = resized(heat.values.map((value) => Math.max(value, 0)), heat.sizes, wanted)
  let peak = 0
  for (const value of map) if (value > peak) peak = value
  return peak > 0 ? map.map((value) => value / peak) : map
}

const pictures = new Map()

// A picture as an element; its pixels show if it is small.
function thumbnail(sample) {
  const { picture, width, height } = page.samples[sample]
  return picture ? el("img", { src: picture, alt: "", class: Math.max(width, height) < 96 ? "tiny" : undefined }) : null
}

function pictureOf(sample) {
  if (!pictures.has(sample)) {
    const image = new Image()
    image.src = page.samples[sample].picture
    pictures.set(sample, image.decode().then(() => image))
  }
  return pictures.get(sample)
}

// The picture of a sample; with a heat map, whose colours are the stronger, the larger its values.
async function drawPicture(canvas, sample, heat, opacity, colormap) {
  const image = await pictureOf(sample)
  const factor = Math.ceil(256 / Math.max(image.naturalWidth, image.naturalHeight))
  canvas.width = image.naturalWidth * factor
  canvas.height = image.naturalHeight * factor
  const context = canvas.getContext("2d")
  context.imageSmoothingEnabled = false
  context.drawImage(image, 0, 0, canvas.width, canvas.height)
  if (!heat || !opacity) return
  const map = finished(heat, [canvas.height, canvas.width]), table = tables[colormap]
  const layer = new ImageData(canvas.width, canvas.height)
  map.forEach((value, at) => {
    const shade = Math.min(255, Math.floor(value * 256))
    for (let k = 0; k < 3; k++) layer.data[4 * at + k] = table[3 * shade + k]
    layer.data[4 * at + 3] = Math.round(255 * opacity * value ** 0.75)
  })
  const over = new OffscreenCanvas(canvas.width, canvas.height)
  over.getContext("2d").putImageData(layer, 0, 0)
  context.drawImage(over, 0, 0)
}
