// Triplets from the neighbourhoods of a kNN graph.
//
// For each anchor, its k neighbours are ranked by affinity (descending), then distance, then index (ascending); with
// h = k / 2 the r-th of the first h (positive) is paired with the r-th of the last h (negative).
//
//   triplets[t h + r] = (anchor t, positive r, negative r),   t = 0 .. n_anchors - 1, r = 0 .. h - 1
//
// Requires: indices, affinity (n, k); distances (n, k) or null (then ties fall to the index alone); anchors
// (n_anchors) in [0, n), or null for the points 0 .. n_anchors - 1.
#pragma once

#include <cstdint>

namespace ssdml {

template <typename T>
void mine_triplets(const std::int64_t* indices, const T* distances, const T* affinity, std::int64_t k,
                   const std::int64_t* anchors, std::int64_t n_anchors, std::int64_t* triplets, int num_threads);

namespace cuda {

/// The same from device memory, on `stream`.
template <typename T>
void mine_triplets(const std::int64_t* indices, const T* distances, const T* affinity, std::int64_t k,
                   const std::int64_t* anchors, std::int64_t n_anchors, std::int64_t* triplets, void* stream);

}  // namespace cuda

}  // namespace ssdml
