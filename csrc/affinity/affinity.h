// Affinities propagated along a kNN graph, on its edges only.
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
// kept, and columns that are a combination of other columns are not solved at all (eliminate.h; not on a CUDA device).
//
// How: the walk's own series, P b = (1 - gamma) (b + gamma Q b + ...) + gamma^t P Q^t b, in which a term is one sweep
// over the graph; after a few of them the slow modes of Q (weakly connected clusters), which are found once per
// component, are taken out of every column, and relaxation makes quick work of the rest for any gamma, at few points
// where the rest is local: the fewer, the larger tol is. P is row-stochastic, so what is cut off is within the range of
// the residual, and no rounding error grows. walk/graph.h has the graph and its sweep, modes.h the modes, relax.h the
// relaxation, solve.h how a panel is solved and its error bound.
//
// A small component takes none of this: its dense matrix is inverted in float64, and several at once, one per thread
// (direct.h; not on a CUDA device).
//
// Arithmetic is that of T; a float32 column whose bound does not reach tol is solved again in float64, and one that
// slow modes do not serve, as they nearly coincide, without them.
//
// Processes divide small components and panels of columns among them, and each completes the result: the same bits as
// one process.
//
// Requires: n < 2^31, indices (n, k) valid neighbours, weights (n, k) finite, none negative, some of each row positive,
// or null, label in [-1, classes), 0 < gamma < 1, tol > 0. propagate_affinity needs no segments: connected components
// are found and solved one by one.
// Memory beyond the result: O(n (k + classes + modes) + threads * n * panel), modes about sqrt(n) / 2, and per
// thread for small components some 12 MiB at most and 12 bytes per edge of the largest. A process sends O(n (k +
// classes)) numbers, those of the columns that are solved.
#pragma once

#include <cstdint>

#include "common/parallel.h"
#include "common/peers.h"
#include "walk/report.h"

namespace ssdml {

template <typename T>
WalkReport propagate_affinity(const std::int64_t* indices, const double* weights, std::int64_t n, std::int64_t k,
                              const std::int64_t* labels, std::int64_t classes, double gamma, double tol, T* values,
                              T* class_mass, int num_threads, Progress& progress, Peers& peers);

namespace cuda {

/// Bytes of `workspace` on the current device: O(n (k + classes + modes)), and what its blocks work in, 128 bytes per
/// point and multiprocessor at most.
std::int64_t propagate_affinity_workspace(std::int64_t n, std::int64_t k, bool weighted, std::int64_t classes);

/// propagate_affinity from device memory on `stream`, with the same bound. Waits for that stream, and for no other, to
/// know the components, to orthonormalise modes (matrices of modes * modes come to the host), now and then between
/// panels, and for the bound at the end. The workspace is aligned to 256 bytes. What processes exchange, O(n (k +
/// classes)) numbers, goes by way of the host.
template <typename T>
WalkReport propagate_affinity(const std::int64_t* indices, const double* weights, std::int64_t n, std::int64_t k,
                              const std::int64_t* labels, std::int64_t classes, double gamma, double tol, T* values,
                              T* class_mass, Progress& progress, Peers& peers, void* workspace, void* stream);

}  // namespace cuda

}  // namespace ssdml
