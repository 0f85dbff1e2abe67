// Scores, layers, heat maps and class gradients of layertap files, with onnxruntime alone.
//
//   layertap scores   APP.onnx PICTURE [K]            the best classes, with their labels
//   layertap layer    APP.onnx PICTURE LAYER OUT.npy  a layer: finish --layers LAYER
//   layertap cam      APP.onnx PICTURE CLASS OUT.pgm  a heat map: finish --heat-map
//   layertap gradient APP.onnx PICTURE GRADIENTS.onnx LAYER CLASS OUT.npy
//
// APP.onnx is a finished file, PICTURE a PGM or PPM file, CLASS a label, an index or "top". For a
// gradient, APP.onnx has the model's prepared input as an output (finish --layers INPUT), and
// GRADIENTS.onnx was written by `layertap cut --class-input required` (or with an optional one).
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cstdio>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "json.hpp"
#include "npy.hpp"
#include "picture.hpp"

// A text from a file, so that a terminal shows it and does not obey it.
std::string shown(const std::string& text) {
  std::string safe;
  for (size_t i = 0; i < text.size(); i++) {
    auto byte = static_cast<unsigned char>(text[i]);
    bool c1 = byte == 0xC2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xA0;
    if (byte < 32 || byte == 127 || c1) {
      char escaped[8];
      std::snprintf(escaped, sizeof escaped, "\\x%02x", c1 ? static_cast<unsigned char>(text[++i]) : byte);
      safe += escaped;
    } else {
      safe += text[i];
    }
  }
  return safe;
}

#ifdef _WIN32
std::wstring native(const std::string& path) { return std::wstring(path.begin(), path.end()); }
#else
const std::string& native(const std::string& path) { return path; }
#endif

struct Feed {
  std::string name;
  Ort::Value value;
};

class Model {
 public:
  Model(Ort::Env& env, const std::string& path) : path(path), session(env, native(path).c_str(), Ort::SessionOptions{}) {
    Ort::AllocatorWithDefaultOptions allocator;
    auto text = session.GetModelMetadata().LookupCustomMetadataMapAllocated("layertap", allocator);
    if (!text) throw std::runtime_error(path + ": has no card: it was not written by layertap");
    card = JsonReader(text.get()).read();
    if (card["format"].text.compare(0, 2, "1.") != 0)
      throw std::runtime_error(path + ": its format " + shown(card["format"].text) + " is newer than 1");
    for (size_t i = 0; i < session.GetInputCount(); i++) inputs.push_back(session.GetInputNameAllocated(i, allocator).get());
    for (size_t i = 0; i < session.GetOutputCount(); i++) outputs.push_back(session.GetOutputNameAllocated(i, allocator).get());
  }

  // The name that a finished file gives to a part, for example its heat map.
  const std::string& finished(const std::string& part, const std::string& option) const {
    const Json& name = card["finished"][part];
    if (name.kind != Json::string)
      throw std::runtime_error(path + ": has no '" + part + "': write it with `layertap finish" + option + "`");
    return name.text;
  }

  // The tensor of a layer, which the card says. A reduced layer, NAME/mean, is in the graph alone.
  std::string tensor(const std::string& layer) const {
    for (const auto& row : card["layers"].items)
      if (row["name"].text == layer && row["tensor"].kind == Json::string) return row["tensor"].text;
    return layer;
  }

  // The index of a class: a label, an index, or "top" (-1).
  int64_t target(const std::string& asked) const {
    if (asked == "top") return -1;
    const auto& labels = card["labels"].items;
    for (size_t i = 0; i < labels.size(); i++)
      if (labels[i].text == asked) return static_cast<int64_t>(i);
    if (asked.empty() || asked.size() > 9 || asked.find_first_not_of("0123456789") != std::string::npos)
      throw std::runtime_error("the model has no class '" + asked + "'; give a label, an index, or top");
    return std::stoll(asked);
  }

  std::string label(size_t index) const {
    const auto& labels = card["labels"].items;
    return index < labels.size() ? shown(labels[index].text) : std::to_string(index);
  }

  Ort::Value run(std::vector<Feed>& feeds, const std::string& output) {
    if (std::find(outputs.begin(), outputs.end(), output) == outputs.end()) {
      std::string names;
      for (const auto& name : outputs) names += " " + shown(name);
      throw std::runtime_error(path + ": has no output '" + shown(output) + "'; it has" + names);
    }
    std::vector<const char*> names;
    std::vector<Ort::Value> values;
    for (auto& feed : feeds) {
      names.push_back(feed.name.c_str());
      values.push_back(std::move(feed.value));
    }
    const char* wanted = output.c_str();
    auto found = session.Run(Ort::RunOptions{}, names.data(), values.data(), values.size(), &wanted, 1);
    if (found[0].GetTensorTypeAndShapeInfo().GetElementType() != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT)
      throw std::runtime_error(path + ": '" + shown(output) + "' is not float32, which is all that this example reads");
    return std::move(found[0]);
  }

  std::string path;
  Ort::Session session;
  Json card;
  std::vector<std::string> inputs, outputs;
};

template <typename T>
Feed feed(const std::string& name, T* values, size_t count, const std::vector<int64_t>& shape) {
  auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  return {name, Ort::Value::CreateTensor<T>(memory, values, count, shape.data(), shape.size())};
}

