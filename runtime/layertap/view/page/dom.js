// Elements and text. Text of files only ever becomes text nodes and attributes, never HTML.

const byId = (id) => document.getElementById(id)

// el("p", {class: "soft", onclick: f}, "text", otherElement)
function el(tag, options = {}, ...children) {
  const made = document.createElement(tag)
  for (const [key, value] of Object.entries(options)) {
    if (value === undefined || value === null || value === false) continue
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value)
    else if (key === "value" || key === "checked" || key === "disabled") made[key] = value
    else made.setAttribute(key, value === true ? "" : value)
  }
  made.append(...children.filter((child) => child !== null && child !== undefined))
  return made
}

// Replace what is in an element; parts that are null are left out.
const fill = (target, ...parts) => target.replaceChildren(...parts.filter((part) => part !== null && part !== undefined))

// A name of the file, which may be in a script that is written from right to left.
const named = (text, kind = "span") => el(kind, { class: "name", title: text }, text)

function short(value) {
  const number = Number(value)
  if (!Number.isFinite(number)) return Number.isNaN(number) ? "NaN" : number > 0 ? "∞" : "−∞"
  if (number === 0) return "0"
  const size = Math.abs(number)
  const text = size >= 1e5 || size < 1e-3 ? number.toExponential(2) : String(Number(number.toPrecision(4)))
  return text.replace("-", "−")
}

const whole = (value) => value.toLocaleString("en-US")
const error = (value) => (Number(value) === 0 ? "0" : Number(value).toExponential(1).replace("-", "−"))
const plural = (count, noun) => `${whole(count)} ${noun}${count === 1 ? "" : "s"}`

function choice(label, options, chosen, onchange) {
  const select = el("select", { onchange: () => onchange(select.value) })
  for (const [value, text] of options) select.append(el("option", { value }, text))
  select.value = chosen
  return el("label", {}, label, select)
}

function slider(label, low, high, step, chosen, oninput) {
  const input = el("input", { type: "range", min: low, max: high, step, oninput: () => oninput(Number(input.value)) })
  input.value = chosen
  return el("label", {}, label, input)
}

function check(label, checked, onchange) {
  const input = el("input", { type: "checkbox", checked, onchange: () => onchange(input.checked) })
  return el("label", { class: "check" }, input, label)
}
