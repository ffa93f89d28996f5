// What both consumers share: a PPM image, its normalisation, the metadata, the three likeliest
// classes. Standard library only.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

namespace mobilenas {

inline std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path);
  return {std::istreambuf_iterator<char>(file), {}};
}

// The bytes of a binary PPM (P6, 255) of side x side pixels: RGB, row by row.
inline std::vector<uint8_t> read_ppm(const std::string& path, int side) {
  std::ifstream file(path, std::ios::binary);
  std::string magic;
  int width = 0, height = 0, most = 0;
  file >> magic >> width >> height >> most;
  file.get();  // the one white space before the pixels
  if (!file || magic != "P6" || most != 255)
    throw std::runtime_error(path + " is not a binary PPM without comments (P6, 255)");
  if (width != side || height != side)
    throw std::runtime_error(path + ": the model takes " + std::to_string(side) + " x " +
                             std::to_string(side) + " pixels; scale and crop it first");
  std::vector<uint8_t> pixels(3 * static_cast<size_t>(side) * side);
  if (!file.read(reinterpret_cast<char*>(pixels.data()), pixels.size()))
    throw std::runtime_error(path + " ends early");
  return pixels;
}

// float32 (3, side, side) of uint8 (side, side, 3), as the metadata have it.
inline std::vector<float> normalise(const std::vector<uint8_t>& pixels,
                                    const std::vector<float>& mean,
                                    const std::vector<float>& std) {
  const size_t area = pixels.size() / 3;
  std::vector<float> planes(pixels.size());
  for (size_t i = 0; i < area; ++i)
    for (size_t c = 0; c < 3; ++c)
      planes[c * area + i] = (pixels[3 * i + c] / 255.0f - mean[c]) / std[c];
  return planes;
}

// The string that starts at the quotation mark text[at]; `at` moves behind it.
inline std::string json_string(const std::string& text, size_t& at) {
  std::string found;
  for (++at; at < text.size() && text[at] != '"'; ++at) {
    if (text[at] != '\\') {
      found += text[at];
      continue;
    }
    const char escaped = text.at(++at);
    if (escaped == 'u') {  // UTF-8 of it; of a surrogate pair each half by itself
      const unsigned code = std::strtoul(text.substr(at + 1, 4).c_str(), nullptr, 16);
      at += 4;
      if (code < 0x80) {
        found += static_cast<char>(code);
      } else if (code < 0x800) {
        found += static_cast<char>(0xC0 | code >> 6);
        found += static_cast<char>(0x80 | (code & 0x3F));
      } else {
        found += static_cast<char>(0xE0 | code >> 12);
        found += static_cast<char>(0x80 | (code >> 6 & 0x3F));
        found += static_cast<char>(0x80 | (code & 0x3F));
      }
    } else {
      found += escaped == 'n' ? '\n' : escaped == 't' ? '\t' : escaped;
    }
  }
  ++at;
  return found;
}

// All strings of a JSON list, or of a flat object: key, value, key, value.
inline std::vector<std::string> json_strings(const std::string& text) {
  std::vector<std::string> found;
  for (size_t at = text.find('"'); at < text.size(); at = text.find('"', at))
    found.push_back(json_string(text, at));
  return found;
}

// The three numbers of {"mean": [r, g, b], "std": [r, g, b]} behind a key.
inline std::vector<float> json_channels(const std::string& text, const std::string& key) {
  const size_t start = text.find('[', text.find('"' + key + '"'));
  if (start == std::string::npos) throw std::runtime_error("no " + key + " in " + text);
  std::vector<float> numbers(3);
  const char* next = text.c_str() + start + 1;
  for (float& number : numbers) {
    char* end = nullptr;
    number = std::strtof(next, &end);
    next = end + 1;  // the comma
  }
  return numbers;
}

inline void print_top3(const float* logits, const std::vector<std::string>& classes) {
  const float most = *std::max_element(logits, logits + classes.size());
  float sum = 0;
  for (size_t i = 0; i < classes.size(); ++i) sum += std::exp(logits[i] - most);
  std::vector<size_t> order(classes.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return logits[a] > logits[b]; });
  for (size_t i = 0; i < std::min<size_t>(3, order.size()); ++i)
    std::printf("  %.4f  %s\n", std::exp(logits[order[i]] - most) / sum,
                classes[order[i]].c_str());
}

}  // namespace mobilenas
