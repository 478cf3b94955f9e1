// Affinities propagated along a kNN graph, on its edges only, and class posteriors.
//
// With Q[i, j] the share of edge i -> j in its row's weights, 1/k without weights, and P = (1 - gamma) (I - gamma
// Q)^-1, the random walk with restart, propagate_affinity computes
//
//   W* = P W0,  W0[i, j] = 1 if i = j, else +1 / -1 for labelled i, j of equal / different class, else 0
//   values[i, r] = (W*[i, j] + W*[j, i]) / 2  for j = indices[i, r]
//   class_mass[i, c] = sum of P[i, j] over labelled j of class c
//
// Column j of W* is P[:, j] for an unlabelled j and 2 class_mass[:, c] - sum_c' class_mass[:, c'] for one of class c,
// so no matrix with n columns is ever needed: columns are solved a panel at a time and only the entries on edges are
// kept, and columns that are a combination of other columns are not solved at all (affinity_eliminate.h; not on a CUDA
// device).
//
// How: the walk's own series, P b = (1 - gamma) (b + gamma Q b + ...) + gamma^t P Q^t b, in which a term is one sweep
// over the graph; after a few of them the slow modes of Q (weakly connected clusters), which are found once per
// component, are taken out of every column, and relaxation makes quick work of the rest for any gamma, at few
// points where the rest is local: the fewer, the larger tol is. P is row-stochastic, so what is cut off is within the
// range of the residual, and no rounding error grows. affinity_walk.h has the graph and its sweep, affinity_modes.h the
// modes, affinity_relax.h the relaxation, affinity_solve.h how a panel is solved and its error bound.
//
// A small component takes none of this: its dense matrix is inverted in float64, and several at once, one per thread
// (affinity_direct.h; not on a CUDA device).
//
// Arithmetic is that of T; a float32 column whose bound does not reach tol is solved again in float64, and one that
// slow modes do not serve, as they nearly coincide, without them.
//
// Requires: indices (n, k) valid neighbours, weights (n, k) finite, none negative, some of each row positive, or null,
// label in [-1, classes), 0 < gamma < 1, tol > 0. propagate_affinity needs no segments: connected components are found
// and solved one by one.
// Memory beyond the result: O(n (k + classes + modes) + threads * n * panel), modes about sqrt(n) / 2, and per
// thread for small components some 12 MiB at most and 12 bytes per edge of the largest.
#pragma once

#include <cstdint>

#include "parallel.h"

namespace ssdml {

struct AffinityReport {
  std::int64_t iterations;  // sweeps that the slowest column took, 0 where none was needed
  double error_bound;       // no entry of values, or posteriors, is further from the exact one
  bool finished;            // false if `progress` asked to stop
};

template <typename T>
AffinityReport propagate_affinity(const std::int64_t* indices, const double* weights, std::int64_t n, std::int64_t k,
                                  const std::int64_t* labels, std::int64_t classes, double gamma, double tol, T* values,
                                  T* class_mass, int num_threads, Progress& progress);

/// posteriors (n, classes): F = (1 - gamma) (I - gamma S)^-1 Y with the symmetrised walk S = D^-1 (Q + Q') and
/// Y[j, c] = 1 for j labelled c; each class's column divided by its sum over the segment, then rows to sum 1. All equal
/// where no label is connected. By conjugate gradients, in float64 whatever T.
template <typename T>
AffinityReport propagate_labels(const std::int64_t* indices, const double* weights, std::int64_t n, std::int64_t k,
                                const std::int64_t* ptr, std::int64_t segments, const std::int64_t* labels,
                                std::int64_t classes, double gamma, double tol, T* posteriors, int num_threads,
                                Progress& progress);

namespace cuda {

/// Bytes of `workspace` on the current device: O(n (k + classes + modes)), and what its blocks work in, 128 bytes per
/// point and multiprocessor at most.
std::int64_t propagate_affinity_workspace(std::int64_t n, std::int64_t k, bool weighted, std::int64_t classes);

/// propagate_affinity from device memory on `stream`, with the same bound. Waits for that stream, and for no other, to
/// know the components, to orthonormalise modes (matrices of modes * modes come to the host), now and then between
/// panels, and for the bound at the end. The workspace is aligned to 256 bytes. n < 2^31.
template <typename T>
AffinityReport propagate_affinity(const std::int64_t* indices, const double* weights, std::int64_t n, std::int64_t k,
                                  const std::int64_t* labels, std::int64_t classes, double gamma, double tol, T* values,
                                  T* class_mass, Progress& progress, void* workspace, void* stream);

/// Bytes of `workspace`: O(n (k + classes)).
std::int64_t propagate_labels_workspace(std::int64_t n, std::int64_t k, bool weighted, std::int64_t segments,
                                        std::int64_t classes);

/// propagate_labels from device memory on `stream`, likewise. Waits for that stream every few steps, for the residual.
template <typename T>
AffinityReport propagate_labels(const std::int64_t* indices, const double* weights, std::int64_t n, std::int64_t k,
                                const std::int64_t* ptr, std::int64_t segments, const std::int64_t* labels,
                                std::int64_t classes, double gamma, double tol, T* posteriors, Progress& progress,
                                void* workspace, void* stream);

}  // namespace cuda

}  // namespace ssdml
