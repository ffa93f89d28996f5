// Classify PPM images with an .onnx file of `mobilenas export`, float32 or int8, either input layout.
//   ./classify model.onnx image.ppm ...
#include <onnxruntime_cxx_api.h>

#include <array>

#include "classify.h"

int main(int count, char** arguments) try {
  if (count < 3) throw std::runtime_error("usage: classify model.onnx image.ppm ...");
  Ort::Env env(ORT_LOGGING_LEVEL_WARNING, "classify");
  Ort::SessionOptions options;
  options.SetIntraOpNumThreads(1);
  Ort::Session session(env, arguments[1], options);

  Ort::AllocatorWithDefaultOptions allocator;
  const Ort::ModelMetadata metadata = session.GetModelMetadata();
  const auto about = [&](const char* key) -> std::string {
    const auto value = metadata.LookupCustomMetadataMapAllocated(key, allocator);
    if (!value) throw std::runtime_error(std::string("no metadata ") + key);
    return value.get();
  };
  const int side = std::stoi(about("input_resolution"));
  const bool takes_bytes = about("input_layout").rfind("NHWC", 0) == 0;
  const std::vector<std::string> classes = mobilenas::json_strings(about("classes"));
  const std::string scale = about("input_normalisation");
  const std::vector<float> mean = mobilenas::json_channels(scale, "mean");
  const std::vector<float> std = mobilenas::json_channels(scale, "std");

  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  const std::array<int64_t, 4> nhwc{1, side, side, 3}, nchw{1, 3, side, side};
  const char* inputs[] = {"image"};
  const char* outputs[] = {"logits"};
  for (int i = 2; i < count; ++i) {
    std::vector<uint8_t> pixels = mobilenas::read_ppm(arguments[i], side);
    std::vector<float> planes = mobilenas::normalise(pixels, mean, std);
    const Ort::Value image =
        takes_bytes ? Ort::Value::CreateTensor<uint8_t>(memory, pixels.data(), pixels.size(),
                                                        nhwc.data(), nhwc.size())
                    : Ort::Value::CreateTensor<float>(memory, planes.data(), planes.size(),
                                                      nchw.data(), nchw.size());
    const auto result = session.Run(Ort::RunOptions{nullptr}, inputs, &image, 1, outputs, 1);
    std::printf("%s\n", arguments[i]);
    mobilenas::print_top3(result[0].GetTensorData<float>(), classes);
  }
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "classify: %s\n", error.what());
  return 1;
}
