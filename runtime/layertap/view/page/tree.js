// The layers as a tree by the parts of their names, and the search in it.

const stored = (layer) => source.has(layer)

// Nodes {label, layer, inner}: layers that others are inside of, and groups without a layer.
function grown(layers) {
  const root = { label: "", path: "", inner: [], byPart: new Map() }
  layers.forEach((layer, index) => {
    const parts = layer.name.replace(/^\//, "").split("/").filter(Boolean)
    let node = root
    for (const part of parts.length ? parts : [layer.name]) {
      if (!node.byPart.has(part)) {
        const made = { label: part, path: `${node.path}/${part}`, inner: [], byPart: new Map() }
        node.byPart.set(part, made)
        node.inner.push(made)
      }
      node = node.byPart.get(part)
    }
    if (node.layer === undefined) node.layer = index
    else node.inner.push({ label: layer.name, path: `${node.path}/${index}`, layer: index, inner: [], byPart: new Map() })
  })
  return joined(root).inner
}

// A group with a single member is one line with it: `block/conv`.
function joined(node) {
  node.inner = node.inner.map((inner) => {
    let made = joined(inner)
    while (made.layer === undefined && made.inner.length === 1) {
      const only = made.inner[0]
      made = { ...only, label: `${made.label}/${only.label}` }
    }
    return made
  })
  return node
}

const roots = grown(page.layers)
const closed = new Set()
if (page.layers.length > 1500) roots.forEach(function close(node) {
  if (node.inner.length) closed.add(node.path)
  node.inner.forEach(close)
})

function matcher(text) {
  const wanted = text.trim().toLowerCase()
  if (!wanted) return null
  if (/[*?]/.test(wanted)) {
    const pattern = new RegExp(`^${wanted.replace(/[.+^${}()|[\]\\]/g, "\\$&").replace(/\*/g, ".*").replace(/\?/g, ".")}$`)
    return (layer) => pattern.test(layer.name.toLowerCase()) || pattern.test(layer.type.toLowerCase())
  }
  return (layer) => layer.name.toLowerCase().includes(wanted) || layer.type.toLowerCase().includes(wanted)
}

function drawTree() {
  const matches = matcher(byId("search").value), items = []
  const add = (node, level) => {
    const row = node.layer === undefined ? null : page.layers[node.layer]
    items.push(treeItem(node, row, level))
    if (!closed.has(node.path)) node.inner.forEach((inner) => add(inner, level + 1))
  }
  if (matches) {
    page.layers.forEach((layer, index) => {
      if (matches(layer)) items.push(treeItem({ label: layer.name, path: "", layer: index, inner: [] }, layer, 0))
    })
  } else roots.forEach((node) => add(node, 0))
  const tree = byId("tree"), top = tree.scrollTop
  tree.replaceChildren(...items)
  tree.scrollTop = top
  const present = page.layers.filter(stored).length
  byId("found").textContent = matches ? `${plural(items.length, "layer")} found` : present && present < page.layers.length ? `${present} of ${plural(page.layers.length, "layer")} with values (●)` : plural(page.layers.length, "layer")
  markChosen()
}

function treeItem(node, row, level) {
  const group = node.inner.length > 0, mark = group ? (closed.has(node.path) ? "▸" : "▾") : row && stored(row) ? "●" : ""
  const facts = row ? [row.type, row.shape].filter(Boolean).join("  ") : plural(leaves(node), "layer")
  const made = el(
    "div",
    { role: "treeitem", "aria-level": level + 1, "aria-expanded": group ? String(!closed.has(node.path)) : undefined, tabindex: "-1", class: page.samples.length && row && !stored(row) ? "absent" : undefined },
    el("span", { class: "mark", "aria-hidden": "true" }, mark),
    el("span", {}, el("div", { class: "name", title: row ? row.name : node.label }, node.label), el("div", { class: "facts" }, facts)),
  )
  made.style.setProperty("--level", level)
  if (node.layer !== undefined) made.dataset.layer = node.layer
  if (group) made.dataset.group = node.path
  return made
}

const leaves = (node) => node.inner.reduce((sum, inner) => sum + leaves(inner), node.layer === undefined ? 0 : 1)

function markChosen() {
  const items = [...byId("tree").children]
  let focus = null
  for (const item of items) {
    const chosen = item.dataset.layer !== undefined && Number(item.dataset.layer) === state.layer
    item.setAttribute("aria-selected", String(chosen))
    item.tabIndex = -1
    if (chosen) focus = item
  }
  if (focus ?? items[0]) (focus ?? items[0]).tabIndex = 0
  return focus
}

function toggle(path) {
  if (closed.has(path)) closed.delete(path)
  else closed.add(path)
  drawTree()
  const item = [...byId("tree").children].find((one) => one.dataset.group === path)
  item?.focus()
}

function prepareTree() {
  const tree = byId("tree"), search = byId("search")
  search.addEventListener("input", drawTree)
  search.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "Enter") {
      event.preventDefault()
      const first = tree.children[0]
      if (event.key === "Enter" && first?.dataset.layer !== undefined) openLayer(Number(first.dataset.layer))
      first?.focus()
    }
  })
  tree.addEventListener("click", (event) => {
    const item = event.target.closest("[role=treeitem]")
    if (!item) return
    const onMark = event.target.closest(".mark")
    if (item.dataset.group && (onMark || item.dataset.layer === undefined)) toggle(item.dataset.group)
    else openLayer(Number(item.dataset.layer))
  })
  tree.addEventListener("keydown", (event) => {
    const item = event.target.closest("[role=treeitem]")
    if (!item) return
    const items = [...tree.children], at = items.indexOf(item), expanded = item.getAttribute("aria-expanded")
    const moves = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: items.length - 1, PageDown: at + 12, PageUp: at - 12 }
    if (event.key in moves) {
      const next = items[Math.min(items.length - 1, Math.max(0, moves[event.key]))]
      next.focus()
      if (next.dataset.layer !== undefined && event.key.startsWith("Arrow")) openLayer(Number(next.dataset.layer), true)
    } else if (event.key === "Enter" || event.key === " ") item.click()
    else if (event.key === "ArrowRight" && expanded === "false") toggle(item.dataset.group)
    else if (event.key === "ArrowLeft" && expanded === "true") toggle(item.dataset.group)
    else if (event.key === "ArrowLeft") {
      const level = Number(item.getAttribute("aria-level"))
      items.slice(0, at).reverse().find((one) => Number(one.getAttribute("aria-level")) < level)?.focus()
    } else return
    event.preventDefault()
    event.stopPropagation()
  })
  drawTree()
}

// The layer before or after the chosen one, in the order of the tree.
function neighbour(step) {
  const items = [...byId("tree").children].filter((item) => item.dataset.layer !== undefined)
  const at = items.findIndex((item) => Number(item.dataset.layer) === state.layer)
  const next = items[at < 0 ? 0 : Math.min(items.length - 1, Math.max(0, at + step))]
  if (!next) return
  openLayer(Number(next.dataset.layer), true)
  next.scrollIntoView({ block: "nearest" })
}
