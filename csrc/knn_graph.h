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
// How: a product of narrow integers or float32 over register tiles gives every pair a certified lower bound of its
// distance (knn_filter.h). Each pair of points of different blocks is visited once and serves both rows. A row keeps
// the pairs whose bounds might be among its k smallest; only the distances of those left at the end, little more than
// k, are computed exactly (knn_points.h). The distance matrix is never stored.
//
// Requires: x finite, (n, d) row-major, squared norms of differences that fit T; 1 <= k < size of every non-empty
// segment, itself less than 2^32; ptr (segments + 1) ascending from 0 to n. Memory beyond the result: n * (16 k + 90)
// bytes (32 k + 280 where bytes are multiplied), and at most block_bytes for copies as float32, int16 or int8.
#pragma once

#include <cstdint>

#include "parallel.h"

namespace ssdml {

enum class Metric { sqeuclidean, euclidean, cosine, inner_product };

/// `block_bytes` bounds the memory of the copies that bounds are computed from: larger inputs are read in ranges, again
/// for each pair of ranges. Returns false if `progress` asked to stop, true when indices (n, k) and distances (n, k)
/// are complete.
template <typename T>
bool knn_graph(const T* x, std::int64_t n, std::int64_t d, std::int64_t k, Metric metric, const std::int64_t* ptr,
               std::int64_t segments, std::int64_t* indices, T* distances, int num_threads, std::int64_t block_bytes,
               Progress& progress);

/// The same between two sets: the k nearest of base (n_base, d) for every query (n_queries, d), 1 <= k <= n_base.
template <typename T>
bool knn_search(const T* queries, std::int64_t n_queries, const T* base, std::int64_t n_base, std::int64_t d,
                std::int64_t k, Metric metric, std::int64_t* indices, T* distances, int num_threads,
                std::int64_t block_bytes, Progress& progress);

namespace cuda {

/// Bytes of `workspace`: none, but (n, d) float64 for cosine.
std::int64_t knn_graph_workspace(std::int64_t n, std::int64_t d, Metric metric);

/// The same result from device memory, on `stream`. The workspace is aligned to 256 bytes.
template <typename T>
void knn_graph(const T* x, std::int64_t n, std::int64_t d, std::int64_t k, Metric metric, const std::int64_t* ptr,
               std::int64_t segments, std::int64_t* indices, T* distances, void* workspace, void* stream);

}  // namespace cuda

}  // namespace ssdml
