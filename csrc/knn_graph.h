// Exact k nearest neighbours of every point among the points of its segment.
//
//   indices[i, :], distances[i, :] = the k smallest of { (distance(x_i, x_j), j) : j != i, j in the segment of i }
//
// in that order: by distance, then by index. A distance is computed in float64 from direct differences and rounded
// once to T, so a result depends neither on the number of threads nor on the instruction set:
//
//   sqeuclidean    |x - y|^2                      euclidean      |x - y|
//   cosine         |x/|x| - y/|y||^2 / 2          inner_product  -<x, y>     (smaller is nearer for every metric)
//                  (= 1 - cos; 1 if x or y is 0)
//
// How: a float32 matrix product over register tiles gives every pair a certified lower bound of its distance, from
// centred and scaled coordinates; the few pairs whose bound beats the current k-th distance of either end are computed
// exactly. Each pair of points is visited once and serves both rows. The distance matrix is never stored.
//
// Requires: x finite, (n, d) row-major, squared norms of differences that fit T; 1 <= k < size of every non-empty
// segment; ptr (segments + 1) ascending from 0 to n. Memory beyond the result: O(threads * tile + n + block * d).
#pragma once

#include <cstdint>

#include "parallel.h"

namespace ssdml {

enum class Metric { sqeuclidean, euclidean, cosine, inner_product };

/// Returns false if `progress` asked to stop, true when indices (n, k) and distances (n, k) are complete.
template <typename T>
bool knn_graph(const T* x, std::int64_t n, std::int64_t d, std::int64_t k, Metric metric, const std::int64_t* ptr,
               std::int64_t segments, std::int64_t* indices, T* distances, int num_threads, Progress& progress);

}  // namespace ssdml
