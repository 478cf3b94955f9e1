#include <cmath>
#include <limits>
#include <type_traits>

#include "cuda.h"
#include "knn_graph.h"

namespace ssdml::cuda {
namespace {

// Two kernels. Where estimates in float32 are good enough to rule most pairs out (search_by_estimates), a block
// compares tiles of points as a matrix product does, and only the pairs that may be among the k nearest so far are
// computed exactly. Elsewhere, for float64 and inner products, all are (search). Exact sums are taken by a warp whose
// 32 lanes hold the 32 partial sums of sum_over() in knn_points.h, so distances agree with the CPU's to the last bit.
//
// What limits them, by counting instructions, not yet measured: search_by_estimates issues about 2.3 per pair and
// coordinate, two of which are the subtraction and the fused multiplication, from both sides of each pair; points come
// from the second-level cache once per 64 others. Using d(i, j) = d(j, i) would halve that, but for the lists of both
// rows to be kept up to date. search is bound by float64 arithmetic and by conversions to it.
constexpr int kMicroRows = 4, kMicroColumns = 8;
constexpr int kRows = 16, kColumns = 64;
constexpr int kWarps = 8;
constexpr std::int64_t kNoIndex = std::numeric_limits<std::int64_t>::max();
static_assert(kMicroRows * kMicroColumns == kWarp, "each lane ends up with the distance of one pair");

// ---- distances ------------------------------------------------------------------------------------------------------

// A sum, with the term of one more coordinate.
struct SquaredDifference {
  __device__ double operator()(double sum, double u, double v) const { return sum + (u - v) * (u - v); }
};
/// For differences whose squares would underflow.
struct LiftedSquaredDifference {
  __device__ double operator()(double sum, double u, double v) const {
    return sum + (u - v) * kLift * ((u - v) * kLift);
  }
};
struct Product {
  __device__ double operator()(double sum, double u, double v) const { return sum + u * v; }
};

/// Sums part[q] over the lanes, for lane q. Each step halves the pairs that a lane is responsible for and adds the
/// partner's partial sums of those it keeps. A template, so that `part` stays in registers.
template <int half>
__device__ void fold(double (&part)[kWarp]) {
  const bool upper = lane_id() & half;
#pragma unroll
  for (int q = 0; q < half; ++q) {
    const double kept = upper ? part[q + half] : part[q], given = upper ? part[q] : part[q + half];
    part[q] = kept + __shfl_xor_sync(kAllLanes, given, half);
  }
  if constexpr (half > 1) fold<half / 2>(part);
}

/// Lane q receives the sum over the d coordinates of row q / kMicroColumns and column q % kMicroColumns. All lanes of
/// the warp must call it.
template <typename C, typename F>
__device__ double pair_sums(const C* const (&rows)[kMicroRows], const C* const (&columns)[kMicroColumns],
                            std::int64_t d, F f) {
  double part[kWarp] = {};
  for (std::int64_t p = lane_id(); p < d; p += kWarp) {
    double u[kMicroRows], v[kMicroColumns];
#pragma unroll
    for (int m = 0; m < kMicroRows; ++m) u[m] = static_cast<double>(rows[m][p]);
#pragma unroll
    for (int m = 0; m < kMicroColumns; ++m) v[m] = static_cast<double>(columns[m][p]);
#pragma unroll
    for (int q = 0; q < kWarp; ++q) part[q] = f(part[q], u[q / kMicroColumns], v[q % kMicroColumns]);
  }
  fold<kWarp / 2>(part);
  return part[0];
}

template <typename T>
__device__ T distance_of(double sum, Metric metric) {
  switch (metric) {
    case Metric::euclidean:
      return static_cast<T>(sqrt(sum));
    case Metric::cosine:
      return isnan(sum) ? T(1) : static_cast<T>(sum / 2);  // NaN: see unit_rows
    case Metric::inner_product:
      return static_cast<T>(-sum);
    case Metric::sqeuclidean:
      break;
  }
  return static_cast<T>(sum);
}

/// Lane q receives the distance of row q / kMicroColumns and column q % kMicroColumns, as pair_sums().
template <typename T, typename C, typename F>
__device__ T pair_distance(const C* const (&rows)[kMicroRows], const C* const (&columns)[kMicroColumns], std::int64_t d,
                           Metric metric, F f) {
  const double sum = pair_sums(rows, columns, d, f);
  if constexpr (std::is_same_v<C, double> && std::is_same_v<F, SquaredDifference>) {
    if (metric == Metric::euclidean && __ballot_sync(kAllLanes, sum < kTinySquare) != 0) {
      const double lifted = pair_sums(rows, columns, d, LiftedSquaredDifference{});
      if (sum < kTinySquare) return static_cast<T>(sqrt(lifted) / kLift);
    }
  }
  return distance_of<T>(sum, metric);
}

/// Rows of x over their norms; NaN where a row is zero and has no direction. One warp per row.
template <typename X>
__global__ void unit_rows(const X* x, std::int64_t n, std::int64_t d, double* unit) {
  for (std::int64_t i = warp_id(); i < n; i += warp_count()) {
    const auto square_of = [&](double factor) {
      double square = 0;
      for (std::int64_t p = lane_id(); p < d; p += kWarp) {
        const double value = static_cast<double>(x[i * d + p]) * factor;
        square += value * value;
      }
      for (int half = kWarp / 2; half > 0; half /= 2) square += __shfl_xor_sync(kAllLanes, square, half);
      return square;
    };
    double lift = 1, square = square_of(lift);
    if (std::is_same_v<X, double> && square < kTinySquare) square = square_of(lift = kLift);  // the same in all lanes
    const double inverse_norm = square > 0 ? 1 / sqrt(square) : nan("");
    for (std::int64_t p = lane_id(); p < d; p += kWarp)
      unit[i * d + p] = static_cast<double>(x[i * d + p]) * lift * inverse_norm;
  }
}

// ---- the k nearest so far -------------------------------------------------------------------------------------------

/// A row of the result: always sorted by (distance, index), padded with infinities. One warp works on it at a time.
template <typename T>
struct Nearest {
  std::int64_t k;
  std::int64_t* indices;
  T* distances;

