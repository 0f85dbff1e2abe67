/* One output of a finished file, by the C API alone:
 *     layer APP.onnx PIXELS HEIGHT WIDTH CHANNELS OUTPUT OUT.f32
 * PIXELS holds a picture as bytes, row by row; OUT.f32 gets the values as float32. */
#include <onnxruntime_c_api.h>
#include <stdio.h>
#include <stdlib.h>

static const OrtApi *ort;

static void ok(OrtStatus *status) {
  if (status == NULL) return;
  fprintf(stderr, "layer: %s\n", ort->GetErrorMessage(status));
  exit(1);
}

int main(int count, char **given) {
  if (count != 8) {
    fprintf(stderr, "usage: layer APP.onnx PIXELS HEIGHT WIDTH CHANNELS OUTPUT OUT.f32\n");
    return 2;
  }
  int64_t shape[3] = {atoll(given[3]), atoll(given[4]), atoll(given[5])}, top = -1, one = 1;
  if (shape[0] < 1 || shape[0] > 65536 || shape[1] < 1 || shape[1] > 65536 || shape[2] < 1 || shape[2] > 4) {
    fprintf(stderr, "layer: the sizes must be 1 to 65536, and the channels 1 to 4\n");
    return 2;
  }
  size_t size = (size_t)(shape[0] * shape[1] * shape[2]);
  unsigned char *pixels = malloc(size);
  FILE *file = fopen(given[2], "rb");
  if (file == NULL || pixels == NULL || fread(pixels, 1, size, file) != size) {
    fprintf(stderr, "layer: %s: cannot be read, or has fewer than %zu bytes\n", given[2], size);
    return 1;
  }
  fclose(file);

  ort = OrtGetApiBase()->GetApi(ORT_API_VERSION);
  if (ort == NULL) {
    fprintf(stderr, "layer: the library of onnxruntime is older than its headers\n");
    return 1;
  }
  OrtEnv *env;
  OrtSessionOptions *options;
  OrtSession *session;
  OrtAllocator *allocator;
  OrtMemoryInfo *memory;
  ok(ort->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "layer", &env));
  ok(ort->DisableTelemetryEvents(env));
  ok(ort->CreateSessionOptions(&options));
  ok(ort->CreateSession(env, given[1], options, &session)); /* on Windows the path is wchar_t */
  ok(ort->GetAllocatorWithDefaultOptions(&allocator));
  ok(ort->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));

  /* The picture comes first. A file whose heat map depends on the class has the input `target` too. */
  size_t inputs;
  char *names[2];
  OrtValue *values[2] = {NULL, NULL}, *found = NULL;
  ok(ort->SessionGetInputCount(session, &inputs));
  if (inputs > 2) {
    fprintf(stderr, "layer: %s has %zu inputs, not the one or two of a finished file\n", given[1], inputs);
    return 1;
  }
  for (size_t i = 0; i < inputs; i++) ok(ort->SessionGetInputName(session, i, allocator, &names[i]));
  ok(ort->CreateTensorWithDataAsOrtValue(memory, pixels, size, shape, 3, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, &values[0]));
  ok(ort->CreateTensorWithDataAsOrtValue(memory, &top, sizeof top, &one, 1, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, &values[1]));

  const char *wanted = given[6];
  ok(ort->Run(session, NULL, (const char *const *)names, (const OrtValue *const *)values, inputs, &wanted, 1, &found));

  OrtTensorTypeAndShapeInfo *info;
  ONNXTensorElementDataType type;
  void *data;
  ok(ort->GetTensorTypeAndShape(found, &info));
  ok(ort->GetTensorElementType(info, &type));
  ok(ort->GetTensorShapeElementCount(info, &size));
  ok(ort->GetTensorMutableData(found, &data));
  if (type != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) {
    fprintf(stderr, "layer: '%s' is not float32\n", wanted);
    return 1;
  }
  file = fopen(given[7], "wb");
  if (file == NULL || fwrite(data, sizeof(float), size, file) != size || fclose(file) != 0) {
    fprintf(stderr, "layer: %s: cannot be written\n", given[7]);
    return 1;
  }
  printf("%zu values\n", size);

  ort->ReleaseTensorTypeAndShapeInfo(info);
  ort->ReleaseValue(found);
  ort->ReleaseValue(values[0]);
  ort->ReleaseValue(values[1]);
  for (size_t i = 0; i < inputs; i++) ok(ort->AllocatorFree(allocator, names[i]));
  ort->ReleaseMemoryInfo(memory);
  ort->ReleaseSession(session);
  ort->ReleaseSessionOptions(options);
  ort->ReleaseEnv(env);
  free(pixels);
  return 0;
}
