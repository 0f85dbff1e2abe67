// node in_node.mjs CLIENT PACKAGE FOLDER: runs the program in a folder.

import fs from "node:fs"
import { createRequire } from "node:module"
import { pathToFileURL } from "node:url"
import { execute } from "./harness.mjs"

const [client, home, folder] = process.argv.slice(2)
const result = await execute({
  program: () => import(pathToFileURL(`${folder}/program.mjs`)),
  layertap: await import(pathToFileURL(client)),
  ort: createRequire(`${home}/`)("onnxruntime-node"),
  read: async (name) => new Uint8Array(fs.readFileSync(`${folder}/${name}`)),
  write: async (abouts, bytes) => {
    fs.writeFileSync(`${folder}/kept.json`, abouts)
    fs.writeFileSync(`${folder}/kept.bin`, bytes)
  },
})
fs.writeFileSync(`${folder}/result.json`, JSON.stringify(result))
