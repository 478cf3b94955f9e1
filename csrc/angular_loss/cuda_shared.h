// What CUDA kernels that compute the angular loss share: the terms of a triplet, and for each row of y the list of its
// parts in triplets. Only .cu files include it.
//
// Entry e of the triplets, role e % 3 of triplet e / 3, contributes to the gradient of row triplets[e]: one part.
#pragma once

#include "common/host_device.h"
#include "cuda/launch.h"
#include "cuda/sort.h"

namespace ssdml::cuda {

SSDML_HOST_DEVICE double scalar_softplus(double m) { return fmax(m, 0.0) + log1p(exp(-fabs(m))); }
SSDML_HOST_DEVICE double sigmoid(double m) {
  const double e = exp(-fabs(m));
  return (m >= 0 ? 1.0 : e) / (1 + e);
}

/// One triplet's rows of y (., l).
template <typename T>
struct Triplet {
  const T *anchor, *positive, *negative;

  __device__ Triplet(const T* y, std::int64_t l, const std::int64_t* t)
      : anchor(y + t[0] * l), positive(y + t[1] * l), negative(y + t[2] * l) {}

  /// The terms of angular_loss.h at coordinate p.
  __device__ double a(std::int64_t p) const { return static_cast<double>(anchor[p]) - positive[p]; }
  __device__ double b(std::int64_t p) const { return negative[p] - (static_cast<double>(anchor[p]) + positive[p]) / 2; }

  /// m, in all lanes of the warp, which must all call it.
  __device__ double margin(std::int64_t l, double four_t) const {
    double aa = 0, bb = 0;
    for (std::int64_t p = lane_id(); p < l; p += kWarp) {
      aa += a(p) * a(p);
      bb += b(p) * b(p);
    }
    return sum_of_warp(aa) - four_t * sum_of_warp(bb);
  }
};

/// Factors of a and b in what the part of that role adds to the gradient of its row; slope = w d loss / d m.
template <typename T>
SSDML_HOST_DEVICE T on_a(std::int64_t role, double slope) {
  return static_cast<T>(role == 0 ? 2 * slope : role == 1 ? -2 * slope : 0.0);
}
template <typename T>
SSDML_HOST_DEVICE T on_b(std::int64_t role, double slope, double four_t) {
  return static_cast<T>((role == 2 ? -2 : 1) * slope * four_t);
}

/// What it adds at a coordinate where the rows of the triplet have these entries.
template <typename T>
SSDML_HOST_DEVICE T gradient_term(T anchor, T positive, T negative, T on_a, T on_b) {
  return on_a * (anchor - positive) + on_b * (negative - (anchor + positive) / 2);
}

/// The entries of the triplets, ordered by row: a stable sort keeps the order of the triplets within each row, which
/// then sums its own parts, so that there are no atomics and the order of summation is fixed.
struct SortedParts {
  std::int64_t *unsorted, *part, *row;  // unsorted: 0, 1, 2, ...; row[q] = triplets[part[q]], ascending
  PairSort by_row;

  SortedParts(Workspace& workspace, std::int64_t n, std::int64_t n_triplets);

  /// Queues the sort.
  void sort(const std::int64_t* triplets, std::int64_t n_triplets, cudaStream_t stream) const;
};

}  // namespace ssdml::cuda
