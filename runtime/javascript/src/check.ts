/** The result of a check of a file on this machine against the golden sample that it contains. */

import type { Card } from "./card.js"

export interface LayerDeviation {
  /** The graph's tensor. */
  readonly name: string
  /** How far it is from Keras's result at the export, as a part of the layer's scale. */
  readonly scaled: number
  /** The largest deviation that passes. */
  readonly allowed: number
}

export class CheckReport {
  constructor(
    readonly tolerance: number,
    /** In the order in which the layers run; gradients come last. */
    readonly layers: readonly LayerDeviation[],
  ) {}

  get failed(): LayerDeviation[] {
    return this.layers.filter(({ scaled, allowed }) => !(scaled <= allowed))
  }

  /** Whether every layer passed. */
  get passed(): boolean {
    return !this.failed.length
  }

  toString(): string {
    const [first] = this.failed
    const count = this.layers.length
    if (first)
      return `${this.failed.length} of ${count} tensors differ from the golden sample. The first to diverge is '${first.name}', by ${first.scaled.toExponential(1)} of its scale; allowed are ${first.allowed.toExponential(0)}.`
    const worst = this.layers.reduce((a, b) => (b.scaled > a.scaled ? b : a))
    return `${count} tensors agree with the golden sample: largest scaled error ${worst.scaled.toExponential(1)} in '${worst.name}', allowed ${worst.allowed.toExponential(0)}.`
  }
}

/** Where Keras itself could not hold the tolerance, four times as much as it was off is allowed in addition. */
const UNSTEADY = 4

/** How much may a tensor deviate? */
export function allowance(card: Card, tolerance?: number): { tolerance: number; allowed: (name: string) => number } {
  const { verification } = card
  const base = tolerance ?? verification?.tolerance ?? 1e-4
  const references = new Map(Object.entries(tolerance === undefined ? (verification?.layers ?? {}) : {}))
  return { tolerance: base, allowed: (name) => base + UNSTEADY * (references.get(name)?.reference ?? 0) }
}
