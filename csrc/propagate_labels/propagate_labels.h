// Class posteriors by the propagation of labels along a kNN graph.
//
// posteriors (n, classes): F = (1 - gamma) (I - gamma S)^-1 Y with the symmetrised walk S = D^-1 (Q + Q'), Q[i, j] the
// share of edge i -> j in its row's weights, 1/k without weights, and Y[j, c] = 1 for j labelled c; each class's column
// divided by its sum over the segment, then rows to sum 1. All equal where no label is connected.
//
// By conjugate gradients, in float64 whatever T, until no entry of the result is further than tol from the exact one,
// or as close as rounding allows.
//
// Requires: n < 2^31, indices (n, k) valid neighbours within each segment ptr[s] .. ptr[s + 1] - 1, weights (n, k)
// finite, none negative, some of each row positive, or null, label in [-1, classes), 0 < gamma < 1, tol > 0.
// Memory beyond the result: O(n (k + classes)).
//
// Processes divide panels of classes among them, of each component by itself, and each normalises all of F: the same
// bits as one process. A process sends n * classes numbers each time that F is improved, as a rule once or twice.
#pragma once

#include <cstdint>

#include "common/parallel.h"
#include "common/peers.h"
#include "walk/report.h"

namespace ssdml {

template <typename T>
WalkReport propagate_labels(const std::int64_t* indices, const double* weights, std::int64_t n, std::int64_t k,
                            const std::int64_t* ptr, std::int64_t segments, const std::int64_t* labels,
                            std::int64_t classes, double gamma, double tol, T* posteriors, int num_threads,
                            Progress& progress, Peers& peers);

namespace cuda {

/// Bytes of `workspace`: O(n (k + classes)).
std::int64_t propagate_labels_workspace(std::int64_t n, std::int64_t k, bool weighted, std::int64_t segments,
                                        std::int64_t classes);

/// propagate_labels from device memory on `stream`, with the same bound. Waits for that stream, and for no other,
/// every few steps, for the residual. The workspace is aligned to 256 bytes. n < 2^31. What processes exchange goes by
/// way of the host.
template <typename T>
WalkReport propagate_labels(const std::int64_t* indices, const double* weights, std::int64_t n, std::int64_t k,
                            const std::int64_t* ptr, std::int64_t segments, const std::int64_t* labels,
                            std::int64_t classes, double gamma, double tol, T* posteriors, Progress& progress,
                            Peers& peers, void* workspace, void* stream);

}  // namespace cuda

}  // namespace ssdml
