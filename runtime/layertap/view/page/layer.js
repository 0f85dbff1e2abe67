// One layer: its facts, and its values as maps, lines or bars, for one sample or for all.

const rangeOf = (values) => {
  const lows = values.channels.map((one) => one.low), highs = values.channels.map((one) => one.high)
  return [Math.min(...lows), Math.max(...highs)]
}

const SORTS = [["strength", "strongest first"], ["index", "by number"], ["largest", "by largest value"]]

function sorted(channels) {
  const order = [...channels]
  if (state.sort === "index") order.sort((a, b) => a.index - b.index)
  else order.sort((a, b) => (Number.isNaN(a[state.sort]) ? 1 : Number.isNaN(b[state.sort]) ? -1 : b[state.sort] - a[state.sort] || a.index - b.index))
  return order
}

const FIRST = 24 // maps that are drawn at once

let turn = 0 // of a view that has been left, nothing is drawn any more

async function showLayer(main) {
  const mine = ++turn, layer = page.layers[state.layer]
  if (!layer) return fill(main, el("p", { class: "notice" }, "Choose a layer."))
  const head = [el("h2", {}, named(layer.name)), layerFacts(layer)]
  if (!page.samples.length) return fill(main, ...head, page.live ? el("p", { class: "notice" }, "Add a picture in the overview to see the values of this layer.") : null)
  if (!stored(layer)) {
    const reason = layer.hidden ? `The file does not contain its values: ${layer.hidden}.` : "Its values are not in this page. "
    const hint = layer.hidden ? null : el("code", {}, `layertap view ${page.file} ... --layers ${quoted(layer.name)}`)
    return fill(main, ...head, el("p", { class: "notice" }, reason, hint, hint ? " makes a page that has them." : ""))
  }
  const all = state.all && page.samples.length > 1
  const wanted = all ? page.samples.map((_, at) => at) : [state.sample]
  if (page.live) fill(main, ...head, chips(), el("p", { class: "soft", role: "status" }, "computing ..."))
  let values
  try {
    values = await Promise.all(wanted.map((sample) => valuesOf(state.layer, sample)))
  } catch (problem) {
    if (mine === turn) fill(main, ...head, chips(), el("p", { class: "notice warn", role: "alert" }, problem.message))
    return
  }
  if (mine !== turn) return
  const first = values.find((one) => one)
  const parts = [...head, chips()]
  if (!first) parts.push(el("p", { class: "notice" }, "There are no values for this sample."))
  else if (first.kind === "text") parts.push(...texts(values[0] ?? first))
  else if (first.kind === "vector") parts.push(...values.flatMap((one, at) => (one ? vectorParts(layer, one, wanted[at], all) : [])))
  else parts.push(...mapParts(values, wanted, all))
  fill(main, ...parts)
}