  static __device__ bool before(T da, std::int64_t ia, T db, std::int64_t ib) {
    return da < db || (da == db && ia < ib);
  }

  __device__ bool admits(T distance, std::int64_t j) const {
    return before(distance, j, distances[k - 1], indices[k - 1]);
  }

  __device__ void clear() const {
    for (std::int64_t q = lane_id(); q < k; q += kWarp) {
      distances[q] = static_cast<T>(kInfinity);
      indices[q] = kNoIndex;
    }
    __syncwarp();
  }

  /// Moves what is farther than (distance, j) up by one entry, 32 entries at a time from the end, and puts it in the
  /// gap.
  __device__ void insert(T distance, std::int64_t j) const {
    for (std::int64_t first = (k - 1) / kWarp * kWarp; first >= 0; first -= kWarp) {
      const std::int64_t q = first + lane_id();
      bool moves = false, takes_left = false;
      T left = 0;
      std::int64_t left_index = 0;
      if (q < k) {
        moves = before(distance, j, distances[q], indices[q]);
        if (q > 0) {
          left = distances[q - 1];
          left_index = indices[q - 1];
          takes_left = before(distance, j, left, left_index);
        }
      }
      __syncwarp();  // all lanes have read
      if (moves) {
        distances[q] = takes_left ? left : distance;
        indices[q] = takes_left ? left_index : j;
      }
      __syncwarp();                                        // all lanes have written
      if (!__shfl_sync(kAllLanes, takes_left, 0)) return;  // the gap was at or above `first`
    }
  }

