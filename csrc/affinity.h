// Affinities propagated along a kNN graph, on its edges only.
//
// With Q[i, j] = 1/k for the k neighbours j of i and P = (1 - gamma) (I - gamma Q)^-1, the random walk with restart:
//
//   W* = P W0,  W0[i, j] = 1 if i = j, else +1 / -1 for labelled i, j of equal / different class, else 0
//   values[i, r] = (W*[i, j] + W*[j, i]) / 2  for j = indices[i, r]
//   class_mass[i, c] = sum of P[i, j] over labelled j of class c
//
// Column j of W* is P[:, j] for an unlabelled j and 2 class_mass[:, c] - sum_c' class_mass[:, c'] for one of class c,
// so no matrix with n columns is ever needed: columns are solved a panel at a time and only the entries on edges are
// kept.
//
// How: the walk's own series, P b = (1 - gamma) (b + gamma Q b + ...) + gamma^t P Q^t b, in which a term is one sweep
// over the graph. P is row-stochastic, so what is cut off lies in gamma^t [min, max] of Q^t b, and no rounding error
// grows. The slow modes of Q (weakly connected clusters) are found once per component and taken out of every column,
// after which some tens of sweeps suffice for any gamma. affinity_walk.h has the sweep, affinity_modes.h the modes,
// affinity_solve.h the series and its error bound.
//
// Arithmetic is that of T; a float32 column whose bound does not reach tol is solved again in float64.
//
// Requires: indices (n, k) valid neighbours, label in [-1, classes), 0 < gamma < 1, tol > 0. Segments need no mention:
// connected components are found and solved one by one.
// Memory beyond the result: O(n (k + classes + modes) + threads * n * panel), modes <= 512, about n / 100.
#pragma once

#include <cstdint>

#include "parallel.h"

namespace ssdml {

struct AffinityReport {
  std::int64_t iterations;  // sweeps that the slowest column took
  double error_bound;       // no entry of values is further from the exact one
  bool finished;            // false if `progress` asked to stop
};

template <typename T>
AffinityReport propagate_affinity(const std::int64_t* indices, std::int64_t n, std::int64_t k,
                                  const std::int64_t* labels, std::int64_t classes, double gamma, double tol, T* values,
                                  T* class_mass, int num_threads, Progress& progress);

namespace cuda {

/// Bytes of `workspace`: O(n (k + classes) + (n + segments) * panel).
std::int64_t propagate_affinity_workspace(std::int64_t n, std::int64_t k, std::int64_t segments, std::int64_t classes);

/// The same from device memory, within the same bound, on `stream`. Waits for that stream now and then, to look at the
/// bound, but values may not be complete when it returns. The workspace is aligned to 256 bytes.
template <typename T>
AffinityReport propagate_affinity(const std::int64_t* indices, std::int64_t n, std::int64_t k, const std::int64_t* ptr,
                                  std::int64_t segments, const std::int64_t* labels, std::int64_t classes, double gamma,
                                  double tol, T* values, T* class_mass, Progress& progress, void* workspace,
                                  void* stream);

}  // namespace cuda

}  // namespace ssdml
