#include "knn_graph.h"

#include <atomic>
#include <cmath>
#include <cstddef>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <vector>

#include "knn_filter.h"
#include "knn_points.h"
#include "simd.h"

namespace ssdml {
namespace {

constexpr int kBlock = 5 * Filter::kPanel;  // points per side of a job
constexpr std::int64_t kFewestByteCoordinates = 256;
constexpr std::int64_t kMostIntegerCoordinates = 1 << 16;  // more could overflow sums of 32 bits
constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// The k nearest of each row so far. A row holds candidates known by their bounds, and, in the arrays of the result, a
/// heap of neighbours whose distances have been computed, the farthest on top. Candidates that can no longer be among
/// the k nearest are dropped as bounds tighten; distances are computed at the end, or where bounds do not decide.
template <typename T>
class Nearest {
 public:
  Nearest(const Points<T>& points, const Filter& filter, std::int64_t k, std::int64_t* indices, T* distances)
      : limit(filter.g.size(), kInfinity),
        points_(points),
        filter_(filter),
        k_(k),
        capacity_(filter.coarse() ? 4 * k + 32 : 2 * k + 8),
        indices_(indices),
        distances_(distances),
        candidates_(points.n * capacity_),
        counts_(points.n, 0),
        widest_slack_(*std::max_element(filter.slack.begin(), filter.slack.end())) {
    std::fill(indices, indices + points.n * k, std::numeric_limits<std::int64_t>::max());
    std::fill(distances, distances + points.n * k, std::numeric_limits<T>::infinity());
  }

  /// In the filter's units, per row: no further neighbour has a bound above it. Padded like the filter's arrays.
  std::vector<float> limit;

  void add(std::int64_t i, float bound, std::int64_t j) {
    if (bound > limit[i] || i == j) return;
    if (counts_[i] == capacity_) make_room(i);
    candidates_[i * capacity_ + counts_[i]++] = {bound, static_cast<std::uint32_t>(j)};
  }

  /// Tightens the limit of row i, given that k other points have a bound of at most `bound`.
  void limit_by_bound(std::int64_t i, float bound) {
    const double slack = 2.0 * (static_cast<double>(filter_.slack[i]) + widest_slack_);
    limit[i] = std::min(limit[i], filter_.limit(static_cast<double>(bound) + slack));
  }

  /// Turns row i into its result: k neighbours with their distances, nearest first, numbered from `offset`.
  void finish(std::int64_t i, std::int64_t offset) {
    settle(i);
    T* distance = distances_ + i * k_;
    std::int64_t* index = indices_ + i * k_;
    for (std::int64_t last = k_ - 1; last > 0; --last) {
      const T far = distance[0];
      const std::int64_t far_index = index[0];
      sift(i, last, distance[last], index[last]);
      distance[last] = far;
      index[last] = far_index;
    }
    for (std::int64_t r = 0; r < k_; ++r) index[r] += offset;
  }

  /// Mean number of candidates of the first `rows` rows that their bounds leave undecided.
  double undecided(std::int64_t rows) {
    std::int64_t sum = 0;
    for (std::int64_t i = 0; i < rows; ++i) {
      drop_far(i);
      sum += counts_[i];
    }
    return static_cast<double>(sum) / static_cast<double>(rows);
  }

 private:
  struct Candidate {
    float bound;
    std::uint32_t index;
    bool operator<(const Candidate& other) const { return bound < other.bound; }
  };

  static bool before(T da, std::int64_t ia, T db, std::int64_t ib) { return da < db || (da == db && ia < ib); }

  void drop_far(std::int64_t i) {
    Candidate* row = &candidates_[i * capacity_];
    if (counts_[i] >= k_) {
      std::nth_element(row, row + k_ - 1, row + counts_[i]);
      limit_by_bound(i, row[k_ - 1].bound);
    }
    const float most = limit[i];
    counts_[i] = std::remove_if(row, row + counts_[i], [most](const Candidate& c) { return c.bound > most; }) - row;
  }

