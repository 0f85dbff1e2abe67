// What a program is given, in node and in a browser alike; see tests/javascript_runtime.py.

const ARRAYS = {
  float32: Float32Array, float64: Float64Array, float16: Uint16Array, bool: Uint8Array,
  int8: Int8Array, uint8: Uint8Array, int16: Int16Array, uint16: Uint16Array,
  int32: Int32Array, int64: BigInt64Array,
}

/** Run a program; `read` gives the bytes of a file, `write` takes a text and bytes. */
export async function execute({ program, layertap, ort, read, write }) {
  const text = async (name) => new TextDecoder().decode(await read(name))
  const json = async (name) => JSON.parse(await text(name))
  const kept = []
  try {
    const shapes = await json("shapes.json")
    const given = async (name) => {
      const { file, dtype, shape } = shapes[name]
      if (dtype === "string") return new ort.Tensor("string", await json(file), shape)
      const bytes = await read(file)
      return new ort.Tensor(dtype, new ARRAYS[dtype](bytes.slice().buffer), shape)
    }
    const keep = (name, { type = "float32", data, dims }) => {
      const bytes =
        type === "string"
          ? new TextEncoder().encode(JSON.stringify(data))
          : new Uint8Array(data.buffer, data.byteOffset, data.byteLength).slice()
      kept.push({ about: { name, type, dims, size: bytes.length }, bytes })
    }
    const refused = async (action) => {
      try {
        await action()
        return null
      } catch (error) {
        const { name, message } = error
        return { name, message, own: error instanceof layertap.LayertapError }
      }
    }
    const { default: run } = await program()
    const names = Object.keys(shapes)
    const value = (await run({ layertap, ort, read, json, given, keep, refused, names })) ?? null
    await write(
      JSON.stringify(kept.map(({ about }) => about)),
      new Uint8Array(await new Blob(kept.map(({ bytes }) => bytes)).arrayBuffer()),
    )
    return { value }
  } catch (error) {
    return { error: String(error?.stack ?? error) }
  }
}
