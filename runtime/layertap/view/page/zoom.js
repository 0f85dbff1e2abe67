// One map, large: its values under the pointer, its statistics, and the maps beside it.

let zoomed = null // {values, layer, sample, at, over}

const place = (values, at) => (values.flat ? `position ${at % values.width}` : `row ${Math.floor(at / values.width)}, column ${at % values.width}`)

function openZoom(values, order, at, layer, sample) {
  zoomed = { values, order, at, layer, sample, over: false }
  drawZoom()
  if (!byId("zoom").open) byId("zoom").showModal()
}

function moveZoom(step) {
  zoomed.at = (zoomed.at + step + zoomed.order.length) % zoomed.order.length
  drawZoom()
}

function drawZoom() {
  const { values, order, at, layer, sample } = zoomed, channel = order[at], row = page.layers[layer]
  const readout = el("p", { class: "readout", role: "status" }), canvas = el("canvas", { class: values.flat ? "line" : undefined, "aria-label": `channel ${channel.index} of ${row.name}`, role: "img" })
  const [low, high] = state.scale === "layer" ? rangeOf(values) : [channel.low, channel.high]
  const picture = page.samples[sample].picture
  if (values.flat) sharp(canvas, (context, width, height) => drawLine(context, width, height, channel.values, low, high))
  else if (zoomed.over && picture) drawOver(canvas, channel, values, sample, low, high)
  else drawMap(canvas, channel.values, values.height, values.width, low, high, state.colormap)
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect()
    const x = Math.min(values.width - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * values.width)))
    const y = Math.min(values.height - 1, Math.max(0, Math.floor(((event.clientY - box.top) / box.height) * values.height)))
    const spot = y * values.width + x
    readout.textContent = `${place(values, spot)}: ${short(channel.values[spot])}`
  })
  const facts = [
    ["smallest", short(channel.smallest)], ["largest", short(channel.largest)], ["mean", short(channel.mean)],
    ["mean of |x|", short(channel.strength)], ["shape", values.shape.slice(1).join(" × ")],
  ]
  if (values.step > 1) facts.push(["shown", `means of ${values.step}${values.flat ? "" : ` × ${values.step}`} values`])
  if (!values.exact) facts.push(["exact to", short((channel.high - channel.low) / 508)])
  const list = el("dl", {})
  for (const [name, text] of facts) list.append(el("dt", {}, name), el("dd", {}, text))
  const dialog = byId("zoom")
  fill(dialog,
    el("div", { class: "head" },
      el("h2", {}, `Channel ${channel.index} `, named(`of ${row.name}`, "small")),
      el("button", { class: "plain", "aria-label": "previous channel", onclick: () => moveZoom(-1) }, "←"),
      el("button", { class: "plain", "aria-label": "next channel", onclick: () => moveZoom(1) }, "→"),
      el("button", { class: "plain", "aria-label": "close", onclick: () => dialog.close() }, "✕"),
    ),
    el("div", { class: "body" },
      el("div", { class: "stage" }, canvas),
      el("div", { class: "side" },
        values.flat ? el("p", { class: "scale" }, `${short(low)} to ${short(high)}`) : colourBar(state.colormap, [short(low), short(high)]),
        readout, list,
        picture && !values.flat ? check("over the picture", zoomed.over, (on) => ((zoomed.over = on), drawZoom())) : null,
        el("p", { class: "small soft" }, `${at + 1} of ${order.length} channels in the page. ← and → show the others, Esc closes.`),
      ),
    ),
  )
}

async function drawOver(canvas, channel, values, sample, low, high) {
  const range = high - low || 1
  const shares = { values: Float64Array.from(channel.values, (value) => (Number.isNaN(value) ? 0 : (value - low) / range)), sizes: [values.height, values.width] }
  await drawPicture(canvas, sample, shares, 0.85, state.colormap)
}