  /// Offers the pairs (distance, j) of the lanes that have one to offer.
  __device__ void offer(bool has, T distance, std::int64_t j) const {
    unsigned waiting = __ballot_sync(kAllLanes, has && admits(distance, j));
    for (; waiting != 0; waiting &= waiting - 1) {
      const int lane = __ffs(static_cast<int>(waiting)) - 1;
      const T next = __shfl_sync(kAllLanes, distance, lane);
      const std::int64_t next_j = __shfl_sync(kAllLanes, j, lane);
      if (admits(next, next_j)) insert(next, next_j);  // the same answer in all lanes
    }
  }
};

// ---- exact search ---------------------------------------------------------------------------------------------------

/// The segment that holds point i: the last one that begins at or before i.
__device__ std::int64_t segment_of(std::int64_t i, const std::int64_t* ptr, std::int64_t segments) {
  std::int64_t low = 0, high = segments;
  while (high - low > 1) {
    const std::int64_t middle = low + (high - low) / 2;
    (ptr[middle] <= i ? low : high) = middle;
  }
  return low;
}

/// Neighbours of each of the rows among the columns: all of them or, where `ptr` is given and both are the same points,
/// the others of its segment.
template <typename C, typename T, typename F>
__global__ void __launch_bounds__(kWarps* kWarp, 2)
    search(const C* rows, std::int64_t n_rows, const C* columns, std::int64_t n_columns, std::int64_t d, std::int64_t k,
           Metric metric, const std::int64_t* ptr, std::int64_t segments, std::int64_t* indices, T* distances, F f) {
  __shared__ T tile[kRows][kColumns];
  __shared__ std::int64_t low[kRows], high[kRows];  // the columns of each row
  constexpr int row_groups = kRows / kMicroRows, column_groups = kColumns / kMicroColumns;
  const int warp = threadIdx.x / kWarp, lane = lane_id();
  const int first_row = warp % row_groups * kMicroRows;  // of this warp's pairs

  for (std::int64_t row0 = static_cast<std::int64_t>(blockIdx.x) * kRows; row0 < n_rows;
       row0 += static_cast<std::int64_t>(gridDim.x) * kRows) {
    const int here = static_cast<int>(min(static_cast<long long>(kRows), static_cast<long long>(n_rows - row0)));
    const auto nearest = [&](int r) { return Nearest<T>{k, indices + (row0 + r) * k, distances + (row0 + r) * k}; };
    __syncthreads();  // the previous rows' columns are no longer needed
    if (static_cast<int>(threadIdx.x) < here) {
      const std::int64_t s = ptr ? segment_of(row0 + threadIdx.x, ptr, segments) : 0;
      low[threadIdx.x] = ptr ? ptr[s] : 0;
      high[threadIdx.x] = ptr ? ptr[s + 1] : n_columns;
    }
    for (int r = warp; r < here; r += kWarps) nearest(r).clear();
    __syncthreads();

    const std::int64_t last = high[here - 1];
    for (std::int64_t column0 = low[0]; column0 < last; column0 += kColumns) {
      // Pairs past the end repeat the last row or column and are not offered, so that no lane is missing.
      const C* row[kMicroRows];
#pragma unroll
      for (int m = 0; m < kMicroRows; ++m) row[m] = rows + (row0 + min(first_row + m, here - 1)) * d;
      for (int g = warp / row_groups; g < column_groups; g += kWarps / row_groups) {
        const C* column[kMicroColumns];
#pragma unroll
        for (int m = 0; m < kMicroColumns; ++m) {
          const std::int64_t j = column0 + g * kMicroColumns + m;
          column[m] = columns + (j < last ? j : last - 1) * d;
        }
        tile[first_row + lane / kMicroColumns][g * kMicroColumns + lane % kMicroColumns] =
            pair_distance<T>(row, column, d, metric, f);
      }
      __syncthreads();
      for (int r = warp; r < here; r += kWarps)
        for (int c = lane; c < kColumns; c += kWarp) {
          const std::int64_t j = column0 + c;
          nearest(r).offer(low[r] <= j && j < high[r] && !(ptr && j == row0 + r), tile[r][c], j);
        }
      __syncthreads();
    }
  }
}

// ---- search by estimates --------------------------------------------------------------------------------------------

constexpr int kTile = 64;                         // points on either side of a tile,
constexpr int kSide = 4, kSides = kTile / kSide;  // of which a thread compares kSide with kSide,
constexpr int kSlice = 16;                        // by so many coordinates at a time
constexpr int kTileThreads = kSides * kSides, kTileWarps = kTileThreads / kWarp;
constexpr int kWords = kTile / 32;

/// What the estimate of a pair's sum of squared differences exceeds only if its distance is no less than `farthest`. An
/// estimate of d terms in float32 rounds d + 2 times, by 2^-24 of itself, or by 2^-150 where that underflows. Points of
/// the cosine metric are unit vectors in float64, which rounding to float32 moves by 2^-24. The limit is infinite where
/// estimates may be.
__device__ float limit_of(double farthest, Metric metric, std::int64_t d) {
  const double rounding = static_cast<double>(d + 4) * 0x1p-24, underflow = static_cast<double>(d) * 0x1p-149;
  if (rounding > 0.1) return static_cast<float>(kInfinity);
  if (farthest == 0) return -1;  // nothing is nearer, and columns that come later lose ties
  double sum = farthest;
  if (metric == Metric::euclidean) sum = farthest * farthest;
  if (metric == Metric::cosine) {
    const double length = sqrt(2 * farthest) + 0x1p-22 + underflow;
    sum = length * length;
  }
  const double limit = (sum + underflow) / (1 - rounding) * (1 + 2 * rounding);
  return static_cast<float>(limit < 0x1p127 ? limit : kInfinity);
}

/// slice[p][i] = coordinate p0 + p of point first + i, or 0 beyond the last.
template <typename C>
__device__ void load_slice(float (&slice)[kSlice][kTile + kSide], const C* points, std::int64_t first, std::int64_t n,
                           std::int64_t d, std::int64_t p0) {
  for (int e = threadIdx.x; e < kTile * kSlice; e += kTileThreads) {
    const int i = e / kSlice, p = e % kSlice;
    const bool inside = first + i < n && p0 + p < d;
    slice[p][i] = inside ? static_cast<float>(static_cast<double>(points[(first + i) * d + p0 + p])) : 0.0f;
  }
}

/// The exact distance of two points, in all lanes of the warp, which must all call it.
template <typename T, typename C>
__device__ T exact_distance(const C* u, const C* v, std::int64_t d, Metric metric) {
  double sum = 0;
  for (std::int64_t p = lane_id(); p < d; p += kWarp)
    sum = SquaredDifference{}(sum, static_cast<double>(u[p]), static_cast<double>(v[p]));
  return distance_of<T>(sum_of_warp(sum), metric);
}

/// As search(), for sums of squared differences.
template <typename C, typename T>
__global__ void __launch_bounds__(kTileThreads, 3)
    search_by_estimates(const C* rows, std::int64_t n_rows, const C* columns, std::int64_t n_columns, std::int64_t d,
                        std::int64_t k, Metric metric, const std::int64_t* ptr, std::int64_t segments,
                        std::int64_t* indices, T* distances) {
  __shared__ __align__(16) float left[kSlice][kTile + kSide], right[kSlice][kTile + kSide];
  __shared__ std::int64_t low[kTile], high[kTile];  // the columns of each row
  __shared__ float limit[kTile];
  __shared__ unsigned passing[kTile][kWords];  // a bit for each column of the tile that may be near
  const int warp = threadIdx.x / kWarp, lane = lane_id(), own = threadIdx.x;
  const int down = own / kSides * kSide, across = own % kSides * kSide;

  for (std::int64_t row0 = static_cast<std::int64_t>(blockIdx.x) * kTile; row0 < n_rows;
       row0 += static_cast<std::int64_t>(gridDim.x) * kTile) {
    const int here = static_cast<int>(min(static_cast<long long>(kTile), static_cast<long long>(n_rows - row0)));
    const auto nearest = [&](int r) { return Nearest<T>{k, indices + (row0 + r) * k, distances + (row0 + r) * k}; };
    __syncthreads();  // the previous rows' columns are no longer needed
    if (own < here) {
      const std::int64_t s = ptr ? segment_of(row0 + own, ptr, segments) : 0;
      low[own] = ptr ? ptr[s] : 0;
      high[own] = ptr ? ptr[s + 1] : n_columns;
    }
    for (int r = warp; r < here; r += kTileWarps) nearest(r).clear();
    __syncthreads();

    const std::int64_t last = high[here - 1];
    for (std::int64_t column0 = low[0]; column0 < last; column0 += kTile) {
      if (own < kTile) {
        const T farthest = own < here ? distances[(row0 + own) * k + k - 1] : T(0);
        limit[own] = limit_of(static_cast<double>(farthest), metric, d);
        for (int w = 0; w < kWords; ++w) passing[own][w] = 0;
      }
      float sum[kSide][kSide] = {};
      for (std::int64_t p0 = 0; p0 < d; p0 += kSlice) {
        load_slice(left, rows, row0, n_rows, d, p0);
        load_slice(right, columns, column0, last, d, p0);
        __syncthreads();
#pragma unroll
        for (int p = 0; p < kSlice; ++p) {
          float u[kSide], v[kSide];
#pragma unroll
          for (int m = 0; m < kSide; ++m) u[m] = left[p][down + m];
#pragma unroll
          for (int m = 0; m < kSide; ++m) v[m] = right[p][across + m];
#pragma unroll
          for (int q = 0; q < kSide * kSide; ++q) {
            const float difference = u[q / kSide] - v[q % kSide];
            sum[q / kSide][q % kSide] = fma(difference, difference, sum[q / kSide][q % kSide]);
          }
        }
        __syncthreads();
      }
#pragma unroll
      for (int m = 0; m < kSide; ++m) {
        const int r = down + m;
        unsigned bits = 0;
#pragma unroll
        for (int c = 0; c < kSide; ++c) {
          const std::int64_t j = column0 + across + c;
          const bool is_candidate = r < here && low[r] <= j && j < high[r] && !(ptr && j == row0 + r);
          bits |= static_cast<unsigned>(is_candidate && !(sum[m][c] > limit[r])) << c;  // NaN passes: see unit_rows
        }
        if (bits != 0) atomicOr(&passing[r][across / 32], bits << across % 32);
      }
      __syncthreads();
      for (int r = warp; r < here; r += kTileWarps)
        for (int w = 0; w < kWords; ++w)
          for (unsigned left_over = passing[r][w]; left_over != 0; left_over &= left_over - 1) {
            const std::int64_t j = column0 + w * 32 + __ffs(static_cast<int>(left_over)) - 1;
            const T distance = exact_distance<T>(rows + (row0 + r) * d, columns + j * d, d, metric);
            if (nearest(r).admits(distance, j)) nearest(r).insert(distance, j);  // the same in all lanes
          }
      __syncthreads();
    }
  }
}

// ---- host -----------------------------------------------------------------------------------------------------------

template <typename X>
void find(const X* rows, std::int64_t n_rows, const X* columns, std::int64_t n_columns, std::int64_t d, std::int64_t k,
          Metric metric, const std::int64_t* ptr, std::int64_t segments, std::int64_t* indices, Distance<X>* distances,
          void* workspace, cudaStream_t stream) {
  const auto exactly = [&]<typename F>(F f) {
    launch("knn: search", stream, Grid{ceil_div(n_rows, kRows), kWarps * kWarp}, search<X, Distance<X>, F>, rows,
           n_rows, columns, n_columns, d, k, metric, ptr, segments, indices, distances, f);
  };
  const auto by_estimates = [&]<typename C>(const C* from, const C* to) {
    launch("knn: search_by_estimates", stream, Grid{ceil_div(n_rows, kTile), kTileThreads},
           search_by_estimates<C, Distance<X>>, from, n_rows, to, n_columns, d, k, metric, ptr, segments, indices,
           distances);
  };
  if (metric == Metric::inner_product) return exactly(Product{});
  if (metric != Metric::cosine) {
    if constexpr (std::is_same_v<X, double>) return exactly(SquaredDifference{});
    return by_estimates(rows, columns);
  }
  const bool same = rows == columns && n_rows == n_columns;  // a search may be among the first of its own queries
  double* const unit_columns = Workspace(workspace).take<double>(((same ? 0 : n_rows) + n_columns) * d);
  double* const unit = same ? unit_columns : unit_columns + n_columns * d;
  launch("knn: unit_rows", stream, warps_for(n_columns), unit_rows<X>, columns, n_columns, d, unit_columns);
  if (!same) launch("knn: unit_rows", stream, warps_for(n_rows), unit_rows<X>, rows, n_rows, d, unit);
  by_estimates(static_cast<const double*>(unit), static_cast<const double*>(unit_columns));
}

}  // namespace

std::int64_t knn_workspace(std::int64_t n, std::int64_t d, Metric metric) {
  Workspace workspace(nullptr);
  if (metric == Metric::cosine) workspace.take<double>(n * d);
  return workspace.bytes();
}

template <typename X>
void knn_graph(const X* x, std::int64_t n, std::int64_t d, std::int64_t k, Metric metric, const std::int64_t* ptr,
               std::int64_t segments, std::int64_t* indices, Distance<X>* distances, void* workspace, void* stream) {
  find(x, n, x, n, d, k, metric, ptr, segments, indices, distances, workspace, static_cast<cudaStream_t>(stream));
}

template <typename X>
void knn_search(const X* queries, std::int64_t n_queries, const X* base, std::int64_t n_base, std::int64_t d,
                std::int64_t k, Metric metric, std::int64_t* indices, Distance<X>* distances, void* workspace,
                void* stream) {
  find(queries, n_queries, base, n_base, d, k, metric, nullptr, 0, indices, distances, workspace,
       static_cast<cudaStream_t>(stream));
}

#define SSDML_KNN(X)                                                                                           \
  template void knn_graph(const X*, std::int64_t, std::int64_t, std::int64_t, Metric, const std::int64_t*,     \
                          std::int64_t, std::int64_t*, Distance<X>*, void*, void*);                            \
  template void knn_search(const X*, std::int64_t, const X*, std::int64_t, std::int64_t, std::int64_t, Metric, \
                           std::int64_t*, Distance<X>*, void*, void*);
SSDML_KNN(float)
SSDML_KNN(double)
SSDML_KNN(float16)
SSDML_KNN(bfloat16)
#undef SSDML_KNN

}  // namespace ssdml::cuda
