#include "knn_graph.h"

#include <atomic>
#include <cmath>
#include <cstddef>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <vector>

#include "simd.h"

namespace ssdml {
namespace {

// A register tile is `kTileRows` points against `kTileVectors` vectors of points; points are stored in panels of
// `kPanel`, coordinate by coordinate, so that one layout serves both sides of the product whatever the width of a
// vector.
constexpr int kTileVectors = 3;
constexpr int kTileRows = vector_registers == 32 ? 8 : 4;
constexpr int kPanel = 48;
constexpr int kTileColumns = kTileVectors * lanes<float>;
constexpr int kBlock = 5 * kPanel;            // points per side of a job
constexpr std::int64_t kSurvivors = 1 << 13;  // pairs a thread collects before it computes their distances
static_assert(kPanel % kTileColumns == 0 && kPanel % kTileRows == 0);

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// ---- exact distances
// -------------------------------------------------------------------------------------------------

/// Sum of f(a_p, b_p) over d coordinates in float64, in an order that no instruction set changes.
template <typename T, typename F>
double sum_over(const T* a, const T* b, std::int64_t d, F f) {
  constexpr int width = 16;
  double part[width] = {};
  std::int64_t p = 0;
  for (; p + width <= d; p += width)
    for (int r = 0; r < width; ++r) part[r] += f(static_cast<double>(a[p + r]), static_cast<double>(b[p + r]));
  for (int r = 0; p < d; ++p, ++r) part[r] += f(static_cast<double>(a[p]), static_cast<double>(b[p]));
  for (int half = width / 2; half > 0; half /= 2)
    for (int r = 0; r < half; ++r) part[r] += part[r + half];
  return part[0];
}

template <typename T>
double norm(const T* a, std::int64_t d) {
  return std::sqrt(sum_over(a, a, d, [](double u, double v) { return u * v; }));
}

/// One segment's points and what its metric needs to know of them.
template <typename T>
struct Points {
  const T* x;
  std::int64_t n, d;
  Metric metric;
  std::vector<double> norms;  // cosine only

  const T* row(std::int64_t i) const { return x + i * d; }

  T distance(std::int64_t i, std::int64_t j) const {
    const T *a = row(i), *b = row(j);
    switch (metric) {
      case Metric::sqeuclidean:
      case Metric::euclidean: {
        const double square = sum_over(a, b, d, [](double u, double v) { return (u - v) * (u - v); });
        return static_cast<T>(metric == Metric::euclidean ? std::sqrt(square) : square);
      }
      case Metric::cosine: {
        const double na = norms[i], nb = norms[j];
        if (na == 0 || nb == 0) return 1;
        return static_cast<T>(sum_over(a, b, d,
                                       [na, nb](double u, double v) {
                                         const double w = u / na - v / nb;
                                         return w * w;
                                       }) /
                              2);
      }
      case Metric::inner_product:
        break;
    }
    return static_cast<T>(-sum_over(a, b, d, [](double u, double v) { return u * v; }));
  }
};

// ---- the filter's coordinates
// ----------------------------------------------------------------------------------------

/// Float32 copies of a segment's points, centred and scaled to at most 1, in which
///
///   bound(i, j) = g_i + g_j - <y_i, y_j>   <=   v(i, j)   <=   bound(i, j) + 2 (slack_i + slack_j)
///
/// where v is half the squared distance (or minus the inner product) in scaled coordinates, computed without rounding.
struct Filter {
  std::int64_t d, panels;
  double unit;      // v = unit * squared distance (twice the cosine distance, or the distance of inner_product)
  double rounding;  // absolute error of the exact distances and of their rounding to T, in the units of v
  std::vector<float> y, g, slack;

