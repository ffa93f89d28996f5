// Classify PPM images with a .pte file of `mobilenas export`, fp32 or int8, either input layout; its
// metadata are in the .json file beside it.
//   ./classify model.pte image.ppm ...
#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>

#include <map>

#include "classify.h"

using executorch::aten::ScalarType;
using executorch::extension::from_blob;
using executorch::extension::Module;

int main(int count, char** arguments) try {
  if (count < 3) throw std::runtime_error("usage: classify model.pte image.ppm ...");
  const std::string path = arguments[1];
  const auto words = mobilenas::json_strings(
      mobilenas::read_file(path + ".json"));
  std::map<std::string, std::string> about;
  for (size_t i = 0; i + 1 < words.size(); i += 2) about[words[i]] = words[i + 1];

  const int side = std::stoi(about.at("input_resolution"));
  const bool takes_bytes = about.at("input_layout").rfind("NHWC", 0) == 0;
  const std::vector<std::string> classes = mobilenas::json_strings(about.at("classes"));
  const std::vector<float> mean = mobilenas::json_channels(about.at("input_normalisation"), "mean");
  const std::vector<float> std = mobilenas::json_channels(about.at("input_normalisation"), "std");

  Module module(path);
  for (int i = 2; i < count; ++i) {
    std::vector<uint8_t> pixels = mobilenas::read_ppm(arguments[i], side);
    std::vector<float> planes = mobilenas::normalise(pixels, mean, std);
    const auto image = takes_bytes
                           ? from_blob(pixels.data(), {1, side, side, 3}, ScalarType::Byte)
                           : from_blob(planes.data(), {1, 3, side, side}, ScalarType::Float);
    const auto result = module.forward(image);
    if (!result.ok())
      throw std::runtime_error("ExecuTorch: error " +
                               std::to_string(static_cast<int>(result.error())));
    std::printf("%s\n", arguments[i]);
    mobilenas::print_top3(result->at(0).toTensor().const_data_ptr<float>(), classes);
  }
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "classify: %s\n", error.what());
  return 1;
}
