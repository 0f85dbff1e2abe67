// The state of the page, its views, and the keyboard.

const VIEWS = [["overview", "Overview", showOverview], ["layer", "Layer", showLayer], ["verification", "Verification", showVerification], ["file", "File", showFile]]

const state = {
  view: "overview",
  layer: Math.max(0, page.heat ? page.layers.findIndex((layer) => layer.name === page.heat.layer && stored(layer)) : page.layers.findIndex(stored)),
  sample: 0, all: false,
  method: page.heat?.methods[0].name ?? "", target: 0, opacity: 0.8, heatColours: "viridis",
  colormap: "viridis", scale: "map", sort: "strength", tile: 104,
}

function show() {
  for (const tab of byId("tabs").children) {
    const chosen = tab.dataset.view === state.view
    tab.setAttribute("aria-selected", String(chosen))
    tab.tabIndex = chosen ? 0 : -1
  }
  markChosen()
  remember()
  // What is redrawn keeps the focus of the control that was used.
  const active = document.activeElement, main = byId("main"), focused = active && main.contains(active) ? [...main.querySelectorAll("button, select, input")].indexOf(active) : -1
  const drawn = VIEWS.find(([name]) => name === state.view)[2](main)
  return Promise.resolve(drawn).then(() => {
    if (focused >= 0 && !main.contains(document.activeElement)) main.querySelectorAll("button, select, input")[focused]?.focus()
  })
}

function openLayer(index, quietly = false) {
  state.layer = index
  if (!quietly || state.view === "layer" || stored(page.layers[index])) state.view = "layer"
  closeDrawer()
  show()
  markChosen()?.scrollIntoView({ block: "nearest" })
  if (!quietly) byId("main").scrollTop = 0
}

// The view is in the address, so that it can be linked to and survives a reload.
function remember() {
  const parts = new URLSearchParams({ view: state.view })
  if (state.view === "layer") parts.set("layer", page.layers[state.layer]?.name ?? "")
  if (state.sample) parts.set("sample", state.sample)
  if (state.all) parts.set("all", 1)
  try {
    history.replaceState(null, "", `#${parts}`)
  } catch {
    // Some browsers do not allow it for files.
  }
}

function recall() {
  const parts = new URLSearchParams(location.hash.slice(1)), layer = page.layers.findIndex((one) => one.name === parts.get("layer"))
  if (VIEWS.some(([name]) => name === parts.get("view"))) state.view = parts.get("view")
  if (layer >= 0) state.layer = layer
  if (page.samples[Number(parts.get("sample"))]) state.sample = Number(parts.get("sample"))
  state.all = parts.has("all")
}

function closeDrawer() {
  byId("side").classList.remove("open")
  byId("drawer").setAttribute("aria-expanded", "false")
}

function drawHeader() {
  byId("title").replaceChildren(named(page.model))
  const parts = [page.file === page.model ? "" : page.file, plural(page.layers.length, "layer"), page.samples.length ? plural(page.samples.length, page.samples.some((one) => one.origin === "image") ? "image" : "sample") : ""]
  if (page.verification) parts.push(`verified against ${page.verification.reference}: ${error(page.verification.largest)}`)
  byId("subtitle").textContent = parts.filter(Boolean).join("  ·  ")
}

function prepareHeader() {
  drawHeader()
  byId("tabs").append(...VIEWS.map(([name, text]) => {
    const tab = el("button", { role: "tab", "aria-controls": "main", onclick: () => ((state.view = name), show()) }, text)
    tab.dataset.view = name
    return tab
  }))
  byId("tabs").addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key]
    if (!step) return
    const at = VIEWS.findIndex(([name]) => name === state.view)
    state.view = VIEWS[(at + step + VIEWS.length) % VIEWS.length][0]
    show()
    byId("tabs").querySelector("[aria-selected=true]").focus()
    event.preventDefault()
    event.stopPropagation()
  })
  byId("drawer").addEventListener("click", () => {
    const open = byId("side").classList.toggle("open")
    byId("drawer").setAttribute("aria-expanded", String(open))
    if (open) byId("search").focus()
  })
  document.addEventListener("click", (event) => {
    if (!event.target.closest("#side, #drawer")) closeDrawer()
  })
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return
  const typing = event.target.matches("input:not([type=checkbox]), select, textarea")
  if (byId("zoom").open) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key]
    if (step) (moveZoom(step), event.preventDefault())
    return
  }
  if (byId("help").open) return
  if (event.key === "Escape") {
    if (byId("search").value) ((byId("search").value = ""), drawTree())
    if (typing) event.target.blur()
    return closeDrawer()
  }
  if (typing) return
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key], move = { ArrowDown: 1, ArrowUp: -1 }[event.key]
  if (event.key === "/") {
    byId("side").classList.add("open")
    byId("search").focus()
    byId("search").select()
  } else if (event.key === "?") openHelp()
  else if (/^[1-4]$/.test(event.key)) ((state.view = VIEWS[Number(event.key) - 1][0]), show())
  else if (step && page.samples.length > 1 && !event.target.closest(".rows")) {
    state.all = false
    state.sample = (state.sample + step + page.samples.length) % page.samples.length
    show()
  } else if (move) neighbour(move)
  else return
  event.preventDefault()
}

function openHelp() {
  const dialog = byId("help")
  fill(dialog, el("h2", {}, "Keys"), keys(), el("p", {}, el("button", { class: "plain", onclick: () => dialog.close() }, "Close")))
  dialog.showModal()
}

// For the console and for programs: values(name or index of a layer, index of a sample).
globalThis.layertap = {
  page, state, show,
  values: (layer, sample = 0) => valuesOf(typeof layer === "number" ? layer : page.layers.findIndex((one) => one.name === layer), sample),
  scores: (sample = 0, output = 0) => scoresOf(page.scores[output], sample),
  heatMap: async (method, target = 0, sample = 0, size = null) => {
    const heat = await heatOf(page.heat.methods.find((one) => one.name === method), target, sample)
    return finished(heat, size ?? heat.sizes)
  },
}

recall()
prepareHeader()
prepareTree()
document.addEventListener("keydown", onKey)
for (const dialog of [byId("zoom"), byId("help")]) dialog.addEventListener("click", (event) => event.target === dialog && dialog.close())
markChosen()?.scrollIntoView({ block: "center" })
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show)
show()
if (page.live) startLive()