  const float* panel(std::int64_t p) const { return y.data() + p * d * kPanel; }
};

template <typename T>
Filter make_filter(const Points<T>& points, int num_threads) {
  const std::int64_t n = points.n, d = points.d;
  const bool centred = points.metric != Metric::inner_product;
  const auto coordinate = [&](std::int64_t i, std::int64_t p) {
    const double value = static_cast<double>(points.row(i)[p]);
    return points.metric == Metric::cosine && points.norms[i] > 0 ? value / points.norms[i] : value;
  };

  std::vector<double> centre(d, 0.0);
  if (centred) {
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t p = 0; p < d; ++p) centre[p] += coordinate(i, p);
    for (double& c : centre) c /= static_cast<double>(n);
  }
  double spread = 0, farthest = 0;  // largest centred and raw coordinate
#pragma omp parallel for num_threads(num_threads) reduction(max : spread, farthest)
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t p = 0; p < d; ++p) {
      const double value = coordinate(i, p);
      spread = std::max(spread, std::abs(value - centre[p]));
      farthest = std::max(farthest, std::abs(value));
    }
  // A power of two, so that scaling does not round; not so large that its square overflows.
  const double scale = spread > 0 ? std::exp2(std::min(-std::ceil(std::log2(spread)), 500.0)) : 1.0;

  Filter filter;
  filter.d = d;
  filter.panels = (n + kPanel - 1) / kPanel;
  filter.unit = centred ? scale * scale / 2 : scale * scale;
  const double tiny = static_cast<double>(std::numeric_limits<T>::denorm_min());
  const double double_error = (static_cast<double>(d) + 8) * 0x1p-52;
  filter.rounding = filter.unit * 4 * tiny;
  filter.y.assign(static_cast<std::size_t>(filter.panels * d * kPanel), 0.0f);
  filter.g.assign(static_cast<std::size_t>(filter.panels * kPanel), std::numeric_limits<float>::quiet_NaN());
  filter.slack.assign(filter.g.size(), 0.0f);
  // <y_i, y_j> is off by at most (d + 8) 2^-23 |y_i| |y_j| <= ... (|y_i|^2 + |y_j|^2) / 2: float32 coordinates and
  // sums. A coordinate is off by 2^-52 of its raw size, from dividing by norms and subtracting the centre.
  const double sum_error = (static_cast<double>(d) + 8) * 0x1p-23;
  const double raw_error = farthest * scale * 0x1p-51 * std::sqrt(static_cast<double>(d));
#pragma omp parallel for num_threads(num_threads)
  for (std::int64_t i = 0; i < n; ++i) {
    float* out = filter.y.data() + (i / kPanel) * d * kPanel + i % kPanel;
    double square = 0;
    for (std::int64_t p = 0; p < d; ++p) {
      const float value = static_cast<float>((coordinate(i, p) - centre[p]) * scale);
      out[p * kPanel] = value;
      square += static_cast<double>(value) * value;
    }
    double slack = square * sum_error + raw_error * (std::sqrt(square) + raw_error);
    if (!centred) slack += square * double_error;
    if (points.metric == Metric::cosine && points.norms[i] == 0) slack += scale * scale / 2;  // its distances are 1
    slack = slack * 1.01 + 0x1p-120;
    filter.slack[i] = static_cast<float>(slack);
    filter.g[i] = static_cast<float>((centred ? square / 2 : 0.0) - slack);
  }
  return filter;
}

/// A float32 limit above every v whose exact distance rounds to that of `v`, with room for float32 sums of the limit.
inline float raised(double v, double rounding) { return static_cast<float>(v + std::abs(v) * 0x1p-20 + rounding); }

// ---- the k nearest so far
// --------------------------------------------------------------------------------------------

/// Each row of the result is a binary heap with its farthest neighbour on top, and a limit in the filter's units that
/// no further neighbour exceeds.
template <typename T>
struct Nearest {
  std::int64_t k;
  std::int64_t* indices;
  T* distances;
  Metric metric;
  double unit, rounding;
  std::vector<float> limit;

  Nearest(const Points<T>& points, const Filter& filter, std::int64_t k_, std::int64_t* indices_, T* distances_)
      : k(k_),
        indices(indices_),
        distances(distances_),
        metric(points.metric),
        unit(filter.unit),
        rounding(filter.rounding),
        limit(filter.g.size(), kInfinity) {
    std::fill(indices, indices + points.n * k, std::numeric_limits<std::int64_t>::max());
    std::fill(distances, distances + points.n * k, std::numeric_limits<T>::infinity());
  }

  static bool before(T da, std::int64_t ia, T db, std::int64_t ib) { return da < db || (da == db && ia < ib); }

  void offer(std::int64_t i, T distance, std::int64_t j) {
    T* dist = distances + i * k;
    if (!before(distance, j, dist[0], indices[i * k])) return;
    sift(i, k, distance, j);
    if (dist[0] < std::numeric_limits<T>::infinity()) limit[i] = std::min(limit[i], limit_of(dist[0]));
  }

