#include <cmath>
#include <limits>
#include <type_traits>

#include "cuda/launch.h"
#include "knn_graph/cuda_filter.h"
#include "knn_graph/knn_graph.h"

namespace ssdml::cuda {
namespace {

using namespace knn;

// Bounds from tensor cores say which pairs may be near (cuda_filter.h), and the distances of those are computed
// exactly, by a warp whose 32 lanes hold the 32 partial sums of sum_over() in points.h, so that they agree with the
// CPU's to the last bit.
//
// What bounds do not decide, and sets too small for them, are compared with every point of their segment: by estimates
// in float32 where these are good enough to rule most pairs out (search_by_estimates), a block of threads comparing
// tiles of points as a matrix product does; exactly elsewhere, for float64 and inner products (search). By counting
// instructions, the former issues about 2.3 per pair and coordinate, two of which are the subtraction and the fused
// multiplication; the latter is bound by float64 arithmetic and by conversions to it.
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
struct CoordinateProduct {
  __device__ double operator()(double sum, double u, double v) const { return sum + u * v; }
};

/// Sums part[q] over the lanes, for lane q. Each step halves the pairs that a lane is responsible for and adds the
/// partner's partial sums of those it keeps. A template, so that `part` stays in registers.
template <int half>
__device__ void fold_lanes(double (&part)[kWarp]) {
  const bool upper = lane_id() & half;
#pragma unroll
  for (int q = 0; q < half; ++q) {
    const double kept = upper ? part[q + half] : part[q], given = upper ? part[q] : part[q + half];
    part[q] = kept + __shfl_xor_sync(kAllLanes, given, half);
  }
  if constexpr (half > 1) fold_lanes<half / 2>(part);
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
  fold_lanes<kWarp / 2>(part);
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

/// The distance of the pair whose sum over coordinates of some function of type F is sum(function), summed again by
/// another where squares underflow. All lanes of the warp must call it.
template <typename T, typename C, typename F, typename Sum>
__device__ T distance_by(Sum sum, Metric metric, F f) {
  const double plain = sum(f);
  if constexpr (std::is_same_v<C, double> && std::is_same_v<F, SquaredDifference>) {
    if (metric == Metric::euclidean && __ballot_sync(kAllLanes, plain < kTinySquare) != 0) {
      const double lifted = sum(LiftedSquaredDifference{});
      if (plain < kTinySquare) return static_cast<T>(sqrt(lifted) / kLift);
    }
  }
  return distance_of<T>(plain, metric);
}

/// The exact distance of two points, in all lanes of the warp, which must all call it.
template <typename T, typename C, typename F>
__device__ T exact_distance(const C* u, const C* v, std::int64_t d, Metric metric, F f) {
  const auto sum = [&](auto g) {
    double part = 0;
    for (std::int64_t p = lane_id(); p < d; p += kWarp)
      part = g(part, static_cast<double>(u[p]), static_cast<double>(v[p]));
    return sum_of_warp(part);
  };
  return distance_by<T, C>(sum, metric, f);
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

/// The columns of row row0 + threadIdx.x: none if it is not one of `only`.
__device__ void find_columns(const Segments& segments, const bool* only, std::int64_t row0, std::int64_t* low,
                             std::int64_t* high) {
  const std::int64_t i = row0 + threadIdx.x, s = segments.of(i), begin = segments.begin(s);
  low[threadIdx.x] = begin;
  high[threadIdx.x] = only && !only[i] ? begin : begin + segments.size(s);
}

struct ColumnRange {
  std::int64_t first, last;
};

/// From the first to past the last of the columns of `count` rows, which ascend.
__device__ ColumnRange all_columns(const std::int64_t* low, const std::int64_t* high, int count) {
  ColumnRange range{0, 0};
  for (int r = 0; r < count; ++r) {
    if (low[r] == high[r]) continue;
    if (range.last == 0) range.first = low[r];
    range.last = high[r];
  }
  return range;
}

/// Neighbours of each of the rows from `begin` to `end`, or of those only where `only` is true, among the columns: all
/// of them or, where these are the same points in segments, the others of its segment.
template <typename C, typename T, typename F>
__global__ void __launch_bounds__(kWarps* kWarp, 2)
    search(const C* rows, std::int64_t begin, std::int64_t end, const C* columns, Segments segments, std::int64_t d,
           std::int64_t k, Metric metric, const bool* only, std::int64_t* indices, T* distances, F f) {
  __shared__ T tile[kRows][kColumns];
  __shared__ std::int64_t low[kRows], high[kRows];  // the columns of each row
  constexpr int row_groups = kRows / kMicroRows, column_groups = kColumns / kMicroColumns;
  const int warp = threadIdx.x / kWarp, lane = lane_id();
  const int first_row = warp % row_groups * kMicroRows;  // of this warp's pairs

  for (std::int64_t row0 = begin + static_cast<std::int64_t>(blockIdx.x) * kRows; row0 < end;
       row0 += static_cast<std::int64_t>(gridDim.x) * kRows) {
    const int here = static_cast<int>(min(static_cast<long long>(kRows), static_cast<long long>(end - row0)));
    const auto nearest = [&](int r) { return Nearest<T>{k, indices + (row0 + r) * k, distances + (row0 + r) * k}; };
    __syncthreads();  // the previous rows' columns are no longer needed
    if (static_cast<int>(threadIdx.x) < here) find_columns(segments, only, row0, low, high);
    __syncthreads();
    for (int r = warp; r < here; r += kWarps)
      if (low[r] < high[r]) nearest(r).clear();
    __syncthreads();

    const auto [first, last] = all_columns(low, high, here);
    for (std::int64_t column0 = first; column0 < last; column0 += kColumns) {
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
            distance_by<T, C>([&](auto g) { return pair_sums(row, column, d, g); }, metric, f);
      }
      __syncthreads();
      for (int r = warp; r < here; r += kWarps)
        for (int c = lane; c < kColumns; c += kWarp) {
          const std::int64_t j = column0 + c;
          nearest(r).offer(low[r] <= j && j < high[r] && !(segments.ptr && j == row0 + r), tile[r][c], j);
        }
      __syncthreads();
    }
  }
}

// ---- search by estimates --------------------------------------------------------------------------------------------

constexpr int kTile = 64;                         // points on either side of a tile,
constexpr int kSide = 4, kSides = kTile / kSide;  // of which a thread compares kSide with kSide,
constexpr int kCoordinates = 16;                  // by so many coordinates at a time
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
__device__ void load_coordinates(float (&slice)[kCoordinates][kTile + kSide], const C* points, std::int64_t first,
                                 std::int64_t n, std::int64_t d, std::int64_t p0) {
  for (int e = threadIdx.x; e < kTile * kCoordinates; e += kTileThreads) {
    const int i = e / kCoordinates, p = e % kCoordinates;
    const bool inside = first + i < n && p0 + p < d;
    slice[p][i] = inside ? static_cast<float>(static_cast<double>(points[(first + i) * d + p0 + p])) : 0.0f;
  }
}

/// As search(), for sums of squared differences.
template <typename C, typename T>
__global__ void __launch_bounds__(kTileThreads, 3)
    search_by_estimates(const C* rows, std::int64_t begin, std::int64_t end, const C* columns, Segments segments,
                        std::int64_t d, std::int64_t k, Metric metric, const bool* only, std::int64_t* indices,
                        T* distances) {
  __shared__ __align__(16) float left[kCoordinates][kTile + kSide], right[kCoordinates][kTile + kSide];
  __shared__ std::int64_t low[kTile], high[kTile];  // the columns of each row
  __shared__ float limit[kTile];
  __shared__ unsigned passing[kTile][kWords];  // a bit for each column of the tile that may be near
  const int warp = threadIdx.x / kWarp, own = threadIdx.x;
  const int down = own / kSides * kSide, across = own % kSides * kSide;

  for (std::int64_t row0 = begin + static_cast<std::int64_t>(blockIdx.x) * kTile; row0 < end;
       row0 += static_cast<std::int64_t>(gridDim.x) * kTile) {
    const int here = static_cast<int>(min(static_cast<long long>(kTile), static_cast<long long>(end - row0)));
    const auto nearest = [&](int r) { return Nearest<T>{k, indices + (row0 + r) * k, distances + (row0 + r) * k}; };
    __syncthreads();  // the previous rows' columns are no longer needed
    if (own < here) find_columns(segments, only, row0, low, high);
    __syncthreads();
    for (int r = warp; r < here; r += kTileWarps)
      if (low[r] < high[r]) nearest(r).clear();
    __syncthreads();

    const auto [first, last] = all_columns(low, high, here);
    for (std::int64_t column0 = first; column0 < last; column0 += kTile) {
      if (own < kTile) {
        const T farthest = own < here ? distances[(row0 + own) * k + k - 1] : T(0);
        limit[own] = limit_of(static_cast<double>(farthest), metric, d);
        for (int w = 0; w < kWords; ++w) passing[own][w] = 0;
      }
      float sum[kSide][kSide] = {};
      for (std::int64_t p0 = 0; p0 < d; p0 += kCoordinates) {
        load_coordinates(left, rows, row0, end, d, p0);
        load_coordinates(right, columns, column0, last, d, p0);
        __syncthreads();
#pragma unroll
        for (int p = 0; p < kCoordinates; ++p) {
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
          const bool is_candidate = r < here && low[r] <= j && j < high[r] && !(segments.ptr && j == row0 + r);
          bits |= static_cast<unsigned>(is_candidate && !(sum[m][c] > limit[r])) << c;  // NaN passes: see unit_rows
        }
        if (bits != 0) atomicOr(&passing[r][across / 32], bits << across % 32);
      }
      __syncthreads();
      for (int r = warp; r < here; r += kTileWarps)
        for (int w = 0; w < kWords; ++w)
          for (unsigned left_over = passing[r][w]; left_over != 0; left_over &= left_over - 1) {
            const std::int64_t j = column0 + w * 32 + __ffs(static_cast<int>(left_over)) - 1;
            const T distance =
                exact_distance<T>(rows + (row0 + r) * d, columns + j * d, d, metric, SquaredDifference{});
            if (nearest(r).admits(distance, j)) nearest(r).insert(distance, j);  // the same in all lanes
          }
      __syncthreads();
    }
  }
}

// ---- search by bounds -----------------------------------------------------------------------------------------------

/// The k nearest of each row's candidates; rows that had no room for theirs are left out. One warp per row.
template <typename C, typename T, typename F>
__global__ void select_nearest(const C* points, const C* columns, Side rows, Segments segments, std::int64_t d,
                               std::int64_t k, std::int64_t capacity, Metric metric, bool* left_out,
                               std::int64_t* indices, T* distances, F f) {
  for (std::int64_t place = warp_id(); place < rows.segments.n; place += warp_count()) {
    const std::int64_t s = rows.segments.of(place), first = rows.segments.begin(s);
    const std::int64_t i = first + point_at(place - first, rows.segments.size(s));
    const unsigned count = rows.count[place];
    if (lane_id() == 0) left_out[i] = count > capacity;
    if (count > capacity) continue;
    const Nearest<T> nearest{k, indices + i * k, distances + i * k};
    nearest.clear();
    const std::int64_t others = segments.begin(s), size = segments.size(s);
    for (unsigned e = 0; e < count; ++e) {
      const std::int64_t j = others + point_at(rows.kept[place * capacity + e].place, size);
      const T distance = exact_distance<T>(points + i * d, columns + j * d, d, metric, f);
      if (nearest.admits(distance, j)) nearest.insert(distance, j);  // the same in all lanes
    }
  }
}

// ---- host -----------------------------------------------------------------------------------------------------------

/// Whoever wants to know how far a search is, and may stop it; nobody, where `progress` is null.
class Watch {
 public:
  Watch(Progress* progress, cudaStream_t stream) : progress_(progress), stream_(stream) {}

  /// Calls queue(begin, end) for [0, n) or, watched, for parts of it, multiples of `unit`. Once one is done, the share
  /// of the search that is done lies as far between `before` and `after`. False if the search shall stop.
  template <typename F>
  bool queue_parts(std::int64_t n, std::int64_t unit, double before, double after, F queue) const {
    const std::int64_t part = progress_ ? ceil_div(ceil_div(n, unit), kLooks) * unit : n;
    for (std::int64_t begin = 0; begin < n; begin += part) {
      const std::int64_t end = std::min(begin + part, n);
      queue(begin, end);
      if (!progress_) continue;
      check(cudaStreamSynchronize(stream_), "knn: progress");
      if (!progress_->update(before + (after - before) * static_cast<double>(end) / static_cast<double>(n)))
        return false;
    }
    return true;
  }

 private:
  static constexpr std::int64_t kLooks = 16;  // at what one launch could do, each a wait for the stream

  Progress* progress_;
  cudaStream_t stream_;
};

/// The share of a search that has been done by bounds, once the rows are known that they leave out, as a rule few.
constexpr double kBounded = 0.95;

/// What a search needs besides its result. Rows and columns are the same points if `mutual`.
struct SearchWork {
  Plan plan;
  double *unit_columns = nullptr, *unit_rows = nullptr;  // cosine
  Frame frame{};
  Side columns{}, rows{};
  bool* left_out = nullptr;  // (n_rows)

  SearchWork(Workspace& workspace, Segments row_segments, Segments column_segments, bool mutual, std::int64_t largest,
             std::int64_t d, std::int64_t k, Metric metric)
      : plan(largest, k, mutual) {
    if (metric == Metric::cosine) {
      unit_columns = workspace.take<double>(column_segments.n * d);
      unit_rows = mutual ? unit_columns : workspace.take<double>(row_segments.n * d);
    }
    if (plan.ends.empty()) return;
    frame = {workspace.take<double>(d), workspace.take<double>(1), d, ceil_div(d, kSlice), metric};
    const auto side = [&](Segments segments) {
      const std::int64_t n = segments.n;
      return Side{segments,
                  workspace.take<float16>((n + kBlock) * frame.slices * kSlice),
                  workspace.take<float>(n),
                  workspace.take<float>(n),
                  nullptr,
                  nullptr,
                  nullptr};
    };
    rows = side(row_segments);
    rows.limit = workspace.take<float>(row_segments.n);
    rows.count = workspace.take<unsigned>(row_segments.n);
    rows.kept = workspace.take<Candidate>(row_segments.n * plan.capacity);
    columns = mutual ? rows : side(column_segments);
    left_out = workspace.take<bool>(row_segments.n);
  }
};

/// As search(), for rows and columns of type C: what it does not answer is left out. False if it was stopped.
template <typename T, typename C, typename F>
bool search_by_bounds(const C* rows, const C* columns, bool mutual, const SearchWork& work, std::int64_t k,
                      std::int64_t* indices, T* distances, F f, const Watch& watch, cudaStream_t stream) {
  const auto& [segments, n] = std::pair(work.columns.segments, work.columns.segments.n);
  const std::int64_t n_rows = work.rows.segments.n, d = work.frame.d, blocks = work.rows.segments.most_blocks();
  launch("knn: find_centre", stream, grid_of_threads(d, kWarp), find_centre<C>, columns, n, work.frame);
  check(cudaMemsetAsync(work.frame.largest, 0, sizeof(double), stream), "knn: find_largest");
  launch("knn: find_largest", stream, grid_of_threads(n * d), find_largest<C>, columns, n, work.frame);
  if (!mutual)
    launch("knn: find_largest", stream, grid_of_threads(n_rows * d), find_largest<C>, rows, n_rows, work.frame);
  launch("knn: place_points", stream, grid_of_warps(n_rows), place_points<C>, rows, work.frame, work.rows, true);
  if (!mutual)
    launch("knn: place_points", stream, grid_of_warps(n), place_points<C>, columns, work.frame, work.columns, false);

  constexpr std::int64_t shared = kStages * kStageBytes;
  admit_shared("knn: compare", compare, shared);
  const auto share = [&](std::int64_t offset) {
    return kBounded * static_cast<double>(offset) / static_cast<double>(work.plan.ends.back());
  };
  std::int64_t begin = 0;
  for (const std::int64_t end : work.plan.ends) {
    const auto compare_offsets = [&](std::int64_t from, std::int64_t to) {
      launch("knn: compare", stream, Grid{blocks * ceil_div(to - from, kOffsetsAtOnce), kThreads, shared}, compare,
             work.rows, work.columns, mutual, blocks, work.frame.slices, work.plan.capacity, begin + from, begin + to);
    };
    if (!watch.queue_parts(end - begin, kOffsetsAtOnce, share(begin), share(end), compare_offsets)) return false;
    launch("knn: tighten", stream, grid_of_warps(n_rows), tighten<T>, work.frame, work.rows, work.columns, k,
           work.plan.capacity);
    begin = end;
  }
  launch("knn: select_nearest", stream, grid_of_warps(n_rows), select_nearest<C, T, F>, rows, columns, work.rows,
         segments, d, k, work.plan.capacity, work.frame.metric, work.left_out, indices, distances, f);
  return true;
}

template <typename X>
SearchOutcome find(const X* rows, Segments row_segments, const X* columns, Segments column_segments, bool mutual,
                   std::int64_t largest, std::int64_t d, std::int64_t k, Metric metric, std::int64_t* indices,
                   Distance<X>* distances, Progress* progress, void* memory, cudaStream_t stream) {
  using T = Distance<X>;
  Workspace workspace(memory);
  const SearchWork work(workspace, row_segments, column_segments, mutual, largest, d, k, metric);
  const std::int64_t n_rows = row_segments.n;
  const Watch watch(progress, stream);
  const auto search_all = [&]<typename C, typename F>(const C* from, const C* to, F f) {
    const bool bounded = !work.plan.ends.empty();
    if (bounded && !search_by_bounds(from, to, mutual, work, k, indices, distances, f, watch, stream))
      return SearchOutcome::stopped;
    const auto search_rows = [&](std::int64_t begin, std::int64_t end) {
      if constexpr (std::is_same_v<F, CoordinateProduct> || (std::is_same_v<C, double> && std::is_same_v<X, double>)) {
        if (std::is_same_v<F, CoordinateProduct> || metric != Metric::cosine)
          return launch("knn: search", stream, Grid{ceil_div(end - begin, kRows), kWarps * kWarp}, search<C, T, F>,
                        from, begin, end, to, column_segments, d, k, metric, work.left_out, indices, distances, f);
      }
      if constexpr (!std::is_same_v<F, CoordinateProduct>)
        launch("knn: search_by_estimates", stream, Grid{ceil_div(end - begin, kTile), kTileThreads},
               search_by_estimates<C, T>, from, begin, end, to, column_segments, d, k, metric, work.left_out, indices,
               distances);
    };
    return watch.queue_parts(n_rows, kTile, bounded ? kBounded : 0, 1, search_rows) ? SearchOutcome::complete
                                                                                    : SearchOutcome::stopped;
  };
  if (metric == Metric::inner_product) return search_all(rows, columns, CoordinateProduct{});
  if (metric != Metric::cosine) return search_all(rows, columns, SquaredDifference{});
  launch("knn: unit_rows", stream, grid_of_warps(column_segments.n), unit_rows<X>, columns, column_segments.n, d,
         work.unit_columns);
  if (!mutual) launch("knn: unit_rows", stream, grid_of_warps(n_rows), unit_rows<X>, rows, n_rows, d, work.unit_rows);
  return search_all(static_cast<const double*>(work.unit_rows), static_cast<const double*>(work.unit_columns),
                    SquaredDifference{});
}

/// All of n points as one segment.
Segments one_segment(std::int64_t n) { return {nullptr, 1, n}; }

}  // namespace

std::int64_t knn_graph_workspace(std::int64_t n, std::int64_t d, std::int64_t k, Metric metric, std::int64_t largest) {
  Workspace workspace(nullptr);
  SearchWork(workspace, one_segment(n), one_segment(n), true, largest, d, k, metric);
  return workspace.bytes();
}

std::int64_t knn_search_workspace(std::int64_t n_queries, std::int64_t n_base, std::int64_t d, std::int64_t k,
                                  Metric metric) {
  Workspace workspace(nullptr);
  SearchWork(workspace, one_segment(n_queries), one_segment(n_base), false, n_base, d, k, metric);
  return workspace.bytes();
}

template <typename X>
SearchOutcome knn_graph(const X* x, std::int64_t n, std::int64_t d, std::int64_t k, Metric metric,
                        const std::int64_t* ptr, std::int64_t segments, std::int64_t largest, std::int64_t* indices,
                        Distance<X>* distances, Progress* progress, void* workspace, void* stream) {
  const Segments points{ptr, segments, n};
  return find(x, points, x, points, true, largest, d, k, metric, indices, distances, progress, workspace,
              static_cast<cudaStream_t>(stream));
}

template <typename X>
SearchOutcome knn_search(const X* queries, std::int64_t n_queries, const X* base, std::int64_t n_base, std::int64_t d,
                         std::int64_t k, Metric metric, std::int64_t* indices, Distance<X>* distances,
                         Progress* progress, void* workspace, void* stream) {
  return find(queries, one_segment(n_queries), base, one_segment(n_base), false, n_base, d, k, metric, indices,
              distances, progress, workspace, static_cast<cudaStream_t>(stream));
}

#define SSDML_KNN(X)                                                                                                  \
  template SearchOutcome knn_graph(const X*, std::int64_t, std::int64_t, std::int64_t, Metric, const std::int64_t*,   \
                                   std::int64_t, std::int64_t, std::int64_t*, Distance<X>*, Progress*, void*, void*); \
  template SearchOutcome knn_search(const X*, std::int64_t, const X*, std::int64_t, std::int64_t, std::int64_t,       \
                                    Metric, std::int64_t*, Distance<X>*, Progress*, void*, void*);
SSDML_KNN(float)
SSDML_KNN(double)
SSDML_KNN(float16)
SSDML_KNN(bfloat16)
#undef SSDML_KNN

}  // namespace ssdml::cuda
