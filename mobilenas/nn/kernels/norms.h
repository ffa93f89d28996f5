// Batch norms between their two passes: from sums over all values to what is done to each. Norms and
// ends are laid out as bottleneck.cpp says.
#pragma once
#include <cmath>

#include "loops.h"

inline long wide(long channels) { return (channels + LANES - 1) / LANES * LANES; }

extern "C" {

// Where sums of a batch norm are: (parts, 2, wide), with `next` from one part to the next.
struct Sums {
  long channels, parts, next;
  double count;  // values a channel
  const double* at;
  double total(long which, long c) const {
    double sum = 0;
    for (long part = 0; part < parts; part++) sum += at[part * next + which * wide(channels) + c];
    return sum;
  }
};

// norm (NORM, wide) of a batch norm, zeros where there is no channel, from sums of values and of their
// squares. The running statistics follow.
void track(const Sums* sums, double eps, double momentum, const float* weight, const float* bias,
           float* running_mean, float* running_variance, float* norm) {
  const long channels = sums->channels, next = wide(channels);
  std::memset(norm, 0, NORM * next * sizeof(float));
  for (long c = 0; c < channels; c++) {
    const double count = sums->count, mean = sums->total(0, c) / count;
    const double variance = std::max(sums->total(1, c) / count - mean * mean, 0.0);
    const double inverse = 1 / std::sqrt(variance + eps);
    running_mean[c] += momentum * (mean - running_mean[c]);
    running_variance[c] += momentum * (variance * count / (count - 1) - running_variance[c]);
    norm[c] = mean;
    norm[next + c] = weight[c] * inverse;
    norm[2 * next + c] = bias[c];
    norm[3 * next + c] = inverse;
  }
}

// The ends (2, wide) of a norm and the gradients of its weight and bias, from sums of gradients g
// behind it and of g * (x - mean).
void track_backward(const Sums* sums, const float* norm, float* ends, float* grad_weight,
                    float* grad_bias) {
  const long channels = sums->channels, next = wide(channels);
  std::memset(ends, 0, 2 * next * sizeof(float));
  for (long c = 0; c < channels; c++) {
    const double first = sums->total(0, c), second = sums->total(1, c);
    const double scale = norm[next + c], inverse = norm[3 * next + c];
    ends[c] = -scale * inverse * inverse * second / sums->count;
    ends[next + c] = -scale * first / sums->count;
    grad_weight[c] = second * inverse;
    grad_bias[c] = first;
  }
}
}
