// An inverted bottleneck up to its last batch norm, for training in float32: 1x1 expansion, batch norm
// and clamp, parallel depthwise convolutions with batch norm and clamp of each, their sum, and the
// 1x1 projection.
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
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#ifdef __AVX512F__
#define LANES 16
#else
#define LANES 8
#endif

typedef float Vector __attribute__((vector_size(4 * LANES)));
typedef float Unaligned __attribute__((vector_size(4 * LANES), aligned(4)));

namespace {

inline Vector load(const float* p) { return *(const Unaligned*)p; }
inline void store(float* p, Vector v) { *(Unaligned*)p = v; }

struct Limits {
  Vector low, high;
  Limits(float low, float high) : low(Vector{} + low), high(Vector{} + high) {}
};

// Of one block of channels.
struct Norm {
  Vector mean, scale, shift;
  Norm(const float* norm, long channels)
      : mean(load(norm)), scale(load(norm + channels)), shift(load(norm + 2 * channels)) {}
  Vector operator()(Vector x) const { return (x - mean) * scale + shift; }
};

// In this order of comparisons NaN stays NaN.
inline Vector clamp(Vector v, const Limits& to) {
  v = v < to.low ? to.low : v;
  return v > to.high ? to.high : v;
}

// The gradient before the clamp of v, of that behind it.
inline Vector pass(Vector v, Vector gradient, const Limits& to) {
  const Vector zero = {};
  gradient = v > to.low ? gradient : zero;
  return v < to.high ? gradient : zero;
}

inline void add(double* sums, Vector v) {
  for (int i = 0; i < LANES; i++) sums[i] += v[i];
}

// Sums of some values and of their squares, taken about the first of them against cancellation.
struct Moments {
  Vector near, first = {}, second = {};
  long count = 0;
  explicit Moments(Vector near) : near(near) {}
  void add_to(double* sums, long channels) const {
    for (int i = 0; i < LANES; i++) {
      const double about = near[i], sum = first[i];
      sums[i] += count * about + sum;
      sums[channels + i] += about * (count * about + 2 * sum) + second[i];
    }
  }
};

struct Scratch {  // zeros
  Vector* data;
  explicit Scratch(size_t count) {
    const size_t bytes = count * sizeof(Vector);
    data = (Vector*)std::aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!data) throw std::bad_alloc();
    std::memset((void*)data, 0, bytes);
  }
  ~Scratch() { std::free(data); }
  Scratch(const Scratch&) = delete;
};

constexpr long NORM = 4;  // figures a channel
constexpr int STEP = LANES == 16 ? 8 : 4;  // columns at once, as registers allow

// Pixels of an image that are handled together, so that they stay in the second cache.
struct Piece {
  long part, image, pixel, count;
};
constexpr long PIECE = 128 << 10;  // values
constexpr int HEIGHT = LANES == 16 ? 8 : 4;  // of a tile of a product, whose width is 3 blocks

template <typename Work>
void by_pieces(long images, long pixels, long channels, long parts, const Work& work) {
  const long most = std::max(PIECE / channels, (long)HEIGHT), pieces = (pixels + most - 1) / most;
  const long size = (pixels + pieces * HEIGHT - 1) / (pieces * HEIGHT) * HEIGHT, all = images * pieces;
#pragma omp parallel for num_threads(parts) schedule(static, 1)
  for (long part = 0; part < parts; part++) {
    Scratch scratch(size * channels / LANES);
    for (long i = all * part / parts; i < all * (part + 1) / parts; i++) {
      const long pixel = i % pieces * size, count = std::min(size, pixels - pixel);
      if (count > 0) work(Piece{part, i / pieces, pixel, count}, (float*)scratch.data);
    }
  }
}

// Call work(first, count) for some rows after the other: a sum over them is exact enough in float.
template <typename Work>
void by_rows(long count, const Work& work) {
  for (long first = 0; first < count; first += 32) work(first, std::min(32L, count - first));
}