  /// Upper bound of v for every pair whose rounded distance is at most `distance`.
  float limit_of(T distance) const {
    const double s = static_cast<double>(distance);
    const double v = unit * (metric == Metric::euclidean ? s * s : metric == Metric::cosine ? 2 * s : s);
    return raised(v, rounding);
  }

  void sort(std::int64_t i) {
    T* dist = distances + i * k;
    std::int64_t* index = indices + i * k;
    for (std::int64_t last = k - 1; last > 0; --last) {
      const T far = dist[0];
      const std::int64_t far_index = index[0];
      sift(i, last, dist[last], index[last]);
      dist[last] = far;
      index[last] = far_index;
    }
  }

 private:
  /// Replaces the top of a heap of `size` entries.
  void sift(std::int64_t i, std::int64_t size, T distance, std::int64_t j) {
    T* dist = distances + i * k;
    std::int64_t* index = indices + i * k;
    std::int64_t hole = 0;
    for (std::int64_t child = 1; child < size; child = 2 * hole + 1) {
      if (child + 1 < size && before(dist[child], index[child], dist[child + 1], index[child + 1])) ++child;
      if (!before(distance, j, dist[child], index[child])) break;
      dist[hole] = dist[child];
      index[hole] = index[child];
      hole = child;
    }
    dist[hole] = distance;
    index[hole] = j;
  }
};

// ---- one job: a block of rows against a block of columns
// -----------------------------------------------------------------

struct Pair {
  float bound;
  std::int32_t row, column;  // within their blocks
};

struct Scratch {
  std::vector<Pair> pairs;
  std::vector<float> products;  // kBlock x kBlock, of blocks whose rows have no limit yet
  std::vector<float> sorted;
  Scratch() : products(static_cast<std::size_t>(kBlock) * kBlock) { pairs.reserve(kSurvivors + kBlock * kPanel); }
};

/// acc[a][v] = <row a, columns of vector v> - g of those columns
inline void tile_products(const float* rows, const float* columns, const float* g, std::int64_t d,
                          Vec<float> (&acc)[kTileRows][kTileVectors]) {
#pragma GCC unroll 8
  for (int a = 0; a < kTileRows; ++a)
#pragma GCC unroll 3
    for (int v = 0; v < kTileVectors; ++v) acc[a][v] = -load(g + v * lanes<float>);
  for (std::int64_t p = 0; p < d; ++p, rows += kPanel, columns += kPanel) {
    Vec<float> b[kTileVectors];
#pragma GCC unroll 3
    for (int v = 0; v < kTileVectors; ++v) b[v] = load(columns + v * lanes<float>);
#pragma GCC unroll 8
    for (int a = 0; a < kTileRows; ++a) {
      const Vec<float> value = broadcast(rows[a]);
#pragma GCC unroll 3
      for (int v = 0; v < kTileVectors; ++v) acc[a][v] = multiply_add<float>(value, b[v], acc[a][v]);
    }
  }
}

template <typename T>
class Search {
 public:
  Search(const Points<T>& points, const Filter& filter, Nearest<T>& nearest)
      : points_(points), filter_(filter), nearest_(nearest) {}

  std::int64_t blocks() const { return (points_.n + kBlock - 1) / kBlock; }

  /// All pairs of one block: both ends of every pair are offered to each other as rows.
  void within(std::int64_t block, Scratch& scratch) { run<false>(block, block, scratch); }

  /// All pairs between two blocks, each computed once and offered to both ends.
  void between(std::int64_t i, std::int64_t j, Scratch& scratch) { run<true>(i, j, scratch); }

 private:
  std::int64_t first(std::int64_t block) const { return block * kBlock; }
  std::int64_t size(std::int64_t block) const { return std::min<std::int64_t>(kBlock, points_.n - first(block)); }

