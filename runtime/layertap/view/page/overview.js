// All samples side by side: pictures with heat maps, and scores.

function heatControls(redraw) {
  const heat = page.heat
  if (!heat) return null
  const method = chosenMethod(), classes = heat.classes.map((index, at) => [at, className(index, heat.labels)])
  return el("div", { class: "controls", role: "group", "aria-label": "Heat maps" },
    choice("Heat map", [["", "none"], ...heat.methods.map((one) => [one.name, one.name])], state.method, (name) => ((state.method = name), redraw())),
    heat.layers?.length > 1 ? choice("at the layer", heat.layers.map((name) => [name, name]), heat.layer, (name) => ((heat.layer = name), redraw())) : null,
    method?.byClass && classes.length ? choice("of the class", classes, state.target, (at) => ((state.target = Number(at)), redraw())) : null,
    method ? slider("Strength", 0, 1, 0.05, state.opacity, (value) => ((state.opacity = value), drawCards())) : null,
    method ? choice("Colours", COLORMAPS, state.heatColours, (name) => ((state.heatColours = name), redraw())) : null,
  )
}

const chosenMethod = () => page.heat?.methods.find((method) => method.name === state.method)

function showOverview(main) {
  const redraw = () => show()
  const heat = page.heat, method = chosenMethod(), parts = []
  if (page.live) parts.push(liveControls())
  if (!page.samples.length && page.live) return fill(main, ...parts)
  if (!page.samples.length) {
    parts.push(el("p", { class: "notice" }, "This page has no images or other samples. It shows the layers, the verification, and what the file says about itself."))
    return fill(main, ...parts, ...summaryParts())
  }
  const controls = heatControls(redraw)
  if (controls) parts.push(controls)
  if (method) {
    const what = method.byClass && heat.classes.length ? ` for ${className(heat.classes[state.target], heat.labels)}` : ", the same for every class"
    parts.push(el("p", { class: "small soft" }, `${method.name} at the layer `, layerLink(heat.layer), `${what}. Negative values are 0, the largest value is 1.`, method.step > 1 ? ` Of a large map the means of ${method.step} × ${method.step} values are in the page.` : ""))
  }
  parts.push(el("div", { class: "cards" }, ...page.samples.map((sample, at) => card(sample, at))))
  fill(main, ...parts)
  drawCards()
}

function layerLink(name) {
  const index = page.layers.findIndex((layer) => layer.name === name)
  return index < 0 ? named(name, "code") : el("button", { class: "link", onclick: () => openLayer(index) }, name)
}

function card(sample, at) {
  const choose = () => {
    state.sample = at
    document.querySelectorAll(".card").forEach((one, k) => (one.dataset.chosen = k === at))
    remember()
  }
  const words = typeof sample.items?.[0] === "string", lines = !sample.picture && !words && (sample.items || inputLines() !== null)
  const inside = sample.picture || lines ? [el("canvas", { role: "img", "aria-label": sample.name })] : words ? sample.items.flatMap((item) => [named(item), " "]) : ["no picture"]
  const kind = sample.picture ? "picture" : lines ? "picture lines" : words ? "picture words" : "picture none"
  const made = el("article", { class: "card", "aria-label": sample.name },
    el("button", { class: kind, onclick: choose, "aria-label": `choose ${sample.name}` }, ...inside),
    el("div", { class: "inside" },
      el("h3", {}, named(sample.name)),
      sample.origin === "input" ? el("p", { class: "small soft" }, "the input, from its smallest to its largest value") : null,
      ...(page.scores ?? []).map((output, k) => scoreList(output, at, k)),
    ),
  )
  made.dataset.chosen = at === state.sample
  return made
}

// The input layer with the values of a sequence, which is drawn instead of a picture.
function inputLines() {
  const at = page.layers.findIndex((layer) => layer.type === "InputLayer" && layer.maps?.samples[0]?.shape?.length === 2 && layer.maps.samples[0].count)
  return at < 0 ? null : at
}

async function drawCards() {
  const method = chosenMethod(), cards = [...document.querySelectorAll(".card")]
  for (const [at, one] of cards.entries()) {
    const heat = method ? await heatOf(method, state.target, at).catch(() => null) : null
    if (!one.isConnected) return
    const { picture, items } = page.samples[at], button = one.querySelector(".picture")
    if (picture) await drawPicture(button.querySelector("canvas"), at, heat?.sizes.length === 2 ? heat : null, state.opacity, state.heatColours)
    else if (button.classList.contains("words")) tintWords(button, items, heat)
    else if (button.classList.contains("lines")) await drawSignal(button.querySelector("canvas"), at, heat)
  }
}

// Words, or the numbers of tokens, on a ground that is the stronger, the larger the heat map is there.
function tintWords(button, items, heat) {
  const map = heat?.sizes.length === 1 ? finished(heat, [items.length]) : null
  button.querySelectorAll(".name").forEach((word, at) => {
    word.style.background = map ? `color-mix(in srgb, var(--accent) ${(40 * map[at] * state.opacity).toFixed(1)}%, transparent)` : ""
  })
}

async function drawSignal(canvas, at, heat) {
  const { items } = page.samples[at], fresh = canvas.cloneNode()
  if (items) {
    canvas.replaceWith(fresh)
    const map = heat?.sizes.length === 1 ? finished(heat, [items.length]).map((value) => value * state.opacity) : null
    return sharp(fresh, (context, width, height) => {
      if (map) drawHeat(context, width, height, map)
      drawBars(context, width, height, items.map(Number), -1)
    })
  }
  const values = await valuesOf(inputLines(), at)
  if (!values) return
  canvas.replaceWith(fresh)
  const map = heat?.sizes.length === 1 ? finished(heat, [values.width]).map((value) => value * state.opacity) : null, first = values.channels[0]
  sharp(fresh, (context, width, height) => drawLine(context, width, height, first.values, first.low, first.high, map))
}

function scoreList(output, sample, at) {
  const list = el("ol", { class: "scores", "aria-label": `scores in ${output.output}` })
  scoresOf(output, sample).then((scores) => {
    const most = Math.max(...scores.map((one) => Math.abs(one.score)).filter(Number.isFinite), 1e-12)
    list.append(...scores.slice(0, page.top).map((one) => {
      const target = at === 0 && chosenMethod()?.byClass ? page.heat.classes.indexOf(one.index) : -1
      const fill = el("span", { class: "fill" })
      fill.style.width = `${100 * Math.max(0, output.probability ? one.score : one.score / most)}%`
      const choose = () => ((state.target = target), show())
      return el("li", {}, el("button", { onclick: choose, disabled: target < 0, "aria-pressed": target < 0 ? undefined : String(target === state.target), title: target < 0 ? one.name : `show the heat map for ${one.name}` },
        fill, named(one.name), el("span", { class: "number" }, output.probability ? one.score.toFixed(3) : short(one.score))))
    }))
  })
  return page.scores.length > 1 ? el("div", {}, el("p", { class: "small soft" }, named(output.output)), list) : list
}