// A factor of a product: where it is, and how far on the next row (or block) and the next terms of
// the sum are, which has two indices.
struct Factor {
  const float* at;
  long next, outer, inner;
};

// out[p][q] = sum of left[p] * right[q], or this added to it. left: numbers; right: blocks, of the
// last of which `lanes` are stored.
struct Product {
  long outer, inner;  // terms
  long next_row, next_block;  // of out
  bool adds;
  template <int P, int Q>
  void tile(const Factor& left, const Factor& right, float* out, int lanes) const {
    Vector sums[P][Q];
#pragma GCC unroll 8
    for (int p = 0; p < P; p++)
#pragma GCC unroll 3
      for (int q = 0; q < Q; q++)
        sums[p][q] = adds ? load(out + p * next_row + q * next_block) : Vector{};
    for (long i = 0; i < outer; i++) {
      const float *a = left.at + i * left.outer, *b = right.at + i * right.outer;
      for (long j = 0; j < inner; j++, a += left.inner, b += right.inner) {
        Vector values[Q];
#pragma GCC unroll 3
        for (int q = 0; q < Q; q++) values[q] = load(b + q * right.next);
#pragma GCC unroll 8
        for (int p = 0; p < P; p++)
#pragma GCC unroll 3
          for (int q = 0; q < Q; q++) sums[p][q] += a[p * left.next] * values[q];
      }
    }
#pragma GCC unroll 8
    for (int p = 0; p < P; p++)
#pragma GCC unroll 3
      for (int q = 0; q < Q; q++) {
        float* to = out + p * next_row + q * next_block;
        if (q == Q - 1 && lanes < LANES)
          std::memcpy(to, &sums[p][q], lanes * sizeof(float));
        else
          store(to, sums[p][q]);
      }
  }
  template <int P>
  void tile(int blocks, const Factor& left, const Factor& right, float* out, int lanes) const {
    if (blocks == 3) return tile<P, 3>(left, right, out, lanes);
    if (blocks == 2) return tile<P, 2>(left, right, out, lanes);
    tile<P, 1>(left, right, out, lanes);
  }
  // columns: numbers in a row of out.
  void operator()(Factor left, Factor right, long rows, long columns, float* out) const {
    const long blocks = (columns + LANES - 1) / LANES;
    for (long q = 0; q < blocks;) {
      const int some = blocks - q == 4 ? 2 : std::min(3L, blocks - q);
      const int lanes = q + some == blocks ? columns - (blocks - 1) * LANES : LANES;
      const Factor of = {right.at + q * right.next, right.next, right.outer, right.inner};
      for (long p = 0; p < rows; p += HEIGHT) {
        const Factor by = {left.at + p * left.next, left.next, left.outer, left.inner};
        float* to = out + p * next_row + q * next_block;
        switch (std::min((long)HEIGHT, rows - p)) {
          case 1: tile<1>(some, by, of, to, lanes); break;
          case 2: tile<2>(some, by, of, to, lanes); break;
          case 3: tile<3>(some, by, of, to, lanes); break;
          case 4: tile<4>(some, by, of, to, lanes); break;
          case 5: tile<5>(some, by, of, to, lanes); break;
          case 6: tile<6>(some, by, of, to, lanes); break;
          case 7: tile<7>(some, by, of, to, lanes); break;
          default: tile<HEIGHT>(some, by, of, to, lanes);
        }
      }
      q += some;
    }
  }
};

// An image of a block of channels with a border, and how it is gone through.
struct Grid {
  int border, height, width;
  long pitch, size;
  // columns: how many are read, border included.
  Grid(int border, int height, int width, int columns)
      : border(border),
        height(height),
        width(width),
        pitch(std::max(width + 2 * border, columns)),
        size(pitch * (height + 2 * border + 1)) {}
  long row(int y) const { return (y + border) * pitch + border; }
};

