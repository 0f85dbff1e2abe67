/**
 * What each axis of a graph's tensors means, inferred from the operators, for files that do not state
 * it: as `layertap.format.axes` of the Python runtime, which describes the rules.
 *
 * A convolution fixes the axes of its input and output: samples, channels, then the space. From there
 * the meanings are carried through the graph in both directions. Nothing is guessed: a tensor whose
 * axes do not follow from the operators is left out. The operators: https://onnx.ai/onnx/operators/.
 */

import { type Dims, ELEMENT_TYPES, type Graph, type Node, typeOf } from "./graph.js"
import { LEN, type Span, VARINT, WireError, fields, find, integer, integers, text } from "./wire.js"

const SPACE = ["", "T", "HW", "DHW"]
const MAX_RANK = 16
/** Limit on the passes over the graph; models need two or three. */
const SWEEPS = 12
/** Bytes of the longest attribute or constant that may be a list of axes. */
const LONG = 1024

const words = (text: string): string[] => text.split(" ")

/** Their channels are the second axis, or the last one if they say so. */
const IMAGES = words(
  "Conv ConvTranspose ConvInteger FusedConv NhwcFusedConv DeformConv MaxPool NhwcMaxPool AveragePool LpPool GlobalAveragePool GlobalMaxPool GlobalLpPool MaxUnpool BatchNormalization InstanceNormalization GroupNormalization LRN DepthToSpace SpaceToDepth GridSample",
)
/** They keep the axes of their first input. */
const SAME = words(
  "Abs Acos Acosh Asin Asinh Atan Atanh BiasGelu BitwiseNot Cast CastLike Ceil Celu Clip Cos Cosh CumSum DequantizeLinear Dropout DynamicQuantizeLinear Elu Erf Exp FastGelu Floor Gelu HardSigmoid HardSwish Hardmax Identity IsInf IsNaN LayerNormalization LeakyRelu Log LogSoftmax LpNormalization MeanVarianceNormalization Mish Neg Not Pad QuantizeLinear QuickGelu Reciprocal Relu Resize ReverseSequence Round ScatterElements ScatterND Selu Shrink Sigmoid Sign SimplifiedLayerNormalization Sin Sinh SkipLayerNormalization Slice Softmax Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu Tile TopK Trilu Upsample",
)
const BROADCAST = words(
  "Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Equal Expand Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod Mul Or PRelu Pow Sub Sum Where Xor",
)
const REDUCE = words(
  "ArgMax ArgMin ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare",
)
/** The operator that a quantised one computes, and which of its inputs are operands: first, end and step. */
const QUANTISED: Record<string, [kind: string, start: number, stop: number, step: number]> = {
  QLinearConcat: ["Concat", 2, Infinity, 3],
  QGemm: ["Gemm", 0, 4, 3],
  DynamicQuantizeMatMul: ["MatMul", 0, 2, 1],
  MatMulIntegerToFloat: ["MatMul", 0, 2, 1],
  FusedGemm: ["Gemm", 0, 2, 1],
}
for (const kind of words("Add Conv MatMul Mul")) QUANTISED[`QLinear${kind}`] = [kind, 0, 4, 3]
for (const kind of words("AveragePool GlobalAveragePool LeakyRelu ReduceMean Sigmoid Softmax"))
  QUANTISED[`QLinear${kind}`] = [kind, 0, 1, 1]

const DOMAINS = ["", "com.microsoft", "com.microsoft.nchwc"]

/** A node with what the rules read of it. */
interface Op {
  readonly kind: string
  /** Its inputs by position; empty for one that is left out. */
  readonly reads: readonly string[]
  readonly writes: readonly string[]
  /** All tensors that it depends on, those in its subgraphs included. */
  readonly needs: readonly string[]
  /** Attributes that are integers. */
  readonly numbers: ReadonlyMap<string, readonly number[]>
  /** Of an Einsum. */
  readonly equation: string
}

type Rule = (op: Op) => void

const modulo = (value: number, by: number): number => ((value % by) + by) % by
const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i)

/**
 * The axes by name of the tensor, in the notation of the card; a tensor of which they are not known
 * is left out.
 *
 * @param bySize Whether an axis of 1 or 3 decides where the channels of an input with four axes are,
 *   if no operator does. The others must be free, or at least 8.
 */