  template <bool symmetric>
  void run(std::int64_t row_block, std::int64_t column_block, Scratch& scratch) {
    if (!symmetric) initial_limits(row_block, scratch);
    const std::int64_t r0 = first(row_block), c0 = first(column_block);
    const std::int64_t rows = size(row_block), columns = size(column_block);
    alignas(64) float row_of_tile[lanes<float>];
    for (std::int64_t c = 0; c < columns; c += kTileColumns) {
      const std::int64_t column = c0 + c;
      const float* column_data = filter_.panel(column / kPanel) + column % kPanel;
      for (std::int64_t r = 0; r < rows; r += kTileRows) {
        const std::int64_t row = r0 + r;
        Vec<float> acc[kTileRows][kTileVectors];
        tile_products(filter_.panel(row / kPanel) + row % kPanel, column_data, &filter_.g[column], filter_.d, acc);
#pragma GCC unroll 8
        for (int a = 0; a < kTileRows; ++a) {
          const float g = filter_.g[row + a];
          const Vec<float> row_limit = broadcast(nearest_.limit[row + a]);
#pragma GCC unroll 3
          for (int v = 0; v < kTileVectors; ++v) {
            Vec<float> limit = row_limit;
            if (symmetric) limit = maximum(limit, load(&nearest_.limit[column + v * lanes<float>]));
            std::uint32_t mask = mask_greater_equal(acc[a][v], g - limit);
            if (mask == 0) [[likely]]
              continue;
            store(row_of_tile, acc[a][v]);
            for (; mask != 0; mask &= mask - 1) {
              const int lane = __builtin_ctz(mask);
              scratch.pairs.push_back({g - row_of_tile[lane], static_cast<std::int32_t>(r + a),
                                       static_cast<std::int32_t>(c + v * lanes<float> + lane)});
            }
          }
        }
        if (static_cast<std::int64_t>(scratch.pairs.size()) >= kSurvivors) settle<symmetric>(r0, c0, scratch);
      }
    }
    settle<symmetric>(r0, c0, scratch);
  }

  /// Computes the distances of the collected pairs that may still matter.
  template <bool symmetric>
  void settle(std::int64_t r0, std::int64_t c0, Scratch& scratch) {
    for (const Pair& pair : scratch.pairs) {
      const std::int64_t i = r0 + pair.row, j = c0 + pair.column;
      const bool for_row = pair.bound <= nearest_.limit[i];
      const bool for_column = symmetric && pair.bound <= nearest_.limit[j];
      if (i == j || !(for_row || for_column)) continue;
      const T distance = points_.distance(i, j);
      if (for_row) nearest_.offer(i, distance, j);
      if (for_column) nearest_.offer(j, distance, i);
    }
    scratch.pairs.clear();
  }

  /// The first limit of each row: the k-th smallest upper bound within its own block. Without it, every pair of the
  /// block would be computed exactly.
  void initial_limits(std::int64_t block, Scratch& scratch) {
    const std::int64_t r0 = first(block), count = size(block);
    if (count - 1 < nearest_.k) return;
    float block_slack = 0;
    for (std::int64_t c = 0; c < count; ++c) block_slack = std::max(block_slack, filter_.slack[r0 + c]);
    for (std::int64_t c = 0; c < count; c += kTileColumns) {
      const std::int64_t column = r0 + c;
      for (std::int64_t r = 0; r < count; r += kTileRows) {
        const std::int64_t row = r0 + r;
        Vec<float> acc[kTileRows][kTileVectors];
        tile_products(filter_.panel(row / kPanel) + row % kPanel, filter_.panel(column / kPanel) + column % kPanel,
                      &filter_.g[column], filter_.d, acc);
        for (int a = 0; a < kTileRows; ++a)
          for (int v = 0; v < kTileVectors; ++v)
            store(&scratch.products[(r + a) * kBlock + c + v * lanes<float>], acc[a][v]);
      }
    }
    for (std::int64_t r = 0; r < count; ++r) {
      float* row = &scratch.products[r * kBlock];
      row[r] = row[count - 1];  // the point itself is left out
      float* kth = row + nearest_.k - 1;
      std::nth_element(row, kth, row + count - 1, [](float a, float b) { return a > b; });
      const double bound = static_cast<double>(filter_.g[r0 + r]) - *kth;
      const double slack = 2.0 * (static_cast<double>(filter_.slack[r0 + r]) + block_slack);
      const double v = bound + slack;
      nearest_.limit[r0 + r] = raised(v, nearest_.rounding);
    }
  }

  const Points<T>& points_;
  const Filter& filter_;
  Nearest<T>& nearest_;
};