// out[y][x] += sum over a filter w (K, K, channels) of in[y * S + ky][x * S + kx]; J columns at once.
template <int K, int S, int J>
void convolve(const Vector* in, long in_pitch, const float* w, long channels, Vector* out,
              long out_pitch, int height, int width) {
  for (int y = 0; y < height; y++)
    for (int x = 0; x < width; x += J) {
      Vector* to = out + y * out_pitch + x;
      Vector sums[J];
#pragma GCC unroll 8
      for (int j = 0; j < J; j++) sums[j] = to[j];
      for (int ky = 0; ky < K; ky++) {
        const Vector* row = in + (y * S + ky) * in_pitch + x * S;
        Vector values[(J - 1) * S + K];
#pragma GCC unroll 32
        for (int i = 0; i < (J - 1) * S + K; i++) values[i] = row[i];
#pragma GCC unroll 16
        for (int kx = 0; kx < K; kx++) {
          const Vector weight = load(w + (ky * K + kx) * channels);
#pragma GCC unroll 8
          for (int j = 0; j < J; j++) sums[j] += weight * values[j * S + kx];
        }
      }
#pragma GCC unroll 8
      for (int j = 0; j < J; j++) to[j] = sums[j];
    }
}

// The columns at once that waste fewest of a row.
int columns_at_once(int width) {
  if (width <= 4) return 4;
  return (width + 6) / 7 * 7 < (width + 7) / 8 * 8 ? 7 : 8;
}
int padded(int width) {
  const int at_once = columns_at_once(width);
  return (width + at_once - 1) / at_once * at_once;
}

template <int K, int S>
void convolve(const Vector* in, long in_pitch, const float* w, long channels, Vector* out,
              long out_pitch, int height, int width) {
  const int at_once = columns_at_once(width);
  const auto run = at_once == 8   ? convolve<K, S, 8>
                   : at_once == 7 ? convolve<K, S, 7>
                                  : convolve<K, S, 4>;
  run(in, in_pitch, w, channels, out, out_pitch, height, width);
}

// The gradient of the input of a convolution of stride 2, added to out: columns and rows of one
// parity have the same part of the filter.
template <int K, int PARITY>
void spread_columns(const Vector* grad, const Grid& of, const float* w, long channels, Vector* out,
                    long pitch, int height, int width) {
  constexpr int PAD = K / 2, FIRST = (PARITY + PAD) % 2, TAPS = (K - FIRST + 1) / 2, J = STEP;
  constexpr int SHIFT = (PARITY + PAD - FIRST) / 2;  // of the first tap; each has one less
  const int count = (width - PARITY + 1) / 2;
  for (int y = 0; y < height; y++)
    for (int x = 0; x < count; x += J) {
      Vector sums[J] = {};
      for (int ky = (y + PAD) % 2; ky < K; ky += 2) {
        const Vector* row = grad + of.row((y + PAD - ky) / 2) + x + SHIFT - (TAPS - 1);
        Vector values[J + TAPS - 1];
#pragma GCC unroll 16
        for (int i = 0; i < J + TAPS - 1; i++) values[i] = row[i];
#pragma GCC unroll 8
        for (int tap = 0; tap < TAPS; tap++) {
          const Vector weight = load(w + (ky * K + FIRST + 2 * tap) * channels);
#pragma GCC unroll 8
          for (int j = 0; j < J; j++) sums[j] += weight * values[j + TAPS - 1 - tap];
        }
      }
      Vector* to = out + y * pitch + 2 * x + PARITY;
      for (int j = 0; j < std::min(J, count - x); j++) to[2 * j] += sums[j];
    }
}
template <int K>
void spread(const Vector* grad, const Grid& of, const float* w, long channels, Vector* out,
            long pitch, int height, int width) {
  spread_columns<K, 0>(grad, of, w, channels, out, pitch, height, width);
  spread_columns<K, 1>(grad, of, w, channels, out, pitch, height, width);
}

