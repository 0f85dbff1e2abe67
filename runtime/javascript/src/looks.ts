/** The error for a file that is no ONNX model. */

import { ModelFileError } from "./errors.js"

export function refusal(bytes: Uint8Array, error: Error): ModelFileError {
  const looks = describe(bytes)
  const damaged = looks ? `. It looks like ${looks}` : `, or is cut off (${error.message}). Copy or export it again`
  return new ModelFileError(`the file is not an ONNX model${damaged}.`, { cause: error })
}

/** What a file that is no ONNX model looks like. */
function describe(bytes: Uint8Array): string {
  const start = String.fromCharCode(...bytes.subarray(0, 64))
  const looks: [RegExp, string][] = [
    [/^$/, "an empty file"],
    [/^version https:\/\/git-lfs/, "a Git LFS pointer; fetch the model itself with `git lfs pull`"],
    [/^\s*<(!doctype )?html/i, "an HTML page: perhaps an error or login page came instead of the file"],
    [/^\s*[{[]/, "a JSON file"],
    [/^\x89HDF|^PK\x03\x04/, "a Keras model or another archive; export it with `layertap export`"],
    [/^....ORTM/s, "a model in onnxruntime's own format; give the .onnx file that it was made from"],
    [/^\x89PNG|^\xff\xd8\xff/, "an image"],
    [/^[\t\n\f\r -~]+$/, "a text file"],
  ]
  return looks.find(([mark]) => mark.test(start))?.[1] ?? ""
}
