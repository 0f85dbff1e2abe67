/** Weights that a model keeps in other files, as models over 2 GB do. */

import { ModelFileError, show } from "./errors.js"
import type { External, Graph, Weights } from "./graph.js"
import { type Source, isBytes, isFile, node } from "./source.js"
import { fields, header } from "./wire.js"

const [RAW_DATA, EXTERNAL_DATA, DATA_LOCATION] = [9, 13, 14]

/** A `TensorProto` field of weights in another file, with the data inside; `source` is the model's own file. */
export async function located(source: Source, { bytes }: Graph, { span, external }: Weights): Promise<Uint8Array[]> {
  const data = await readExternal(source, external!)
  const [[, , , start, end]] = fields(bytes, ...span)
  const kept: Uint8Array[] = []
  for (const [number, , tag, , stop] of fields(bytes, start, end))
    if (![RAW_DATA, EXTERNAL_DATA, DATA_LOCATION].includes(number)) kept.push(bytes.subarray(tag, stop))
  kept.push(header(RAW_DATA, data.length), data)
  return [header(5, kept.reduce((sum, one) => sum + one.length, 0)), ...kept]
}

/** The bytes of weights in another file of the model's folder; `source` is the model's own file. */
async function readExternal(source: Source, { location, offset, length }: External): Promise<Uint8Array> {
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
    if (isFile(source)) {
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
