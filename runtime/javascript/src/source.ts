/** Where bytes come from: memory, a URL, or with node a path. */

import { LayertapError, show } from "./errors.js"

/** Bytes in memory, a `Blob` or `File`, a `URL`, or a text: a URL, or with node a path. */
export type Source = Uint8Array | ArrayBuffer | Blob | URL | string

/** protobuf reads no larger message, and browsers hold no larger model in WebAssembly's memory. */
const MOST_BYTES = 2 ** 31 - 1

export const node = (): any => (globalThis as any).process?.getBuiltinModule?.("node:fs")

/** Whether a source is a file for node: a path, or a URL of one. */
export const isFile = (source: unknown): source is string | URL =>
  node() && (source instanceof URL ? source.protocol === "file:" : typeof source === "string" && !/^[a-z][a-z\d+.-]+:/i.test(source))

export const isBytes = (value: unknown): value is Uint8Array | ArrayBuffer | Blob =>
  value instanceof Uint8Array || value instanceof ArrayBuffer || (typeof Blob === "function" && value instanceof Blob)

type Kind = new (message: string, options?: ErrorOptions) => LayertapError

/** All bytes of a source. */
export async function readBytes(source: Source, kind: Kind): Promise<Uint8Array> {
  if (!isBytes(source) && typeof source !== "string" && !(source instanceof URL))
    throw new kind(`cannot read ${show(source)}: give the bytes of a file, a Blob, a URL${node() ? " or a path" : ""}.`)
  const name = isBytes(source) ? "the file" : show(String(source))
  const check = (size: number): void => {
    if (size > MOST_BYTES)
      throw new kind(
        `${name} has ${(size / 1e9).toFixed(1)} GB (${size} bytes), more than the possible 2.1 GB. Cut the needed layers out of it with \`layertap cut\`.`,
      )
  }
  try {
    if (source instanceof Uint8Array) return source
    if (source instanceof ArrayBuffer) return new Uint8Array(source)
    if (isBytes(source)) {
      check(source.size)
      return new Uint8Array(await source.arrayBuffer())
    }
    if (isFile(source)) {
      const { size } = await node().promises.stat(source)
      check(size)
      return await node().promises.readFile(source)
    }
    const response = await fetch(source as string)
    if (!response.ok) throw new Error(`the server answered ${response.status} ${response.statusText}`)
    check(Number(response.headers.get("content-length") ?? 0))
    return new Uint8Array(await response.arrayBuffer())
  } catch (error) {
    if (error instanceof LayertapError) throw error
    throw new kind(`${name} cannot be read: ${(error as Error).message}.`, { cause: error })
  }
}
