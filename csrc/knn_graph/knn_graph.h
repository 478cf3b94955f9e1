// Exact k nearest neighbours of every point among the points of its segment.
//
//   indices[i, :], distances[i, :] = the k smallest of { (distance(x_i, x_j), j) : j != i, j in the segment of i }
//
// in that order: by distance, then by index. A distance is computed in float64 from direct differences and rounded
// once to the type of the result, which therefore depends neither on the number of threads nor on the instruction set:
//
//   sqeuclidean    |x - y|^2                      euclidean      |x - y|
//   cosine         |x/|x| - y/|y||^2 / 2          inner_product  -<x, y>     (smaller is nearer for every metric)
//                  (= 1 - cos; 1 if x or y is 0)
//
// How: a product over register tiles, of coordinates as bytes, int16 or float32, or of few along principal axes, gives
// every pair a certified lower bound of its distance, and int16 of all coordinates a closer one where bytes or axes do
// not decide (filter.h). Each pair of points of different blocks is visited once and serves both rows. A row keeps
// the pairs whose bounds might be among its k smallest; only the distances of those left at the end, little more than
// k, are computed exactly (points.h), float32 ones once for both rows where they keep each other. The distance
// matrix is never stored.
//
// Points are float64, or float32, float16 or bfloat16 with distances in float32. Requires: x (n, d) row-major;
// 1 <= k < size of every non-empty segment, itself less than 2^32; ptr (segments + 1) ascending from 0 to n. Memory
// beyond the result: n * (16 k + 330) bytes, 512 d for axes, and at most block_bytes for copies of the points.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "common/halves.h"
#include "common/parallel.h"

namespace ssdml {

enum class Metric { sqeuclidean, euclidean, cosine, inner_product };

/// What distances between points of type X are.
template <typename X>
using Distance = std::conditional_t<std::is_same_v<X, double>, double, float>;

/// Largest coordinate of points whose distances are certain to fit the result.
template <typename X>
double largest_coordinate(std::int64_t d) {
  return std::sqrt(static_cast<double>(std::numeric_limits<Distance<X>>::max()) / static_cast<double>(d)) / 2;
}

/// Squares of differences and norms below this have lost digits to underflow; only those of float64 get there. They are
/// computed again from coordinates times kLift.
inline constexpr double kTinySquare = 0x1p-900, kLift = 0x1p600;

/// How a search ended: with its results complete, stopped by its progress, or because a coordinate was NaN, infinite or
/// beyond the largest.
enum class SearchOutcome { complete, stopped, refused };

/// `block_bytes` bounds the memory of the copies that bounds are computed from: larger inputs are read in ranges, again
/// for each pair of ranges. Unless complete, indices (n, k) and distances (n, k) hold nothing of use.
template <typename X>
SearchOutcome knn_graph(const X* x, std::int64_t n, std::int64_t d, std::int64_t k, Metric metric,
                        const std::int64_t* ptr, std::int64_t segments, std::int64_t* indices, Distance<X>* distances,
                        int num_threads, std::int64_t block_bytes, Progress& progress);

/// The same between two sets: the k nearest of base (n_base, d) for every query (n_queries, d), 1 <= k <= n_base.
template <typename X>
SearchOutcome knn_search(const X* queries, std::int64_t n_queries, const X* base, std::int64_t n_base, std::int64_t d,
                         std::int64_t k, Metric metric, std::int64_t* indices, Distance<X>* distances, int num_threads,
                         std::int64_t block_bytes, Progress& progress);

/// Both ways at once, each pair of points being visited once: the nearest of b (n_b, d) for every point of a (n_a, d),
/// and of a for every point of b; of those that are no farther than the point's limit, the k nearest or, where they are
/// fewer, all, and -1 at infinite distance after them. 1 <= k, n_a, n_b. Limits (n_a), (n_b) are what makes it quick:
/// distances to the k-th nearest among other points, as it pays to know first; infinite where there are fewer others.
/// Memory beyond the result as for a graph of both.
template <typename X>
SearchOutcome knn_between(const X* a, std::int64_t n_a, const X* b, std::int64_t n_b, std::int64_t d, std::int64_t k,
                          Metric metric, const Distance<X>* limits_a, std::int64_t* indices_a, Distance<X>* distances_a,
                          const Distance<X>* limits_b, std::int64_t* indices_b, Distance<X>* distances_b,
                          int num_threads, std::int64_t block_bytes, Progress& progress);

/// Of the k neighbours of each of n rows and m further ones, each sorted by distance, then by index, the k nearest, in
/// the place of the former. Further ones are numbered from `first`.
template <typename T>
void merge_neighbors(std::int64_t n, std::int64_t k, std::int64_t* indices, T* distances, std::int64_t m,
                     const std::int64_t* further, const T* further_distances, std::int64_t first, int num_threads);

namespace cuda {

/// Bytes of `workspace`, `largest` being the size of the largest segment: where that is 512 or more and k at most an
/// eighth of it, n * (2 d + 8 c + 17) for d rounded up to 64 and c <= 3 k + 320 candidates; and (n, d) float64 for
/// cosine.
std::int64_t knn_graph_workspace(std::int64_t n, std::int64_t d, std::int64_t k, Metric metric, std::int64_t largest);

/// The same for a search, of which only queries have candidates.
std::int64_t knn_search_workspace(std::int64_t n_queries, std::int64_t n_base, std::int64_t d, std::int64_t k,
                                  Metric metric);

/// The same results from device memory, on `stream`, for finite points no larger than the largest coordinate. The
/// workspace is aligned to 256 bytes. Returns before the kernels have run where `progress` is null; else waits for the
/// stream after each of some parts of the work, to report and to ask whether to go on.
template <typename X>
SearchOutcome knn_graph(const X* x, std::int64_t n, std::int64_t d, std::int64_t k, Metric metric,
                        const std::int64_t* ptr, std::int64_t segments, std::int64_t largest, std::int64_t* indices,
                        Distance<X>* distances, Progress* progress, void* workspace, void* stream);

template <typename X>
SearchOutcome knn_search(const X* queries, std::int64_t n_queries, const X* base, std::int64_t n_base, std::int64_t d,
                         std::int64_t k, Metric metric, std::int64_t* indices, Distance<X>* distances,
                         Progress* progress, void* workspace, void* stream);

}  // namespace cuda

}  // namespace ssdml