  void make_room(std::int64_t i) {
    drop_far(i);
    if (counts_[i] > capacity_ - capacity_ / 4) settle(i);
  }

  /// Computes the distances of row i's candidates, most promising first, until no other can matter.
  void settle(std::int64_t i) {
    Candidate* row = &candidates_[i * capacity_];
    std::sort(row, row + counts_[i]);
    for (std::int64_t c = 0; c < counts_[i] && row[c].bound <= limit[i]; ++c) {
      if (c + 1 < counts_[i]) points_.prefetch(row[c + 1].index);
      offer(i, points_.distance(i, row[c].index), row[c].index);
    }
    counts_[i] = 0;
  }

  void offer(std::int64_t i, T distance, std::int64_t j) {
    const T& farthest = distances_[i * k_];
    if (!before(distance, j, farthest, indices_[i * k_])) return;
    sift(i, k_, distance, j);
    if (farthest == std::numeric_limits<T>::infinity()) return;  // fewer than k so far
    const double s = static_cast<double>(farthest);
    const double square = points_.metric == Metric::euclidean ? s * s : points_.metric == Metric::cosine ? 2 * s : s;
    limit[i] = std::min(limit[i], filter_.limit(filter_.unit * square));
  }

  /// Replaces the top of the heap of row i, of which the first `size` places count.
  void sift(std::int64_t i, std::int64_t size, T distance, std::int64_t j) {
    T* distances = distances_ + i * k_;
    std::int64_t* indices = indices_ + i * k_;
    std::int64_t hole = 0;
    for (std::int64_t child = 1; child < size; child = 2 * hole + 1) {
      if (child + 1 < size && before(distances[child], indices[child], distances[child + 1], indices[child + 1]))
        ++child;
      if (!before(distance, j, distances[child], indices[child])) break;
      distances[hole] = distances[child];
      indices[hole] = indices[child];
      hole = child;
    }
    distances[hole] = distance;
    indices[hole] = j;
  }

  const Points<T>& points_;
  const Filter& filter_;
  const std::int64_t k_, capacity_;
  std::int64_t* const indices_;
  T* const distances_;
  std::vector<Candidate> candidates_;
  std::vector<std::int64_t> counts_;
  const float widest_slack_;
};

/// Jobs: the pairs within a block of points, or between two blocks. Only the rows of those blocks are touched.
template <typename T>
class Search {
 public:
  Search(std::int64_t n, std::int64_t k, const Filter& filter, Nearest<T>& nearest)
      : n_(n), k_(k), filter_(filter), nearest_(nearest) {}

  std::int64_t blocks() const { return (n_ + kBlock - 1) / kBlock; }
  std::int64_t first(std::int64_t block) const { return block * kBlock; }
  std::int64_t size(std::int64_t block) const { return std::min<std::int64_t>(kBlock, n_ - first(block)); }

  /// Within a block every pair is computed for both of its ends. The block gives its rows their first limits, without
  /// which they would take in every pair. `products` has room for kBlock * kBlock.
  void within(std::int64_t block, float* products) const {
    const std::int64_t start = first(block), count = size(block);
    Filter::Tile tile;
    for (std::int64_t c = 0; c < count; c += Filter::kTileColumns)
      for (std::int64_t r = 0; r < count; r += Filter::kTileRows) {
        filter_.products(start + r, start + c, tile);
        for (int a = 0; a < Filter::kTileRows; ++a)
          for (int v = 0; v < Filter::kTileVectors; ++v)
            store(&products[(r + a) * kBlock + c + v * lanes<float>], tile[a][v]);
      }
    for (std::int64_t r = 0; r < count; ++r) {
      const float* row = products + r * kBlock;
      const float g = filter_.g[start + r];
      if (k_ < count) nearest_.limit_by_bound(start + r, g - nearly_kth(row, r, count));
      for (std::int64_t c = 0; c < count; c += lanes<float>) {
        std::uint32_t mask = mask_greater_equal(load(row + c), broadcast(g - nearest_.limit[start + r]));
        for (; mask != 0; mask &= mask - 1) {
          const std::int64_t column = c + __builtin_ctz(mask);
          nearest_.add(start + r, g - row[column], start + column);
        }
      }
    }
  }

