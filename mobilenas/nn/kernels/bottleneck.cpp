// An inverted bottleneck for training in float32: 1x1 expansion, batch norm and clamp, parallel depthwise
// convolutions with batch norm and clamp of each, their sum, and the 1x1 projection with batch norm.
//
// Inner maps are in blocks of LANES channels: (images, channels / LANES, pixels, LANES). So all that
// a depthwise convolution reads of an image lies together. `channels` is a multiple of LANES; what is
// beyond the last real one is zero. "Lines" are outer maps: (images, pixels, channels), of any number
// of channels.
//
// A norm is (mean, scale, shift, 1 / deviation) of each channel: it makes (x - mean) * scale + shift
// of x, which is then clamped to low..high. The gradient of x is scale * g + slope * (x - mean) +
// offset, where g is that behind the norm; (slope, offset) of each channel are its "ends".
//
// Work is split into `parts`, one a thread, each with sums of its own: the bits depend on the number
// of parts and on nothing else. Sums are float over some pixels, and double over these.
#include <sys/mman.h>

#include "loops.h"
#include "norms.h"

extern "C" {

// Sizes of a block. in, out: channels of the lines before and behind it; stride: 1 or 2; kernels: 3,
// 5, 7 or 9. The expansion is a convolution of lines of `colours` channels: window x window, steps of
// `step`, `margin` zeros around, so that in = window * window * colours.
struct Sizes {
  long images, in, channels, out, height, width, stride, paths, parts;
  long window, step, margin, colours, line_height, line_width;
  long kernels[4];
  float low, high;
  bool pointwise() const { return window == 1 && step == 1 && margin == 0; }
};

// The lines that some pixels of the expansion are made of, side by side; in `room` unless they are so.
static const float* seen(const Sizes& s, const float* lines, const Piece& at, float* room) {
  if (s.pointwise()) return lines + (at.image * s.height * s.width + at.pixel) * s.in;
  const float* image = lines + at.image * s.line_height * s.line_width * s.colours;
  std::memset(room, 0, at.count * s.in * sizeof(float));
  for (long p = at.pixel; p < at.pixel + at.count; p++, room += s.in) {
    const long top = p / s.width * s.step - s.margin, left = p % s.width * s.step - s.margin;
    const long first = std::max(-left, 0L), last = std::min(s.window, s.line_width - left);
    for (long y = std::max(-top, 0L); y < std::min(s.window, s.line_height - top); y++)
      std::memcpy(room + (y * s.window + first) * s.colours,
                  image + ((top + y) * s.line_width + left + first) * s.colours,
                  (last - first) * s.colours * sizeof(float));
  }
  return room - at.count * s.in;
}

static long output_pixels(const Sizes& s) {
  return ((s.height + s.stride - 1) / s.stride) * ((s.width + s.stride - 1) / s.stride);
}

int lanes() { return LANES; }

// Ask the system for huge pages where these bytes span some: loops over whole maps wait for memory.
void prefer_huge_pages(char* at, long bytes) {
  const long size = 2 << 20;
  char* first = (char*)(((long)at + size - 1) / size * size);
  const long whole = (at + bytes - first) / size * size;
  if (whole > 0) madvise(first, whole, MADV_HUGEPAGE);
}

// map = expansion of lines by weights (channels / LANES, in, LANES); sums (parts, 2, channels) +=
// sums of values and of their squares.
void expand(const Sizes* s, const float* lines, const float* weights, float* map, double* sums) {
  const long channels = s->channels, pixels = s->height * s->width, in = s->in;
  const long room = s->pointwise() ? 0 : in;
  by_pieces(s->images, pixels, channels + room, s->parts, [=](const Piece& at, float* made) {
    const Product product = {1, in, LANES, at.count * LANES, false};
    const float* from = seen(*s, lines, at, made + channels * at.count);
    float* to = map + at.image * channels * pixels + at.pixel * LANES;
    product({from, in, 0, 1}, {weights, in * LANES, 0, LANES}, at.count, channels, made);
    for (long c = 0; c < channels; c += LANES)
      by_rows(at.count, [=](long first, long count) {
        const float* values = made + c * at.count + first * LANES;
        float* put = to + c * pixels + first * LANES;
        Moments moments(load(values));
        moments.count = count;
        for (long r = 0; r < count; r++) {
          const Vector v = load(values + r * LANES), d = v - moments.near;
          stream(put + r * LANES, v);
          moments.first += d;
          moments.second += d * d;
        }
        moments.add_to(sums + at.part * 2 * channels + c, channels);
      });
  });
}

// Depthwise convolutions of the clamped hidden map: out (paths) of weights (paths) of (kernel,
// kernel, channels); sums (parts, paths, 2, channels) += sums of their values and squares.
void depthwise(const Sizes* s, const float* hidden, const float* norm, const float* const* weights,
               float* const* out, double* sums) {
  const int height = s->height, width = s->width, stride = s->stride;
  const int oh = (height + stride - 1) / stride, ow = (width + stride - 1) / stride;
  const long channels = s->channels, blocks = channels / LANES, all = s->images * blocks;
  const Limits to(s->low, s->high);
  const int border = *std::max_element(s->kernels, s->kernels + s->paths) / 2;
  const Grid grid(border, height, width, (padded(ow) - 1) * stride + 2 * border + 1);
  const long pitch = padded(ow);
#pragma omp parallel for num_threads(s->parts) schedule(static, 1)
  for (long part = 0; part < s->parts; part++) {
    Scratch tile(grid.size), result(oh * pitch);
    for (long i = all * part / s->parts; i < all * (part + 1) / s->parts; i++) {
      const long c = i % blocks * LANES;
      fill(tile.data, grid, hidden + i * height * width * LANES, Norm(norm + c, channels), to);
      for (int k = 0; k < s->paths; k++) {
        const int kernel = s->kernels[k], inside = border - kernel / 2;
        std::memset((void*)result.data, 0, oh * pitch * sizeof(Vector));
        loops(kernel, stride)
            .forward(tile.data + inside * (grid.pitch + 1), grid.pitch, weights[k] + c, channels,
                     result.data, pitch, oh, ow);
        Moments moments(result.data[0]);
        moments.count = (long)oh * ow;
        float* put = out[k] + i * oh * ow * LANES;
        for (int y = 0; y < oh; y++) {
          Vector first = {}, second = {};
          for (int x = 0; x < ow; x++, put += LANES) {
            const Vector v = result.data[y * pitch + x], d = v - moments.near;
            stream(put, v);
            first += d;
            second += d * d;
          }
          moments.first += first;
          moments.second += second;
        }
        moments.add_to(sums + (part * s->paths + k) * 2 * channels + c, channels);
      }
    }
    _mm_sfence();
  }
}

// lines = projection, by weights (ceil(out / LANES), channels, LANES), of the sum over paths of their
// clamped maps; norms (paths, NORM, channels); sums (parts, 2, wide) += sums of the lines and of their
// squares. wide: out, up to a multiple of LANES.
void project(const Sizes* s, const float* const* maps, const float* norms, const float* weights,
             float* lines, double* sums) {
  const long channels = s->channels, out = s->out, paths = s->paths;
  const long pixels = output_pixels(*s);
  const Limits to(s->low, s->high);
  by_pieces(s->images, pixels, channels, s->parts, [=](const Piece& at, float* shown) {
    const long place = at.image * channels * pixels + at.pixel * LANES;
    for (long c = 0; c < channels; c += LANES)
      by_rows(at.count, [=](long start, long count) {
        for (long k = 0; k < paths; k++) {
          const Norm norm(norms + k * NORM * channels + c, channels);
          const float* from = maps[k] + place + c * pixels + start * LANES;
          float* put = shown + c * at.count + start * LANES;
          for (long r = 0; r < count; r++, put += LANES) {
            const Vector v = clamp(norm(load(from + r * LANES)), to);
            store(put, k ? load(put) + v : v);
          }
        }
      });
    const Product product = {channels / LANES, LANES, out, LANES, false};
    product({shown, LANES, at.count * LANES, 1}, {weights, channels * LANES, LANES * LANES, LANES},
            at.count, out, lines + (at.image * pixels + at.pixel) * out);
    const float* made = lines + (at.image * pixels + at.pixel) * out;
    by_blocks(at.count, out, [=](long first, long count, long c, Some some) {
      const float* values = made + first * out + c;
      Moments moments(some.load(values));
      moments.count = count;
      for (long r = 0; r < count; r++) {
        const Vector d = some.load(values + r * out) - moments.near;
        moments.first += d;
        moments.second += d * d;
      }
      moments.add_to(sums + at.part * 2 * wide(out) + c, wide(out));
    });
  });
}

// result = norm (NORM, wide) of the lines behind the projection.
void normalise(const Sizes* s, const float* lines, const float* norm, float* result) {
  const long out = s->out, pixels = output_pixels(*s);
  by_pieces(s->images, pixels, out, s->parts, [=](const Piece& at, float*) {
    const long line = (at.image * pixels + at.pixel) * out;
    by_blocks(at.count, out, [=](long first, long count, long c, Some some) {
      const Norm of(norm + c, wide(out));
      for (long i = line + first * out + c; count--; i += out)
        some.store(result + i, of(some.load(lines + i)));
    });
  });
}

// sums (parts, 2, wide) += sums of grad, the gradient behind this norm, and of grad * (lines - mean).
void normalise_backward(const Sizes* s, const float* lines, const float* norm, const float* grad,
                        double* sums) {
  const long out = s->out, pixels = output_pixels(*s);
  by_pieces(s->images, pixels, out, s->parts, [=](const Piece& at, float*) {
    const long line = (at.image * pixels + at.pixel) * out;
    by_blocks(at.count, out, [=](long start, long count, long c, Some some) {
      const Norm of(norm + c, wide(out));
      Vector first = {}, second = {};
      for (long i = line + start * out + c; count--; i += out) {
        const Vector g = some.load(grad + i);
        first += g;
        second += g * (some.load(lines + i) - of.mean);
      }
      double* sum = sums + at.part * 2 * wide(out) + c;
      add(sum, first);
      add(sum + wide(out), second);
    });
  });
}

// Of grad, the gradient of the lines behind their norm `last` with its `last_ends` (2, wide): grad_map,
// that of the sum, by weights (channels / LANES, out, LANES); grad_weights (parts, out, channels) +=
// that of the projection; sums (parts, paths, 2, channels) += sums of the gradient g behind a norm and
// of g * (x - mean).
void project_backward(const Sizes* s, const float* const* maps, const float* norms,
                      const float* weights, const float* lines, const float* last,
                      const float* last_ends, const float* grad, float* grad_map,
                      float* grad_weights, double* sums) {
  const long channels = s->channels, out = s->out, paths = s->paths;
  const long pixels = output_pixels(*s);
  const Limits to(s->low, s->high);
  by_pieces(s->images, pixels, 2 * channels + out, s->parts, [=](const Piece& at, float* shown) {
    const long line = (at.image * pixels + at.pixel) * out;
    float *behind = shown + channels * at.count, *from = behind + channels * at.count;
    by_blocks(at.count, out, [=](long first, long count, long c, Some some) {
      const Norm of(last + c, wide(out));
      const Vector slope = load(last_ends + c), offset = load(last_ends + wide(out) + c);
      for (long i = first * out + c; count--; i += out) {
        const Vector g = some.load(grad + line + i), x = some.load(lines + line + i);
        some.store(from + i, of.scale * g + slope * (x - of.mean) + offset);
      }
    });
    const long place = at.image * channels * pixels + at.pixel * LANES;
    const Product product = {1, out, LANES, at.count * LANES, false};
    product({from, out, 0, 1}, {weights, out * LANES, 0, LANES}, at.count, channels, behind);
    for (long c = 0; c < channels; c += LANES)
      by_rows(at.count, [=](long start, long count) {
        for (long k = 0; k < paths; k++) {
          const Norm norm(norms + k * NORM * channels + c, channels);
          const long offset = place + c * pixels + start * LANES, piece = c * at.count + start * LANES;
          const float *values = maps[k] + offset, *grads = behind + piece;
          float* put = shown + piece;
          Vector first = {}, second = {};
          for (long r = 0; r < count; r++, put += LANES) {
            const Vector x = load(values + r * LANES), v = norm(x), kept = clamp(v, to);
            const Vector grad = load(grads + r * LANES), g = pass(v, grad, to);
            if (!k) stream(grad_map + offset + r * LANES, grad);
            store(put, k ? load(put) + kept : kept);
            first += g;
            second += g * (x - norm.mean);
          }
          double* sum = sums + (at.part * paths + k) * 2 * channels + c;
          add(sum, first);
          add(sum + channels, second);
        }
      });
    const Product adding = {1, at.count, channels, LANES, true};
    adding({from, 1, 0, out}, {shown, at.count * LANES, 0, LANES}, out, channels,
           grad_weights + at.part * out * channels);
  });
}

// Back through the paths: of grad, the gradient of their sum, that of the hidden map before its
// clamp. ends (paths, 2, channels). turned: the weights turned by 180 degrees. grad_weights
// (parts, kernel, kernel, channels) of each path and sums (parts, 2, channels) are added to.
// grad_hidden may be grad where the stride is 1.
void depthwise_backward(const Sizes* s, const float* hidden, const float* norm,
                        const float* const* maps, const float* norms, const float* ends,
                        const float* const* weights, const float* const* turned, const float* grad,
                        float* const* grad_weights, float* grad_hidden, double* sums) {
  const int height = s->height, width = s->width, stride = s->stride;
  const int oh = (height + stride - 1) / stride, ow = (width + stride - 1) / stride;
  const long channels = s->channels, blocks = channels / LANES, all = s->images * blocks;
  const Limits to(s->low, s->high);
  const int border = *std::max_element(s->kernels, s->kernels + s->paths) / 2;
  const Grid in(border, height, width, (ow + STEP) * stride + 2 * border),
      out(border, oh, ow, ow + STEP + 2 * border);
  const long pitch = padded(width);
#pragma omp parallel for num_threads(s->parts) schedule(static, 1)
  for (long part = 0; part < s->parts; part++) {
    Scratch tile(in.size), back(out.size), total(height * pitch);
    for (long i = all * part / s->parts; i < all * (part + 1) / s->parts; i++) {
      const long c = i % blocks * LANES;
      const float* from = hidden + i * height * width * LANES;
      const Norm before(norm + c, channels);
      fill(tile.data, in, from, before, to);
      std::memset((void*)total.data, 0, height * pitch * sizeof(Vector));
      for (int k = 0; k < s->paths; k++) {
        const Norm after(norms + k * NORM * channels + c, channels);
        const float* end = ends + k * 2 * channels + c;
        const Vector slope = load(end), offset = load(end + channels);
        const float *x = maps[k] + i * oh * ow * LANES, *g = grad + i * oh * ow * LANES;
        for (int y = 0; y < oh; y++) {
          Vector* row = back.data + out.row(y);
          for (int j = 0; j < ow; j++, x += LANES, g += LANES) {
            const Vector v = load(x), d = v - after.mean;
            row[j] = after.scale * pass(after(v), load(g), to) + slope * d + offset;
          }
        }
        const int kernel = s->kernels[k], inside = border - kernel / 2;
        const Loops run = loops(kernel, stride);
        if (run.backward)
          run.backward(back.data + inside * (out.pitch + 1), out.pitch, turned[k] + c, channels,
                       total.data, pitch, height, width);
        else
          run.spread(back.data, out, weights[k] + c, channels, total.data, pitch, height, width);
        run.weights(tile.data + inside * (in.pitch + 1), in.pitch, back.data, out,
                    grad_weights[k] + part * kernel * kernel * channels + c, channels);
      }
      Vector first = {}, second = {};
      float* put = grad_hidden + i * height * width * LANES;
      for (int y = 0; y < height; y++) {
        Vector row_first = {}, row_second = {};
        for (int j = 0; j < width; j++, from += LANES, put += LANES) {
          const Vector v = load(from), g = pass(before(v), total.data[y * pitch + j], to);
          if (grad_hidden == grad)
            store(put, g);  // in the cache, as it was just read
          else
            stream(put, g);
          row_first += g;
          row_second += g * (v - before.mean);
        }
        first += row_first;
        second += row_second;
      }
      add(sums + part * 2 * channels + c, first);
      add(sums + part * 2 * channels + channels + c, second);
    }
    _mm_sfence();
  }
}

// Of the gradient of the hidden map behind its norm: grad_lines, that of the lines that were
// expanded, by weights (ceil(in / LANES), channels, LANES), unless it is a null pointer, as it must
// be where the expansion is not 1x1;
// grad_weights (parts, in, channels) += that of the expansion.
void expand_backward(const Sizes* s, const float* lines, const float* map, const float* norm,
                     const float* ends, const float* grad, const float* weights, float* grad_lines,
                     float* grad_weights) {
  const long channels = s->channels, pixels = s->height * s->width, in = s->in;
  const long room = s->pointwise() ? 0 : in;
  by_pieces(s->images, pixels, channels + room, s->parts, [=](const Piece& at, float* whole) {
    const long place = at.image * channels * pixels + at.pixel * LANES;
    const float* from = seen(*s, lines, at, whole + channels * at.count);
    for (long c = 0; c < channels; c += LANES) {
      const Norm of(norm + c, channels);
      const Vector slope = load(ends + c), offset = load(ends + channels + c);
      const float *x = map + place + c * pixels, *g = grad + place + c * pixels;
      float* put = whole + c * at.count;
      for (long r = 0; r < at.count * LANES; r += LANES)
        store(put + r, of.scale * load(g + r) + slope * (load(x + r) - of.mean) + offset);
    }
    const Product adding = {1, at.count, channels, LANES, true};
    adding({from, 1, 0, in}, {whole, at.count * LANES, 0, LANES}, in, channels,
           grad_weights + at.part * in * channels);
    if (!grad_lines) return;
    const Product product = {channels / LANES, LANES, in, LANES, false};
    product({whole, LANES, at.count * LANES, 1}, {weights, channels * LANES, LANES * LANES, LANES},
            at.count, in, grad_lines + (at.image * pixels + at.pixel) * in);
  });
}
}