export function inferredAxes(graph: Graph, bySize: boolean): Map<string, string> {
  try {
    const found = new Map<string, string>()
    for (const [name, labels] of new Inference(graph).run(bySize)) {
      const axes = asText(labels)
      if (axes) found.set(name, axes)
    }
    return found
  } catch (error) {
    if (error instanceof WireError) return new Map() // a node that breaks the rules of its operator
    throw error
  }
}

/** The labels of one tensor in the notation of the card; empty if too little is known. */
function asText(labels: readonly string[]): string {
  const others = labels.filter((label) => label !== "N" && label !== "C")
  let letters = others.map((label) => label || "?")
  if (!labels.includes("C")) {
    if (others.includes("")) return ""
    if (String(others) !== "T") letters = others.map(() => "?")
  } else if (others.every((label) => !label) || (others.length === 1 && others[0] !== "?"))
    letters = [...(SPACE[others.length] ?? "?".repeat(others.length))]
  return labels.map((label) => (label === "N" || label === "C" ? label : letters.shift())).join("")
}

class Inference {
  readonly #labels = new Map<string, string[]>()
  readonly #dims = new Map<string, Dims>()
  readonly #integers = new Map<string, readonly number[]>()
  readonly #constant: Set<string>
  readonly #ops: Op[]
  #changed = false

