/** Where bytes come from: memory, a URL, or with node a path. */

import { LayertapError, ModelFileError, show } from "./errors.js"
import type { External } from "./graph.js"

/** Bytes in memory, a `Blob` or `File`, a `URL`, or a text: a URL, or with node a path. */
export type Source = Uint8Array | ArrayBuffer | Blob | URL | string

/** protobuf reads no larger message, and browsers hold no larger model in WebAssembly's memory. */
const MOST_BYTES = 2 ** 31 - 1

const node = (): any => (globalThis as any).process?.getBuiltinModule?.("node:fs")

/** Whether a text is a path for node, and no URL. */
const isPath = (source: unknown): source is string =>
  typeof source === "string" && node() && !/^[a-z][a-z\d+.-]+:/i.test(source)

export const isBytes = (value: unknown): value is Uint8Array | ArrayBuffer | Blob =>
  value instanceof Uint8Array || value instanceof ArrayBuffer || (typeof Blob === "function" && value instanceof Blob)

type Kind = new (message: string, options?: ErrorOptions) => LayertapError

/** All bytes of a source. */
export async function readBytes(source: Source, kind: Kind): Promise<Uint8Array> {
  const name = isBytes(source) ? "the file" : show(String(source))
  const check = (size: number): void => {
    if (size > MOST_BYTES)
      throw new kind(
        `${name} has ${(size / 1e9).toFixed(1)} GB (${size} bytes), too large for a browser or onnxruntime for JavaScript, which take up to 2.1 GB. Cut the layers that you need out of it with \`layertap cut\`.`,
      )
  }
  try {
    if (source instanceof Uint8Array) return source
    if (source instanceof ArrayBuffer) return new Uint8Array(source)
    if (isBytes(source)) {
      check(source.size)
      return new Uint8Array(await source.arrayBuffer())
    }
    if (isPath(source) || (source instanceof URL && source.protocol === "file:" && node())) {
      const { size } = await node().promises.stat(source)
      check(size)
      return await node().promises.readFile(source)
    }
    if (!(source instanceof URL) && typeof source !== "string") throw new Error(`give bytes, a URL or a path`)
    const response = await fetch(source)
    if (!response.ok) throw new Error(`the server answered ${response.status} ${response.statusText}`)
    check(Number(response.headers.get("content-length") ?? 0))
    return new Uint8Array(await response.arrayBuffer())
  } catch (error) {
    if (error instanceof LayertapError) throw error
    throw new kind(`${name} cannot be read: ${(error as Error).message}.`, { cause: error })
  }
}

/** Reads weights that a model keeps in another file of its own folder. */
export function externalReader(source: Source): (external: External) => Promise<Uint8Array> {
  return async ({ location, offset, length }) => {
    const name = show(location)
    if (!/^[^/\\?#%]+$/.test(location) || /^\.{1,2}$|:/.test(location))
      throw new ModelFileError(`the model's weights are in ${name}, which is not a file in the model's folder.`)
    if (isBytes(source))
      throw new ModelFileError(
        `the model's weights are in another file, ${name}, which cannot be found from bytes. Open the model by its URL or path.`,
      )
    const end = length === undefined ? undefined : offset + length
    try {
      let data: Uint8Array
      if (isPath(source) || (source instanceof URL && source.protocol === "file:" && node())) {
        const path = source instanceof URL ? new URL(location, source) : source.replace(/[^/\\]*$/, "") + location
        const file = await node().promises.open(path)
        try {
          data = new Uint8Array((end ?? (await file.stat()).size) - offset)
          const { bytesRead } = await file.read(data, 0, data.length, offset)
          data = data.subarray(0, bytesRead)
        } finally {
          await file.close()
        }
      } else {
        const base = new URL(source, globalThis.location?.href)
        const range = `bytes=${offset}-${end === undefined ? "" : end - 1}`
        const response = await fetch(new URL(location, base), { headers: { range } })
        if (!response.ok) throw new Error(`the server answered ${response.status}`)
        data = new Uint8Array(await response.arrayBuffer())
        if (response.status !== 206) data = data.subarray(offset, end)
      }
      if (length !== undefined && data.length !== length) throw new Error("it is cut off")
      return data
    } catch (error) {
      throw new ModelFileError(`the model's weights in ${name} cannot be read: ${(error as Error).message}.`, {
        cause: error,
      })
    }
  }
}