// ---- scheduling
// --------------------------------------------------------------------------------------------------------

/// Runs all jobs of one segment. Jobs are ordered like the rounds of a tournament, in which no block plays twice, so
/// that threads seldom wait for the lock of a block. The result does not depend on the order.
template <typename T>
void search_segment(const T* x, std::int64_t n, std::int64_t d, std::int64_t k, Metric metric, std::int64_t offset,
                    std::int64_t* indices, T* distances, int num_threads, Scratch* scratch, std::atomic<bool>& stop,
                    const std::function<void(double)>& report) {
  Points<T> points{x, n, d, metric, {}};
  if (metric == Metric::cosine) {
    points.norms.resize(n);
    for (std::int64_t i = 0; i < n; ++i) points.norms[i] = norm(points.row(i), d);
  }
  const Filter filter = make_filter(points, num_threads);
  Nearest<T> nearest(points, filter, k, indices, distances);
  Search<T> search(points, filter, nearest);
  const std::int64_t blocks = search.blocks();
  const auto locks = std::make_unique<std::mutex[]>(blocks);
  std::atomic<std::int64_t> next{0};
  const std::int64_t jobs = blocks + blocks * blocks;  // each block with itself, then rounds x blocks

#pragma omp parallel num_threads(num_threads)
  {
    Scratch& mine = scratch[thread_index()];
    for (std::int64_t job; !stop && (job = next++) < jobs;) {
      if (job < blocks) {
        const std::lock_guard guard(locks[job]);
        search.within(job, mine);
      } else {
        const std::int64_t round = job / blocks - 1, i = job % blocks, j = (round - i + blocks) % blocks;
        if (i >= j) continue;
        const std::scoped_lock guard(locks[i], locks[j]);
        search.between(i, j, mine);
      }
      if (thread_index() == 0) report(static_cast<double>(job + 1) / static_cast<double>(jobs));
    }
  }

#pragma omp parallel for num_threads(num_threads)
  for (std::int64_t i = 0; i < n; ++i) {
    nearest.sort(i);
    for (std::int64_t r = 0; r < k; ++r) indices[i * k + r] += offset;
  }
}

}  // namespace

template <typename T>
bool knn_graph(const T* x, std::int64_t n, std::int64_t d, std::int64_t k, Metric metric, const std::int64_t* ptr,
               std::int64_t segments, std::int64_t* indices, T* distances, int num_threads, Progress& progress) {
  std::vector<Scratch> scratch(static_cast<std::size_t>(num_threads));
  std::atomic<bool> stop{false};
  // Segments of up to a few blocks are searched side by side, one thread each; larger ones one after the other.
  constexpr std::int64_t small = 4 * kBlock;
  const auto search = [&](std::int64_t s, int threads, Scratch* own, const std::function<void(double)>& report) {
    const std::int64_t first = ptr[s], size = ptr[s + 1] - first;
    if (size > 0)
      search_segment(x + first * d, size, d, k, metric, first, indices + first * k, distances + first * k, threads, own,
                     stop, report);
  };
  const auto report = [&](double points) {
    if (!progress.update(points / static_cast<double>(n))) stop = true;
  };

#pragma omp parallel for num_threads(num_threads) schedule(dynamic)
  for (std::int64_t s = 0; s < segments; ++s) {
    if (stop || ptr[s + 1] - ptr[s] > small) continue;
    search(s, 1, &scratch[thread_index()], [](double) {});
    if (thread_index() == 0) report(static_cast<double>(ptr[s]));
  }
  for (std::int64_t s = 0; s < segments; ++s) {
    const std::int64_t size = ptr[s + 1] - ptr[s];
    if (stop || size <= small) continue;
    search(s, num_threads, scratch.data(),
           [&](double share) { report(static_cast<double>(ptr[s]) + share * static_cast<double>(size)); });
  }
  return !stop;
}

template bool knn_graph(const float*, std::int64_t, std::int64_t, std::int64_t, Metric, const std::int64_t*,
                        std::int64_t, std::int64_t*, float*, int, Progress&);
template bool knn_graph(const double*, std::int64_t, std::int64_t, std::int64_t, Metric, const std::int64_t*,
                        std::int64_t, std::int64_t*, double*, int, Progress&);

}  // namespace ssdml
