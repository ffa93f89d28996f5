// What bottleneck.cpp is made of: vectors of LANES channels, batch norms and clamps of these, how the
// work is split, matrix products, and depthwise convolutions with their gradients.
#pragma once
#include <immintrin.h>

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

// Past the caches: a large map that is written once would be read in first, only to be overwritten. A
// fence must follow before another thread reads.
inline void stream(float* p, Vector v) {
#if LANES == 16
  _mm512_stream_ps(p, (__m512)v);
#else
  _mm256_stream_ps(p, (__m256)v);
#endif
}

// The last channels of a line, which may be fewer than LANES; beyond them are zeros.
struct Some {
#if LANES == 16
  __mmask16 mask;
  explicit Some(long lanes) : mask(lanes < LANES ? (1 << lanes) - 1 : 0xffff) {}
  Vector load(const float* p) const { return (Vector)_mm512_maskz_loadu_ps(mask, p); }
  void store(float* p, Vector v) const { _mm512_mask_storeu_ps(p, mask, (__m512)v); }
#else
  __m256i mask;
  explicit Some(long lanes)
      : mask(_mm256_cmpgt_epi32(_mm256_set1_epi32((int)std::min(lanes, 8L)),
                                _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))) {}
  Vector load(const float* p) const { return (Vector)_mm256_maskload_ps(p, mask); }
  void store(float* p, Vector v) const { _mm256_maskstore_ps(p, mask, (__m256)v); }
#endif
};

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
    Scratch scratch((size * channels + LANES - 1) / LANES);
    for (long i = all * part / parts; i < all * (part + 1) / parts; i++) {
      const long pixel = i % pieces * size, count = std::min(size, pixels - pixel);
      if (count > 0) work(Piece{part, i / pieces, pixel, count}, (float*)scratch.data);
    }
    _mm_sfence();
  }
}

// Call work(first, count) for some rows after the other: a sum over them is exact enough in float.
template <typename Work>
void by_rows(long count, const Work& work) {
  for (long first = 0; first < count; first += 32) work(first, std::min(32L, count - first));
}

// Call work(first, count, c, channels that there are) for rows and blocks of channels of lines.
template <typename Work>
void by_blocks(long count, long channels, const Work& work) {
  for (long c = 0; c < channels; c += LANES)
    by_rows(count, [&](long first, long rows) { work(first, rows, c, Some(channels - c)); });
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
