/** Shapes that callers give, compared with those that a file states. */

import type { TensorInfo } from "./card.js"
import { InputError } from "./errors.js"
import { size } from "./tensors.js"

export const shown = (shape: readonly (number | null)[]): string =>
  `(${shape.map((one, axis) => one ?? (axis ? "any" : "n")).join(", ")})`

export function checkShape(label: string, dims: readonly number[], { shape }: Pick<TensorInfo, "shape">): void {
  const fits = (...given: number[]): boolean =>
    given.length === shape.length && given.every((one, axis) => shape[axis] === null || shape[axis] === one)
  if (fits(...dims)) {
    if (size(dims)) return
    throw new InputError(`${label} has the shape ${shown(dims)}, without any value: give at least one sample.`)
  }
  const [n, a, b, c] = dims
  const hint = fits(n, b, c, a) ? " Its channels come first." : fits(n, b, a, c) ? " Height and width are swapped." : ""
  throw new InputError(
    `${label} has the shape ${shown(dims)}, expected ${shown(shape)}.${fits(1, ...dims) ? " Add the batch axis." : hint}`,
  )
}
