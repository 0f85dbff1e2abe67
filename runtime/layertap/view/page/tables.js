// The verification, layer by layer, and what the file says about itself.

const MOST_ROWS = 100

function showVerification(main) {
  const found = page.verification
  if (!found) return fill(main, el("h2", {}, "Verification"), el("p", { class: "notice" }, "This file does not say how exact it is: layertap did not export it, or it was changed after that."))
  const rows = page.layers.map((layer, index) => ({ ...layer, index })).filter((layer) => layer.error !== undefined)
  rows.push(...found.others)
  rows.sort((a, b) => Number(b.error) - Number(a.error))
  const body = el("tbody", {}, ...rows.slice(0, MOST_ROWS).map((row) => errorRow(row, found)))
  const more = rows.length > MOST_ROWS ? el("button", { class: "plain", onclick: () => (body.append(...rows.slice(MOST_ROWS).map((row) => errorRow(row, found))), more.remove()) }, `Show all ${whole(rows.length)}`) : null
  const over = rows.filter((row) => row.reference !== undefined)
  fill(main,
    el("h2", {}, "Verification"),
    el("p", {}, `${plural(rows.length, "tensor")} compared with ${found.reference} when the file was made: the largest scaled error is ${error(found.largest)}; ${error(found.tolerance)} was allowed. It is the largest difference, divided by the largest value of the layer.`),
    el("p", { class: "small soft" }, `${found.batches.join("; ")}. With onnxruntime ${found.onnxruntime}.`),
    over.length ? el("p", { class: "small soft" }, `${plural(over.length, "layer")} ${over.length === 1 ? "is" : "are"} over that where ${found.reference} itself is less exact.`) : null,
    el("div", { class: "scroll" }, el("table", { class: "plain-table errors" },
      el("thead", {}, el("tr", {}, ...["layer", "class", "scaled error", "", "largest difference"].map((text, at) => el("th", { scope: "col", class: at === 2 || at === 4 ? "right" : undefined }, text || el("span", { class: "hidden" }, "share of what was allowed"))))),
      body)),
    more,
  )
}

function errorRow(row, found) {
  // On a scale of decades: nothing is 1e-9 or less, full is what was allowed.
  const share = Math.max(0, Math.min(1, 1 + Math.log10(Math.max(Number(row.error), 1e-12) / found.tolerance) / Math.max(1, Math.log10(found.tolerance / 1e-9))))
  const fill = el("i", {})
  fill.style.width = `${100 * share}%`
  return el("tr", {},
    el("td", {}, row.index === undefined ? named(row.name, "code") : layerLink(row.name)), el("td", {}, named(row.type)),
    el("td", { class: "right" }, error(row.error)), el("td", {}, el("span", { class: "meter", "aria-hidden": "true" }, fill)), el("td", { class: "right" }, error(row.largest)))
}

function factsList() {
  const list = el("dl", { class: "facts-list" })
  for (const [name, text] of page.facts) list.append(el("dt", {}, name), el("dd", {}, text))
  return list
}

function summaryParts() {
  return [el("h2", {}, "The file"), factsList()]
}

function showFile(main) {
  const parts = summaryParts()
  if (page.leftOut.length) parts.push(el("h2", {}, "What the page leaves out"), el("ul", { class: "plain-list" }, ...page.leftOut.map((text) => el("li", {}, text))))
  parts.push(el("h2", {}, "Keys"), keys(), el("p", { class: "small soft" }, "The page is one file. It works without a network, and nothing leaves it. The console has ", el("code", {}, "layertap.values(name, sample)"), ", a promise of the values of a layer."))
  fill(main, ...parts)
}

const KEYS = [["/", "search layers"], ["↑ ↓", "the layer before or after"], ["← →", "the sample before or after; in a large map the channel"], ["1 2 3 4", "the views"], ["Enter", "open what is focused"], ["Esc", "close, or leave the search"], ["?", "this list"]]

function keys() {
  const list = el("dl", { class: "facts-list" })
  for (const [key, text] of KEYS) list.append(el("dt", {}, ...key.split(" ").flatMap((one) => [el("kbd", {}, one), " "])), el("dd", {}, text))
  return list
}