// sums (K, K, channels) += the gradient of the filter; R rows of it and J columns of grad at once.
// Beyond the last column of grad there are zeros.
template <int K, int S>
void correlate(const Vector* in, long in_pitch, const Vector* grad, const Grid& of, float* sums,
               long channels) {
  constexpr int R = K == 3 ? 3 : 1, J = STEP;
  for (int first = 0; first < K; first += R) {
    Vector total[R][K] = {};
    for (int y = 0; y < of.height; y++)
      for (int x = 0; x < of.width; x += J) {
        Vector factors[J];
#pragma GCC unroll 8
        for (int j = 0; j < J; j++) factors[j] = grad[of.row(y) + x + j];
#pragma GCC unroll 3
        for (int r = 0; r < R; r++) {
          const Vector* row = in + (y * S + first + r) * in_pitch + x * S;
#pragma GCC unroll 32
          for (int i = 0; i < (J - 1) * S + K; i++) {
            const Vector value = row[i];
#pragma GCC unroll 8
            for (int j = 0; j < J; j++)
              if (i - j * S >= 0 && i - j * S < K) total[r][i - j * S] += factors[j] * value;
          }
        }
      }
    for (int r = 0; r < R; r++)
      for (int kx = 0; kx < K; kx++) {
        float* to = sums + ((first + r) * K + kx) * channels;
        store(to, load(to) + total[r][kx]);
      }
  }
}

// What is done for each kernel and stride.
struct Loops {
  decltype(&convolve<3, 1>) forward, backward;  // backward: nullptr for stride 2
  decltype(&spread<3>) spread;
  decltype(&correlate<3, 1>) weights;
};
template <int K>
Loops loops(int stride) {
  if (stride == 1) return {convolve<K, 1>, convolve<K, 1>, nullptr, correlate<K, 1>};
  return {convolve<K, 2>, nullptr, spread<K>, correlate<K, 2>};
}
Loops loops(int kernel, int stride) {
  switch (kernel) {
    case 3: return loops<3>(stride);
    case 5: return loops<5>(stride);
    case 7: return loops<7>(stride);
    default: return loops<9>(stride);
  }
}

void fill(Vector* tile, const Grid& grid, const float* map, const Norm& norm, const Limits& to) {
  for (int y = 0; y < grid.height; y++) {
    Vector* row = tile + grid.row(y);
    const float* from = map + (long)y * grid.width * LANES;
    for (int x = 0; x < grid.width; x++) row[x] = clamp(norm(load(from + x * LANES)), to);
  }
}

}  // namespace

extern "C" {

// Sizes of a block. in, out: channels of the lines before and behind it; stride: 1 or 2; kernels: 3,
// 5, 7 or 9.
struct Sizes {
  long images, in, channels, out, height, width, stride, paths, parts;
  long kernels[4];
  float low, high;
};

static long output_pixels(const Sizes& s) {
  return ((s.height + s.stride - 1) / s.stride) * ((s.width + s.stride - 1) / s.stride);
}

int lanes() { return LANES; }

// map = expansion of lines by weights (channels / LANES, in, LANES); sums (parts, 2, channels) +=
// sums of values and of their squares.
void expand(const Sizes* s, const float* lines, const float* weights, float* map, double* sums) {
  const long channels = s->channels, pixels = s->height * s->width, in = s->in;
  const Product product = {1, in, LANES, pixels * LANES, false};
  by_pieces(s->images, pixels, channels, s->parts, [=](const Piece& at, float*) {
    const float* from = lines + (at.image * pixels + at.pixel) * in;
    float* to = map + at.image * channels * pixels + at.pixel * LANES;
    product({from, in, 0, 1}, {weights, in * LANES, 0, LANES}, at.count, channels, to);
    for (long c = 0; c < channels; c += LANES)
      by_rows(at.count, [=](long first, long count) {
        const float* values = to + c * pixels + first * LANES;
        Moments moments(load(values));
        moments.count = count;
        for (long r = 0; r < count; r++) {
          const Vector d = load(values + r * LANES) - moments.near;
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
            store(put, v);
            first += d;
            second += d * d;
          }
          moments.first += first;
          moments.second += second;
        }
        moments.add_to(sums + (part * s->paths + k) * 2 * channels + c, channels);
      }
    }
  }
}

// lines = projection, by weights (ceil(out / LANES), channels, LANES), of the sum over paths of their
// clamped maps; norms (paths, NORM, channels).
void project(const Sizes* s, const float* const* maps, const float* norms, const float* weights,
             float* lines) {
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
  });
}