  /// Between two blocks every pair is computed once and offered to both ends.
  void between(std::int64_t row_block, std::int64_t column_block) const {
    const std::int64_t r0 = first(row_block), c0 = first(column_block);
    const std::int64_t rows = size(row_block), columns = size(column_block);
    Filter::Tile tile;
    for (std::int64_t column = c0; column < c0 + columns; column += Filter::kTileColumns)
      for (std::int64_t row = r0; row < r0 + rows; row += Filter::kTileRows) {
        filter_.products(row, column, tile);
#pragma GCC unroll 8
        for (int a = 0; a < Filter::kTileRows; ++a) {
          const float g = filter_.g[row + a];
          const Vec<float> row_limit = broadcast(nearest_.limit[row + a]);
#pragma GCC unroll 3
          for (int v = 0; v < Filter::kTileVectors; ++v) {
            const std::int64_t start = column + v * lanes<float>;
            const Vec<float> limit = maximum(row_limit, load(&nearest_.limit[start]));
            const std::uint32_t mask = mask_greater_equal(tile[a][v], g - limit);
            if (mask != 0) [[unlikely]]
              add_both(row + a, start, mask, g - tile[a][v]);
          }
        }
      }
  }

 private:
  void add_both(std::int64_t i, std::int64_t start, std::uint32_t mask, Vec<float> bounds) const {
    float bound[lanes<float>];
    store(bound, bounds);
    for (; mask != 0; mask &= mask - 1) {
      const int lane = __builtin_ctz(mask);
      nearest_.add(i, bound[lane], start + lane);
      nearest_.add(start + lane, bound[lane], i);
    }
  }

  /// A product that at least k of the `count` points of a block, `self` left out, reach with this row: the k-th largest
  /// of the largest of each of about 2 k groups, which is much quicker to find than the k-th largest of all.
  float nearly_kth(const float* row, std::int64_t self, std::int64_t count) const {
    float best[kBlock];
    const std::int64_t groups = std::min(count, 2 * k_ + 6);
    std::fill(best, best + groups, -kInfinity);
    for (std::int64_t start = 0; start < count; start += groups) {
      const std::int64_t width = std::min(groups, count - start);
      for (std::int64_t c = 0; c < width; ++c) best[c] = std::max(best[c], row[start + c]);
    }
    float& of_self = best[self % groups];
    of_self = -kInfinity;
    for (std::int64_t c = self % groups; c < count; c += groups)
      if (c != self) of_self = std::max(of_self, row[c]);
    std::nth_element(best, best + k_ - 1, best + groups, std::greater<>());
    return best[k_ - 1];
  }