  constructor(readonly graph: Graph) {
    const { bytes, weights, listed, outputs, values } = graph
    for (const [name, { dtype, dims, span }] of weights)
      if (isShort(dtype, dims!)) this.#integers.set(name, smallTensor(bytes, inside(bytes, span), dtype))
    this.#ops = graph.nodes.filter((node) => this.#isKnown(node)).map((node) => this.#read(node))
    this.#constant = new Set(weights.keys())
    for (const { needs, writes } of this.#ops)
      if (needs.every((name) => this.#constant.has(name))) for (const name of writes) this.#constant.add(name)
    for (const name of new Set([...listed.keys(), ...outputs.keys(), ...values.keys()])) {
      const { dims } = typeOf(graph, name)
      if (!dims || dims.length > MAX_RANK) continue
      this.#giveRank(name, dims.length)
      this.#dims.set(name, dims)
    }
    for (const [name, { dims }] of weights) this.#dims.set(name, dims!)
  }

  /** The labels of the tensors that are not constants: for each axis a letter, or empty where it is open. */
  run(bySize: boolean): [string, readonly string[]][] {
    for (const op of this.#ops) if (IMAGES.includes(op.kind)) this.#fix(op)
    this.#settle()
    this.#assume(bySize)
    this.#settle()
    return [...this.#labels]
      .filter(([name]) => !this.#constant.has(name))
      .map(([name, labels]) => {
        const isOpen = labels.length && !labels[0] && labels.includes("C") && !labels.includes("N")
        return [name, isOpen ? ["N", ...labels.slice(1)] : labels]
      })
  }

  /** Carry labels through the graph until nothing changes. */
  #settle(): void {
    const carry = (op: Op): void => {
      if (op.reads.length && op.writes.length && Object.hasOwn(this.#rules, op.kind)) this.#rules[op.kind](op)
    }
    for (let sweep = 0; sweep < SWEEPS; sweep++) {
      this.#changed = false
      this.#ops.forEach(carry)
      this.#ops.toReversed().forEach(carry)
      if (!this.#changed) return
    }
  }

  /** What is usual, where no operator says otherwise. */
  #assume(bySize: boolean): void {
    const { listed, weights } = this.graph
    for (const name of listed.keys()) {
      if (weights.has(name)) continue
      const dims = this.#dims.get(name) ?? []
      if (!this.#labels.get(name)?.includes("N")) this.#put(name, 0, "N")
      for (const axis of bySize && dims.length === 4 ? [1, 3] : []) {
        const isSmall = dims.some((size, at) => at && at !== axis && typeof size === "number" && size < 8)
        if ([1, 3].includes(dims[axis] as number) && !isSmall && this.#lacksChannels(name)) this.#put(name, axis, "C")
      }
    }
    for (const op of this.#ops) {
      const onLast = ["MatMul", "Gemm", "MatMulInteger"].includes(op.kind)
        ? op.reads.slice(1, 2).every((name) => this.#constant.has(name))
        : op.kind.includes("LayerNormalization") && number(op, "axis", -1) === -1
      if (onLast && op.reads.length && this.#lacksChannels(op.reads[0])) this.#put(op.reads[0], -1, "C")
    }
  }

  #lacksChannels(name: string): boolean {
    return !this.#labels.get(name)?.includes("C")
  }

  // --- Labels ----------------------------------------------------------------------------------

  #giveRank(name: string, rank: number): void {
    if (!name || this.#labels.has(name) || this.#dims.has(name) || rank > MAX_RANK) return
    this.#labels.set(name, Array(rank).fill(""))
    this.#changed = true
  }

  #rank(name: string): number | undefined {
    return (this.#dims.get(name) ?? this.#labels.get(name))?.length
  }

  /** Label an axis that is open. A letter that another axis has becomes `?`. */
  #put(name: string, axis: number, label: string): void {
    const labels = this.#labels.get(name)
    if (!label || !labels || this.#constant.has(name)) return
    const at = axis < 0 ? axis + labels.length : axis
    if (labels[at] !== "") return
    labels[at] = labels.includes(label) ? "?" : label
    this.#changed = true
  }

  /** Two axes mean the same. */
  #tie(one: string, axis: number, other: string, otherAxis: number): void {
    const [first, second] = [this.#labels.get(one)?.at(axis), this.#labels.get(other)?.at(otherAxis)]
    if (first) this.#put(other, otherAxis, first)
    if (second) this.#put(one, axis, second)
  }

  /** Two tensors have the same axes. */
  #same(one: string, other: string): void {
    for (const [name, source] of [[one, other], [other, one]]) {
      const rank = this.#rank(source)
      if (rank !== undefined) this.#giveRank(name, rank)
    }
    if (this.#rank(one) === this.#rank(other)) for (const axis of range(this.#rank(one) ?? 0)) this.#tie(one, axis, other, axis)
  }

  /** Samples, channels, then the space: the input and the output of a convolution. */
  #fix(op: Op): void {
    const { kind, reads, writes, numbers } = op
    const kernel = numbers.get("kernel_shape")
    const rank = kernel ? kernel.length + 2 : kind.includes("Conv") && reads.length > 1 ? this.#rank(reads[1]) : undefined
    for (const name of reads.length ? [reads[0], ...writes.slice(0, 1)] : []) {
      if (rank !== undefined) this.#giveRank(name, rank)
      const labels = this.#labels.get(name)
      if (!labels || labels.length < 2) continue
      const space = SPACE[labels.length - 2] ?? ""
      const last = number(op, "channels_last", 0) || kind.startsWith("Nhwc")
      this.#letters(name, last ? `N${space}C` : `NC${space}`)
    }
  }

  #letters(name: string, letters: string): void {
    ;[...letters].forEach((label, axis) => this.#put(name, axis, label))
  }

  // --- Operators ---------------------------------------------------------------------------------

  readonly #rules: Record<string, Rule> = {
    ...every(IMAGES, (op) => {
      this.#same(op.reads[0], op.writes[0])
      this.#fix(op)
    }),
    // Into the blocks of channels that onnxruntime's optimiser uses, and back from them.
    ...every(["ReorderInput", "ReorderOutput"], (op) => {
      const isBack = op.kind === "ReorderOutput"
      const last = number(op, "channels_last", 0)
      for (const [name, isPlain] of [[op.reads[0], !isBack], [op.writes[0], isBack]] as const) {
        this.#giveRank(name, 4)
        this.#letters(name, isPlain && last ? "NHWC" : "NCHW")
      }
    }),
    ...every(SAME, ({ reads, writes }) => this.#same(reads[0], writes[0])),
    // Operators of several operands, whose axes are aligned at the last one.
    ...every(BROADCAST, (op) => {
      const [out] = op.writes
      const expands = op.kind === "Expand"
      const reads = expands ? op.reads.slice(0, 1) : op.reads
      const ranks = reads.filter((name) => !this.#constant.has(name)).map((name) => this.#rank(name))
      if (ranks.length && !ranks.includes(undefined) && !expands)
        this.#giveRank(out, Math.max(...reads.map((name) => this.#rank(name) ?? 0)))
      const rank = this.#rank(out)
      for (const name of reads) {
        const own = this.#rank(name)
        const dims = this.#dims.get(name) ?? []
        if (own === undefined || rank === undefined || own > rank) continue
        for (let axis = -own; axis < 0; axis++)
          if (!dims.length || dims.at(axis) !== 1) this.#tie(name, axis, out, axis)
      }
    }),
    ...every(REDUCE, (op) => {
      const rank = this.#rank(op.reads[0])
      const axes = op.kind.startsWith("Arg") ? [number(op, "axis", 0)] : this.#axesOf(op)
      if (!axes || rank === undefined) return
      if (number(op, "keepdims", 1) || (!axes.length && number(op, "noop_with_empty_axes", 0)))
        this.#same(op.reads[0], op.writes[0])
      else this.#without(op, axes.length ? axes : range(rank), rank)
    }),
    // X is (time, samples, channels), Y has the directions behind the time.
    ...every(["LSTM", "GRU", "RNN"], (op) => {
      const letters = number(op, "layout", 0) ? ["NTC", "NT?C", "N?C", "N?C"] : ["TNC", "T?NC", "?NC", "?NC"]
      for (const [at, name] of [op.reads[0], ...op.writes].slice(0, 4).entries()) {
        this.#giveRank(name, letters[at].length)
        this.#letters(name, letters[at])
      }
    }),
    ...every(["MatMul", "MatMulInteger"], ({ reads: [first, second], writes: [out] }) => {
      if (second === undefined) return
      const ranks = [first, second].map((name) => this.#rank(name) ?? 0)
      const rank = Math.max(...ranks)
      if (Math.min(...ranks) < 2) return
      this.#giveRank(out, rank)
      if (this.#rank(out) !== rank) return
      for (const [i, name] of [first, second].entries())
        for (let axis = -ranks[i]; axis < -2; axis++) this.#tie(name, axis, out, axis)
      if (!this.#constant.has(first)) this.#tie(first, -2, out, -2)
      if (!this.#constant.has(second)) this.#tie(second, -1, out, -1)
      else {
        // A matrix of weights makes the last axis one of features, unless it mixes others.
        const labels = this.#labels.get(first) ?? []
        this.#put(out, -1, labels.slice(0, -1).includes("C") ? labels.at(-1) || "?" : "C")
      }
    }),
    Concat: ({ reads, writes }) => {
      for (const name of reads) if (!this.#constant.has(name)) this.#same(name, writes[0])
    },
    Split: ({ reads, writes }) => {
      for (const name of writes) this.#same(reads[0], name)
    },
    Transpose: ({ reads: [source], writes: [out], numbers }) => {
      const stated = numbers.get("perm") ?? []
      const rank = stated.length || this.#rank(source) || this.#rank(out)
      if (rank === undefined) return
      const perm = stated.length ? stated : range(rank).reverse()
      if (String([...perm].sort((a, b) => a - b)) === String(range(rank)))
        this.#mapped(source, out, [...perm.entries()], rank, rank)
    },
    Unsqueeze: (op) => {
      const [axes, rank] = [this.#axesOf(op), this.#rank(op.reads[0])]
      if (!axes?.length || rank === undefined) return
      const made = rank + axes.length
      const added = axes.map((axis) => modulo(axis, made))
      const kept = range(made).filter((axis) => !added.includes(axis))
      if (kept.length === rank) this.#mapped(op.reads[0], op.writes[0], kept.map((axis, i) => [axis, i]), rank, made)
    },
    Squeeze: (op) => {
      let [axes, rank] = [this.#axesOf(op), this.#rank(op.reads[0])]
      if (!axes?.length && rank !== undefined) {
        const dims = this.#dims.get(op.reads[0]) ?? []
        axes = dims.length ? range(dims.length).filter((axis) => dims[axis] === 1) : undefined
      }
      if (axes && rank !== undefined) this.#without(op, axes, rank)
    },
    Flatten: (op) => {
      const [[source], [out]] = [op.reads, op.writes]
      if (number(op, "axis", 1) !== 1) return
      this.#giveRank(out, 2)
      this.#tie(source, 0, out, 0)
      if (this.#rank(source) === 2) this.#tie(source, 1, out, 1)
    },
    Reshape: (op) => this.#reshape(op),
    Gemm: (op) => {
      const [[source], [out]] = [op.reads, op.writes]
      this.#giveRank(out, 2)
      this.#giveRank(source, 2)
      if (!number(op, "transA", 0)) this.#tie(source, 0, out, 0)
      this.#put(out, 1, "C")
    },
    Gather: (op) => this.#gather(op),
    Einsum: (op) => this.#einsum(op),
  }

  /** Each pair is an axis of `out` and the axis of `source` that it is; `rank` and `made` are their ranks. */
  #mapped(source: string, out: string, axes: readonly (readonly [number, number])[], rank: number, made: number): void {
    this.#giveRank(source, rank)
    this.#giveRank(out, made)
    if (this.#rank(source) === rank && this.#rank(out) === made)
      for (const [axis, old] of axes) this.#tie(out, axis, source, old)
  }

  /** The attribute `axes`, or the input that it became; `undefined` if it is not known. */
  #axesOf({ numbers, reads }: Op): readonly number[] | undefined {
    return numbers.get("axes") ?? (reads[1] ? this.#integers.get(reads[1]) : [])
  }

  #without({ reads, writes }: Op, axes: readonly number[], rank: number): void {
    const gone = rank ? axes.map((axis) => modulo(axis, rank)) : []
    const kept = range(rank).filter((axis) => !gone.includes(axis))
    this.#mapped(reads[0], writes[0], [...kept.entries()], rank, kept.length)
  }

  /**
   * Axes of the same size at the start and at the end keep their meaning. In between, channels stay
   * channels if they are the last of the axes that are joined; and the axes of the space become a
   * sequence.
   */
  #reshape(op: Op): void {
    const [source, shape] = op.reads
    const [out] = op.writes
    const target = this.#integers.get(shape)
    if (target) this.#giveRank(out, target.length)
    const [rank, made] = [this.#rank(source), this.#rank(out)]
    if (!rank || !made) return
    const sizes = [...(this.#dims.get(source) ?? Array(rank).fill(null))]
    const wanted = [...(this.#dims.get(out) ?? Array(made).fill(null))]
    for (const [axis, size] of (target?.length === made ? target : []).entries()) {
      if (size > 0) wanted[axis] = size
      else if (!size && axis < rank && !number(op, "allowzero", 0)) sizes[axis] = wanted[axis] = sizes[axis] || `copied ${axis}`
    }
    const most = Math.min(rank, made)
    let [start, end] = [0, 0]
    for (; start < most && sizes[start] && sizes[start] === wanted[start]; start++) this.#tie(source, start, out, start)
    for (; end < most - start && sizes.at(-1 - end) && sizes.at(-1 - end) === wanted.at(-1 - end); end++)
      this.#tie(source, -1 - end, out, -1 - end)
    const labels = (this.#labels.get(source) ?? Array<string>(rank).fill("")).slice(start, rank - end)
    if (start && made - end - start === 1 && labels.length) {
      if (labels.at(-1) === "C") this.#put(out, start, "C")
      else if (labels.every((label) => label && "DHWT".includes(label))) this.#put(out, start, "T")
    } else if (start && String(labels) === "C" && made - end > start) {
      for (let axis = start; axis < made - end - 1; axis++) this.#put(out, axis, "?")
      this.#put(out, made - end - 1, "C")
    }
  }

  #gather(op: Op): void {
    const [table, indices] = op.reads
    const [out] = op.writes
    const [rank, added] = [this.#rank(table), indices === undefined ? undefined : this.#rank(indices)]
    if (!rank || added === undefined) return
    const [axis, made] = [modulo(number(op, "axis", 0), rank), rank - 1 + added]
    this.#giveRank(out, made)
    if (this.#rank(out) !== made) return
    if (this.#constant.has(table) && !axis) {
      for (const at of range(added)) this.#tie(indices, at, out, at)
      if (rank === 2 && added) this.#put(out, -1, "C")
      if (rank === 2 && added === 2) this.#put(out, 1, "T")
      return
    }
    for (const at of range(rank)) if (at !== axis) this.#tie(table, at, out, at < axis ? at : at - 1 + added)
    if (added === 1) this.#tie(table, axis, out, axis)
  }

  #einsum({ reads, writes: [out], equation }: Op): void {
    const [terms, result] = equation.replaceAll(" ", "").split("->")
    const operands = terms.split(",")
    if (!result || equation.includes(".") || operands.length !== reads.length) return
    this.#giveRank(out, result.length)
    const data = new Set<string>()
    operands.forEach((term, i) => {
      this.#giveRank(reads[i], term.length)
      if (this.#constant.has(reads[i])) return
      for (const letter of term) data.add(letter)
      if (this.#rank(reads[i]) === term.length)
        for (const [axis, letter] of [...term].entries())
          if (result.includes(letter)) this.#tie(reads[i], axis, out, result.indexOf(letter))
    })
    // Axes of the weights: features, in several parts.
    const added = range(result.length).filter((axis) => !data.has(result[axis]))
    for (const axis of added.toReversed()) this.#put(out, axis, axis === added.at(-1) ? "C" : "?")
  }

  // --- Reading the nodes -------------------------------------------------------------------------

  #isKnown({ domain, type }: Node): boolean {
    return DOMAINS.includes(domain) && !this.graph.functions.has(`${domain}:${type}`)
  }

  #read({ type, span, reads: needs, writes: named }: Node): Op {
    const { bytes } = this.graph
    const [reads, writes]: string[][] = [[], []]
    const numbers = new Map<string, readonly number[]>()
    let equation = ""
    for (const [field, wire, , at, stop] of fields(bytes, ...inside(bytes, span))) {
      if (wire !== LEN) continue
      if (field === 1) reads.push(text(bytes, at, stop))
      else if (field === 2) writes.push(text(bytes, at, stop))
      else if (field === 5 && type === "Constant") this.#constantOf(named[0], [at, stop])
      else if (field === 5 && stop - at <= LONG) {
        const [name, values, letters] = attribute(bytes, [at, stop])
        if (values.length) numbers.set(name, values)
        if (name === "equation") equation = letters
      }
    }
    if (type === "Constant" && named.length && !this.#dims.has(named[0])) this.#dims.set(named[0], [])
    const [kind, first, end, step] = Object.hasOwn(QUANTISED, type) ? QUANTISED[type] : [type, 0, Infinity, 1]
    const operands = reads.filter((_, i) => i >= first && i < end && (i - first) % step === 0)
    return { kind, reads: operands, writes, needs, numbers, equation }
  }

  /** Keep the sizes of a Constant, and its value if it is integers. */
  #constantOf(name: string | undefined, span: Span): void {
    if (name === undefined) return
    const { bytes } = this.graph
    const [form, values] = attribute(bytes, span)
    const tensor = find(bytes, span, 5)
    if (form === "value_int" || form === "value_ints") {
      this.#integers.set(name, values)
      this.#dims.set(name, form === "value_ints" ? [values.length] : [])
    } else if (form === "value_floats" || form === "value_strings") this.#dims.set(name, [0])
    else if (tensor) {
      const dims: number[] = []
      let dtype = ""
      for (const [field, wire, , at, stop] of fields(bytes, ...tensor)) {
        if (field === 1) dims.push(...integers(bytes, wire, at, stop))
        else if (field === 2 && wire === VARINT) dtype = ELEMENT_TYPES[integer(bytes, at, stop)] ?? ""
      }
      this.#dims.set(name, dims)
      if (isShort(dtype, dims)) this.#integers.set(name, smallTensor(bytes, tensor, dtype))
    }
  }
}

const number = ({ numbers }: Op, name: string, otherwise: number): number => numbers.get(name)?.[0] ?? otherwise

const every = (kinds: readonly string[], rule: Rule): Record<string, Rule> =>
  Object.fromEntries(kinds.map((kind) => [kind, rule]))

const isShort = (dtype: string, dims: Dims): boolean =>
  ["int32", "int64"].includes(dtype) && dims.length <= 1 && dims.every((size) => (size as number) <= MAX_RANK)

/** The contents of a whole field, which is given with its tag. */
function inside(bytes: Uint8Array, span: Span): Span {
  for (const [, , , start, end] of fields(bytes, ...span)) return [start, end]
  return [0, 0]
}

/** Name, integers and text of an `AttributeProto`. */
function attribute(bytes: Uint8Array, span: Span): [name: string, values: number[], letters: string] {
  const values: number[] = []
  let [name, letters] = ["", ""]
  for (const [field, wire, , at, stop] of fields(bytes, ...span)) {
    if (field === 1 && wire === LEN) name = text(bytes, at, stop)
    else if ((field === 3 && wire === VARINT) || field === 8) values.push(...integers(bytes, wire, at, stop))
    else if (field === 4 && wire === LEN && stop - at <= LONG) letters = String.fromCharCode(...bytes.subarray(at, stop))
  }
  return [name, values, letters]
}

/** The integers of a small `TensorProto` of int32 or int64. */
function smallTensor(bytes: Uint8Array, span: Span, dtype: string): number[] {
  const raw = find(bytes, span, 9)
  const found: number[] = []
  if (!raw) {
    for (const [field, wire, , at, stop] of fields(bytes, ...span))
      if ((field === 5 || field === 7) && stop - at <= LONG) found.push(...integers(bytes, wire, at, stop))
    return found
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset + raw[0], Math.min(raw[1] - raw[0], LONG))
  const width = dtype === "int64" ? 8 : 4
  for (let at = 0; at + width <= view.byteLength; at += width)
    found.push(width === 8 ? Number(view.getBigInt64(at, true)) : view.getInt32(at, true))
  return found
}