const quoted = (text) => (/^[\w./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`)

function layerFacts(layer) {
  const fact = (name, ...children) => el("span", {}, el("b", {}, `${name} `), ...children)
  const row = el("div", { class: "facts-row" }, fact("class", named(layer.type)), fact("shape", el("code", {}, layer.shape)), layer.dtype ? fact("dtype", layer.dtype) : null)
  if (layer.parameters) row.append(fact("parameters", whole(layer.parameters)))
  if (layer.axes) row.append(fact("axes", layer.axes))
  if (layer.error !== undefined) row.append(fact(`error against ${page.verification.reference}`, error(layer.error)))
  if (layer.from.length) {
    const links = layer.from.slice(0, 12).flatMap((index, at) => [at ? ", " : "", layerLink(page.layers[index].name)])
    row.append(fact("fed by", ...links, layer.from.length > 12 ? ` and ${layer.from.length - 12} more` : ""))
  }
  return row
}

function chips() {
  const list = el("div", { class: "chips", role: "group", "aria-label": "Samples" })
  if (page.samples.length > 1) {
    list.append(el("button", { class: "chip all", "aria-pressed": String(state.all), onclick: () => ((state.all = true), show()) }, el("span", {}, "all"), el("span", { class: "soft" }, "side by side")))
  }
  page.samples.forEach((sample, at) => {
    const choose = () => ((state.all = false), (state.sample = at), show())
    list.append(el("button", { class: "chip", "aria-pressed": String(!state.all && state.sample === at), onclick: choose, title: sample.name }, thumbnail(at), named(sample.name)))
  })
  return list
}

function stats(values) {
  const { low, high, mean, zeros, bad, size } = values.stats, parts = [`smallest ${short(low)}`, `mean ${short(mean)}`, `largest ${short(high)}`]
  if (zeros) parts.push(`${((100 * zeros) / size).toFixed(1)} % zeros`)
  if (bad) parts.push(`${plural(bad, "value")} NaN or infinite`)
  return `${plural(size, "value")} (${values.shape.join(" × ")}): ${parts.join(", ")}`
}

function mapParts(values, wanted, all) {
  const first = values.find((one) => one), redraw = () => show()
  const controls = el("div", { class: "controls", role: "group", "aria-label": "Maps" },
    choice("Order", SORTS, state.sort, (value) => ((state.sort = value), redraw())),
    choice("Scale", [["map", "of each map"], ["layer", "of the layer"]], state.scale, (value) => ((state.scale = value), redraw())),
    first.flat ? null : choice("Colours", COLORMAPS, state.colormap, (value) => ((state.colormap = value), redraw())),
    slider("Size", 56, 288, 8, state.tile, (value) => {
      state.tile = value
      document.querySelectorAll(".sized").forEach((one) => one.style.setProperty("--tile", `${value}px`))
    }),
  )
  const notes = [`${first.channels.length} of ${plural(first.shape[0], "channel")} in the page${first.channels.length < first.shape[0] ? ", the strongest over the samples" : ""}.`]
  if (first.step > 1) notes.push(first.flat ? `Each point is the mean of ${first.step} values.` : `Each square is the mean of ${first.step} × ${first.step} values.`)
  if (first.cut) notes.push(`Shown is the slice ${first.cut.join(", ")} of ${first.sizes.join(" × ")}.`)
  if (!first.exact) notes.push("Values have 255 levels between a map's smallest and largest.")
  const range = state.scale === "layer" ? commonRange(values) : null
  const bar = range ? (first.flat ? `${short(range[0])} to ${short(range[1])}` : colourBar(state.colormap, range.map(short))) : first.flat ? "each line from its smallest to its largest value" : colourBar(state.colormap, ["smallest", "largest of each map"])
  const summary = all ? [] : [el("p", { class: "number" }, stats(first))]
  const grid = all ? sideBySide(values, wanted, range) : maps(first, wanted[0], range)
  return [...summary, controls, el("p", { class: "scale" }, bar), grid, el("p", { class: "small soft" }, notes.join(" "))]
}

function commonRange(values) {
  const ranges = values.filter(Boolean).map(rangeOf)
  return [Math.min(...ranges.map((one) => one[0])), Math.max(...ranges.map((one) => one[1]))]
}

function tile(values, order, at, sample, range) {
  const channel = order[at], canvas = el("canvas", { "aria-hidden": "true" }), [low, high] = range ?? [channel.low, channel.high]
  if (values.flat) {
    canvas.style.height = "4.5rem"
    sharp(canvas, (context, width, height) => drawLine(context, width, height, channel.values, low, high))
  } else {
    // What may be below the edge of the window is drawn after the page is seen.
    const draw = () => drawMap(canvas, channel.values, values.height, values.width, low, high, state.colormap)
    if (at < FIRST) draw()
    else ((canvas.width = values.width), (canvas.height = values.height), setTimeout(draw))
  }
  const label = `channel ${channel.index}, from ${short(channel.smallest)} to ${short(channel.largest)}, mean ${short(channel.mean)}`
  return el("button", { class: "tile", "aria-label": label, title: label, onclick: () => openZoom(values, order, at, state.layer, sample) },
    canvas, el("span", { class: "under", "aria-hidden": "true" }, el("b", {}, channel.index), el("span", { class: "number" }, short(channel.largest))))
}

function maps(values, sample, range) {
  const order = sorted(values.channels), grid = el("div", { class: "grid sized" })
  grid.style.setProperty("--tile", `${state.tile}px`)
  grid.append(...order.map((_, at) => tile(values, order, at, sample, range)))
  return grid
}

// A row for each channel, a column for each sample.
function sideBySide(values, wanted, range) {
  const first = values.find((one) => one), rows = sorted(first.channels).map((one) => one.index)
  const head = el("tr", {}, el("th", { scope: "col" }, "channel"))
  wanted.forEach((at) => {
    const sample = page.samples[at]
    head.append(el("th", { scope: "col", title: sample.name }, thumbnail(at), named(sample.name)))
  })
  const body = el("tbody", {})
  for (const index of rows) {
    const row = el("tr", {}, el("th", { scope: "row" }, index))
    values.forEach((one, k) => {
      const order = one ? rows.map((number) => one.channels.find((channel) => channel.index === number)).filter(Boolean) : []
      const at = order.findIndex((channel) => channel.index === index)
      row.append(el("td", {}, at < 0 ? "" : tile(one, order, at, wanted[k], range)))
    })
    body.append(row)
  }
  const box = el("div", { class: "rows sized", tabindex: "0", role: "region", "aria-label": "Maps of all samples" }, el("table", {}, el("thead", {}, head), body))
  box.style.setProperty("--tile", `${state.tile}px`)
  return box
}

function texts(values) {
  return [el("p", { class: "small soft" }, `${plural(values.texts.length, "text")} of shape ${values.shape.join(" × ")}`), el("ol", { class: "plain-list" }, ...values.texts.map((text) => el("li", {}, named(text))))]
}

function vectorParts(layer, values, sample, all) {
  const labels = page.scores?.[0]?.labels && page.scores[0].output === layer.name ? page.labels : null
  const number = (at) => (values.indices ? values.indices[at] : at)
  const name = (at) => (labels ? `${number(at)}, ${labels[number(at)]}` : String(number(at)))
  const readout = el("p", { class: "readout", role: "status" }, " "), canvas = el("canvas", { role: "img", "aria-label": `values of ${layer.name}` })
  const plain = Array.from(values.values)
  let chosen = -1, draw = () => {}
  sharp(canvas, (context, width, height) => {
    draw = () => (context.clearRect(0, 0, width, height), drawBars(context, width, height, plain, chosen))
    draw()
  })
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect()
    chosen = Math.min(plain.length - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * plain.length)))
    readout.textContent = `${name(chosen)}: ${short(plain[chosen])}`
    draw()
  })
  const order = plain.map((value, at) => at).filter((at) => Number.isFinite(plain[at])).sort((a, b) => plain[b] - plain[a])
  const rows = order.slice(0, all ? 3 : 12).map((at) => el("tr", {}, el("td", { class: "name" }, name(at)), el("td", { class: "right" }, String(plain[at]))))
  return [
    all ? el("h3", {}, named(page.samples[sample].name)) : null,
    el("p", { class: "number" }, stats(values)),
    values.indices ? el("p", { class: "small soft" }, `The ${whole(plain.length)} values that are largest without their sign are in the page.`) : null,
    el("div", { class: "bars" }, canvas), readout,
    rows.length ? el("table", { class: "plain-table narrow" }, el("thead", {}, el("tr", {}, el("th", { scope: "col" }, labels ? "class" : "index"), el("th", { class: "right", scope: "col" }, "value, the largest first"))), el("tbody", {}, ...rows)) : null,
  ].filter(Boolean)
}