  const std::int64_t n_, k_;
  const Filter& filter_;
  Nearest<T>& nearest_;
};

/// Integers, where the processor has fast products of them. Bytes pay for many coordinates, unless they are too coarse
/// for these points: then the bounds of most pairs of close points decide nothing. The first block tells.
template <typename T>
Filter choose_filter(const Points<T>& points, std::int64_t k, std::int64_t* indices, T* distances, float* products,
                     int num_threads) {
  if (!has_integer_products || points.d > kMostIntegerCoordinates) return Filter(points, Storage::float32, num_threads);
  if (points.d >= kFewestByteCoordinates) {
    Filter filter(points, Storage::int8, num_threads);
    const Points<T> sample(points.x, std::min<std::int64_t>(points.n, kBlock), points.d, points.metric);
    Nearest<T> nearest(sample, filter, k, indices, distances);
    Search<T>(sample.n, k, filter, nearest).within(0, products);
    if (nearest.undecided(sample.n) <= 2.5 * static_cast<double>(k) + 8) return filter;
  }
  return Filter(points, Storage::int16, num_threads);
}

/// Runs all jobs of one segment. They are ordered like the rounds of a tournament, in which no block plays twice, so
/// that threads seldom wait for the lock of a block. The result does not depend on the order.
template <typename T>
void search_segment(const T* x, std::int64_t n, std::int64_t d, std::int64_t k, Metric metric, std::int64_t offset,
                    std::int64_t* indices, T* distances, int num_threads, float* products, std::atomic<bool>& stop,
                    const std::function<void(double)>& report) {
  const Points<T> points(x, n, d, metric);
  const Filter filter = choose_filter(points, k, indices, distances, products, num_threads);
  Nearest<T> nearest(points, filter, k, indices, distances);
  const Search<T> search(n, k, filter, nearest);
  const std::int64_t blocks = search.blocks();
  const auto locks = std::make_unique<std::mutex[]>(blocks);
  std::atomic<std::int64_t> next{0};
  const std::int64_t jobs = blocks + blocks * blocks;  // each block with itself, then rounds x blocks

#pragma omp parallel num_threads(num_threads)
  {
    float* own_products = products + static_cast<std::int64_t>(thread_index()) * kBlock * kBlock;
    for (std::int64_t job; !stop && (job = next++) < jobs;) {
      if (job < blocks) {
        const std::lock_guard guard(locks[job]);
        search.within(job, own_products);
      } else {
        const std::int64_t round = job / blocks - 1, i = job % blocks, j = (round - i + blocks) % blocks;
        if (i >= j) continue;
        const std::scoped_lock guard(locks[i], locks[j]);
        search.between(i, j);
      }
      if (thread_index() == 0) report(static_cast<double>(job + 1) / static_cast<double>(jobs));
    }
  }

#pragma omp parallel for num_threads(num_threads) schedule(dynamic, 64)
  for (std::int64_t i = 0; i < n; ++i) nearest.finish(i, offset);
}

}  // namespace

template <typename T>
bool knn_graph(const T* x, std::int64_t n, std::int64_t d, std::int64_t k, Metric metric, const std::int64_t* ptr,
               std::int64_t segments, std::int64_t* indices, T* distances, int num_threads, Progress& progress) {
  std::vector<float> products(static_cast<std::size_t>(num_threads) * kBlock * kBlock);
  std::atomic<bool> stop{false};
  // Segments of up to a few blocks are searched side by side, one thread each; larger ones one after the other.
  constexpr std::int64_t small = 4 * kBlock;
  const auto search = [&](std::int64_t s, int threads, float* own_products, const std::function<void(double)>& report) {
    const std::int64_t first = ptr[s], size = ptr[s + 1] - first;
    if (size > 0)
      search_segment(x + first * d, size, d, k, metric, first, indices + first * k, distances + first * k, threads,
                     own_products, stop, report);
  };
  const auto report = [&](double points) {
    if (!progress.update(points / static_cast<double>(n))) stop = true;
  };

#pragma omp parallel for num_threads(num_threads) schedule(dynamic)
  for (std::int64_t s = 0; s < segments; ++s) {
    if (stop || ptr[s + 1] - ptr[s] > small) continue;
    search(s, 1, &products[static_cast<std::size_t>(thread_index()) * kBlock * kBlock], [](double) {});
    if (thread_index() == 0) report(static_cast<double>(ptr[s]));
  }
  for (std::int64_t s = 0; s < segments; ++s) {
    const std::int64_t size = ptr[s + 1] - ptr[s];
    if (stop || size <= small) continue;
    search(s, num_threads, products.data(),
           [&](double share) { report(static_cast<double>(ptr[s]) + share * static_cast<double>(size)); });
  }
  return !stop;
}

template bool knn_graph(const float*, std::int64_t, std::int64_t, std::int64_t, Metric, const std::int64_t*,
                        std::int64_t, std::int64_t*, float*, int, Progress&);
template bool knn_graph(const double*, std::int64_t, std::int64_t, std::int64_t, Metric, const std::int64_t*,
                        std::int64_t, std::int64_t*, double*, int, Progress&);

}  // namespace ssdml