// Of the gradient of these lines: grad_map, that of the sum, by weights (channels / LANES, out,
// LANES); grad_weights (parts, out, channels) += that of the projection; sums (parts, paths, 2,
// channels) += sums of the gradient g behind a norm and of g * (x - mean).
void project_backward(const Sizes* s, const float* const* maps, const float* norms,
                      const float* weights, const float* grad, float* grad_map,
                      float* grad_weights, double* sums) {
  const long channels = s->channels, out = s->out, paths = s->paths;
  const long pixels = output_pixels(*s);
  const Limits to(s->low, s->high);
  by_pieces(s->images, pixels, channels, s->parts, [=](const Piece& at, float* shown) {
    const float* from = grad + (at.image * pixels + at.pixel) * out;
    const long place = at.image * channels * pixels + at.pixel * LANES;
    const Product product = {1, out, LANES, pixels * LANES, false};
    product({from, out, 0, 1}, {weights, out * LANES, 0, LANES}, at.count, channels,
            grad_map + place);
    for (long c = 0; c < channels; c += LANES)
      by_rows(at.count, [=](long start, long count) {
        for (long k = 0; k < paths; k++) {
          const Norm norm(norms + k * NORM * channels + c, channels);
          const long offset = place + c * pixels + start * LANES;
          const float *values = maps[k] + offset, *grads = grad_map + offset;
          float* put = shown + c * at.count + start * LANES;
          Vector first = {}, second = {};
          for (long r = 0; r < count; r++, put += LANES) {
            const Vector x = load(values + r * LANES), v = norm(x), kept = clamp(v, to);
            const Vector g = pass(v, load(grads + r * LANES), to);
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
          store(put, g);
          row_first += g;
          row_second += g * (v - before.mean);
        }
        first += row_first;
        second += row_second;
      }
      add(sums + part * 2 * channels + c, first);
      add(sums + part * 2 * channels + channels + c, second);
    }
  }
}

// Of the gradient of the hidden map behind its norm: grad_lines, that of the lines that were
// expanded, by weights (ceil(in / LANES), channels, LANES), unless it is a null pointer;
// grad_weights (parts, in, channels) += that of the expansion.
void expand_backward(const Sizes* s, const float* lines, const float* map, const float* norm,
                     const float* ends, const float* grad, const float* weights, float* grad_lines,
                     float* grad_weights) {
  const long channels = s->channels, pixels = s->height * s->width, in = s->in;
  by_pieces(s->images, pixels, channels, s->parts, [=](const Piece& at, float* whole) {
    const long place = at.image * channels * pixels + at.pixel * LANES;
    const long line = (at.image * pixels + at.pixel) * in;
    for (long c = 0; c < channels; c += LANES) {
      const Norm of(norm + c, channels);
      const Vector slope = load(ends + c), offset = load(ends + channels + c);
      const float *x = map + place + c * pixels, *g = grad + place + c * pixels;
      float* put = whole + c * at.count;
      for (long r = 0; r < at.count * LANES; r += LANES)
        store(put + r, of.scale * load(g + r) + slope * (load(x + r) - of.mean) + offset);
    }
    const Product adding = {1, at.count, channels, LANES, true};
    adding({lines + line, 1, 0, in}, {whole, at.count * LANES, 0, LANES}, in, channels,
           grad_weights + at.part * in * channels);
    if (!grad_lines) return;
    const Product product = {channels / LANES, LANES, in, LANES, false};
    product({whole, LANES, at.count * LANES, 1}, {weights, channels * LANES, LANES * LANES, LANES},
            at.count, in, grad_lines + line);
  });
}
}