// An output of a finished file for a picture, float32.
Ort::Value of_picture(Model& app, Picture& picture, int64_t target, const std::string& output) {
  const std::string& image = app.finished("image", " --image-input");
  Ort::AllocatorWithDefaultOptions allocator;
  std::vector<int64_t> shape = {picture.height, picture.width, picture.channels};
  for (size_t i = 0; i < app.inputs.size(); i++)  // a file of --batch has an axis of samples
    if (app.inputs[i] == image && app.session.GetInputTypeInfo(i).GetTensorTypeAndShapeInfo().GetShape().size() == 4)
      shape.insert(shape.begin(), 1);
  std::vector<Feed> feeds;
  feeds.push_back(feed(image, picture.pixels.data(), picture.pixels.size(), shape));
  const Json& explained = app.card["finished"]["target"];
  if (explained.kind == Json::string) feeds.push_back(feed(explained.text, &target, 1, {1}));
  return app.run(feeds, output);
}

std::vector<int64_t> shape_of(const Ort::Value& value) { return value.GetTensorTypeAndShapeInfo().GetShape(); }

void scores(Ort::Env& env, const std::vector<std::string>& arguments) {
  Model app(env, arguments[0]);
  Picture picture = read_picture(arguments[1]);
  Ort::Value found = of_picture(app, picture, -1, app.finished("scores", ""));
  const float* values = found.GetTensorData<float>();
  std::vector<size_t> order(found.GetTensorTypeAndShapeInfo().GetElementCount());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return values[a] > values[b]; });
  if (arguments.size() > 2) {
    if (arguments[2].empty() || arguments[2].size() > 9 || arguments[2].find_first_not_of("0123456789") != std::string::npos)
      throw std::runtime_error("K must be a number of classes, got '" + arguments[2] + "'");
    order.resize(std::min<size_t>(order.size(), std::stoul(arguments[2])));
  }
  for (size_t index : order) std::printf("%.9g %s\n", static_cast<double>(values[index]), app.label(index).c_str());
}

void layer(Ort::Env& env, const std::vector<std::string>& arguments) {
  Model app(env, arguments[0]);
  Picture picture = read_picture(arguments[1]);
  Ort::Value found = of_picture(app, picture, -1, app.tensor(arguments[2]));
  write_npy(arguments[3], found.GetTensorData<float>(), shape_of(found));
}

void cam(Ort::Env& env, const std::vector<std::string>& arguments) {
  Model app(env, arguments[0]);
  Picture picture = read_picture(arguments[1]);
  Ort::Value found = of_picture(app, picture, app.target(arguments[2]), app.finished("heat_map", " --heat-map"));
  const std::string& path = arguments[3];
  if (path.size() > 4 && path.substr(path.size() - 4) == ".npy") write_npy(path, found.GetTensorData<float>(), shape_of(found));
  else write_pgm(path, found.GetTensorData<float>(), picture.height, picture.width);
}

void gradient(Ort::Env& env, const std::vector<std::string>& arguments) {
  Model app(env, arguments[0]), network(env, arguments[2]);
  Picture picture = read_picture(arguments[1]);
  const Json& gradients = network.card["gradients"];
  const Json& tensor = gradients["tensors"][arguments[3]];
  if (tensor.kind != Json::string) {
    std::string names;
    for (const auto& known : gradients["tensors"].members) names += " " + shown(known.first);
    throw std::runtime_error(network.path + ": has no gradient of '" + arguments[3] + "'; it has those of" +
                             (names.empty() ? " no layer: export it with --gradients" : names));
  }
  const std::string& input = network.card["inputs"].items.at(0)["name"].text;
  Ort::Value prepared = of_picture(app, picture, -1, app.tensor(input));
  std::vector<int64_t> shape = shape_of(prepared);
  // One weight for each class: 1 for the class whose score is differentiated.
  int64_t target = network.target(arguments[4]);
  size_t classes = network.card["labels"].items.size();
  for (const auto& output : network.card["outputs"].items)
    if (output["name"].text == gradients["output"].text && !output["shape"].items.empty())
      classes = static_cast<size_t>(output["shape"].items.back().value);
  if (target < 0 || static_cast<size_t>(target) >= classes)
    throw std::runtime_error("a gradient needs a class from 0 to " + std::to_string(classes - 1));
  std::vector<float> weights(classes, 0.0f);
  weights[static_cast<size_t>(target)] = 1.0f;
  std::vector<Feed> feeds;
  feeds.push_back(feed(input, prepared.GetTensorMutableData<float>(), prepared.GetTensorTypeAndShapeInfo().GetElementCount(), shape));
  feeds.push_back(feed(gradients["weights"].text, weights.data(), classes, {1, static_cast<int64_t>(classes)}));
  Ort::Value found = network.run(feeds, tensor.text);
  write_npy(arguments[5], found.GetTensorData<float>(), shape_of(found));
}

int main(int count, char** given) {
  std::vector<std::string> arguments(given + std::min(count, 2), given + count);
  const std::string command = count > 1 ? given[1] : "";
  const struct {
    const char* name;
    size_t least, most;
    void (*act)(Ort::Env&, const std::vector<std::string>&);
    const char* usage;
  } commands[] = {
      {"scores", 2, 3, scores, "APP.onnx PICTURE [K]"},
      {"layer", 4, 4, layer, "APP.onnx PICTURE LAYER OUT.npy"},
      {"cam", 4, 4, cam, "APP.onnx PICTURE CLASS OUT.pgm"},
      {"gradient", 6, 6, gradient, "APP.onnx PICTURE GRADIENTS.onnx LAYER CLASS OUT.npy"},
  };
  try {
    for (const auto& known : commands)
      if (command == known.name && arguments.size() >= known.least && arguments.size() <= known.most) {
        Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "layertap");
        env.DisableTelemetryEvents();
        known.act(env, arguments);
        return 0;
      }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "layertap: %s\n", error.what());
    return 1;
  }
  for (const auto& known : commands) std::fprintf(stderr, "usage: layertap %s %s\n", known.name, known.usage);
  return 2;
}
