#include "knn_graph.h"

#include <atomic>
#include <cmath>
#include <cstddef>
#include <functional>
#include <limits>
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

/// The k nearest columns of each row so far. A row holds candidates known by their bounds, and, in the arrays of the
/// result, a heap of neighbours whose distances have been computed, the farthest on top. Candidates that can no longer
/// be among the k nearest are dropped as bounds tighten; distances are computed at the end, or where bounds do not
/// decide.
template <typename T>
class Nearest {
 public:
  /// For the first `count` rows. Where rows and columns are one set, no point is its own neighbour.
  Nearest(const Points<T>& rows, std::int64_t count, const Points<T>& columns, const Frame& frame, std::int64_t k,
          std::int64_t* indices, T* distances)
      : limit(count + Filter::kPanel, kInfinity),
        join(&rows == &columns),
        k(k),
        rows_(rows),
        columns_(columns),
        frame_(frame),
        capacity_(frame.storage == Storage::int8 ? 4 * k + 32 : 2 * k + 8),
        indices_(indices),
        distances_(distances),
        candidates_(count * capacity_),
        counts_(count, 0),
        slack_(count, 0.0f) {
    std::fill(indices, indices + count * k, std::numeric_limits<std::int64_t>::max());
    std::fill(distances, distances + count * k, std::numeric_limits<T>::infinity());
  }

  /// In the frame's units, per row: no further neighbour has a bound above it.
  std::vector<float> limit;
  const bool join;
  const std::int64_t k;

  /// Takes note of the slack of rows or columns before any of their pairs is added.
  void expect_rows(const Filter& rows) { std::copy_n(rows.slack.begin(), rows.count, slack_.begin() + rows.first); }
  void expect_columns(const Filter& columns) {
    widest_slack_ = std::max(widest_slack_, *std::max_element(columns.slack.begin(), columns.slack.end()));
  }

  void add(std::int64_t i, float bound, std::int64_t j) {
    if (bound > limit[i] || (join && i == j)) return;
    if (counts_[i] == capacity_) make_room(i);
    candidates_[i * capacity_ + counts_[i]++] = {bound, static_cast<std::uint32_t>(j)};
  }

  /// Tightens the limit of row i, given that k other points have a bound of at most `bound`.
  void limit_by_bound(std::int64_t i, float bound) {
    const double slack = 2.0 * (static_cast<double>(slack_[i]) + widest_slack_);
    limit[i] = std::min(limit[i], frame_.limit(static_cast<double>(bound) + slack));
  }

  /// Turns row i into its result: k neighbours with their distances, nearest first, numbered from `offset`.
  void finish(std::int64_t i, std::int64_t offset) {
    settle(i);
    T* distance = distances_ + i * k;
    std::int64_t* index = indices_ + i * k;
    for (std::int64_t last = k - 1; last > 0; --last) {
      const T far = distance[0];
      const std::int64_t far_index = index[0];
      sift(i, last, distance[last], index[last]);
      distance[last] = far;
      index[last] = far_index;
    }
    for (std::int64_t r = 0; r < k; ++r) index[r] += offset;
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
    if (counts_[i] >= k) {
      std::nth_element(row, row + k - 1, row + counts_[i]);
      limit_by_bound(i, row[k - 1].bound);
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
      if (c + 1 < counts_[i]) columns_.prefetch(row[c + 1].index);
      offer(i, exact_distance(rows_, i, columns_, row[c].index), row[c].index);
    }
    counts_[i] = 0;
  }

  void offer(std::int64_t i, T distance, std::int64_t j) {
    const T& farthest = distances_[i * k];
    if (!before(distance, j, farthest, indices_[i * k])) return;
    sift(i, k, distance, j);
    if (farthest == std::numeric_limits<T>::infinity()) return;  // fewer than k so far
    const double s = static_cast<double>(farthest);
    const double square = rows_.metric == Metric::euclidean ? s * s : rows_.metric == Metric::cosine ? 2 * s : s;
    limit[i] = std::min(limit[i], frame_.limit(frame_.unit * square));
  }

  /// Replaces the top of the heap of row i, of which the first `size` places count.
  void sift(std::int64_t i, std::int64_t size, T distance, std::int64_t j) {
    T* distances = distances_ + i * k;
    std::int64_t* indices = indices_ + i * k;
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

  const Points<T>&rows_, &columns_;
  const Frame& frame_;
  const std::int64_t capacity_;
  std::int64_t* const indices_;
  T* const distances_;
  std::vector<Candidate> candidates_;
  std::vector<std::int64_t> counts_;
  std::vector<float> slack_;
  float widest_slack_ = 0;
};

/// Jobs: the pairs between a block of rows and a block of columns. Only the rows of those blocks are touched.
template <typename T>
class Jobs {
 public:
  Jobs(const Filter& rows, const Filter& columns, Nearest<T>& nearest)
      : rows_(rows), columns_(columns), nearest_(nearest) {}

  static std::int64_t blocks(const Filter& filter) { return (filter.count + kBlock - 1) / kBlock; }

  /// The first job of its rows: gives them their first limits, without which they would take in every pair. Offers the
  /// columns to the rows only. `products` has room for kBlock * kBlock.
  void open(std::int64_t row_block, std::int64_t column_block, float* products) const {
    const std::int64_t r0 = row_block * kBlock, c0 = column_block * kBlock;
    const std::int64_t rows = size(rows_, r0), columns = size(columns_, c0);
    Filter::Tile tile;
    for (std::int64_t c = 0; c < columns; c += Filter::kTileColumns)
      for (std::int64_t r = 0; r < rows; r += Filter::kTileRows) {
        rows_.products(r0 + r, columns_, c0 + c, tile);
        for (int a = 0; a < Filter::kTileRows; ++a)
          for (int v = 0; v < Filter::kTileVectors; ++v)
            store(&products[(r + a) * kBlock + c + v * lanes<float>], tile[a][v]);
      }
    for (std::int64_t r = 0; r < rows; ++r) {
      const float* row = products + r * kBlock;
      const std::int64_t i = rows_.first + r0 + r, j0 = columns_.first + c0, self = nearest_.join ? i - j0 : -1;
      const float g = rows_.g[r0 + r];
      if (nearest_.k <= columns - (self >= 0 && self < columns))
        nearest_.limit_by_bound(i, g - nearly_kth(row, self, columns));
      for (std::int64_t c = 0; c < columns; c += lanes<float>) {
        std::uint32_t mask = mask_greater_equal(load(row + c), broadcast(g - nearest_.limit[i]));
        for (; mask != 0; mask &= mask - 1) {
          const std::int64_t column = c + __builtin_ctz(mask);
          nearest_.add(i, g - row[column], j0 + column);
        }
      }
    }
  }

  /// Any further job. With `both`, rows and columns are offered to each other.
  template <bool both>
  void run(std::int64_t row_block, std::int64_t column_block) const {
    const std::int64_t r0 = row_block * kBlock, c0 = column_block * kBlock;
    const std::int64_t rows = size(rows_, r0), columns = size(columns_, c0);
    Filter::Tile tile;
    for (std::int64_t c = c0; c < c0 + columns; c += Filter::kTileColumns)
      for (std::int64_t r = r0; r < r0 + rows; r += Filter::kTileRows) {
        rows_.products(r, columns_, c, tile);
#pragma GCC unroll 8
        for (int a = 0; a < Filter::kTileRows; ++a) {
          const std::int64_t i = rows_.first + r + a;
          const float g = rows_.g[r + a];
          const Vec<float> row_limit = broadcast(nearest_.limit[i]);
#pragma GCC unroll 3
          for (int v = 0; v < Filter::kTileVectors; ++v) {
            const std::int64_t j = columns_.first + c + v * lanes<float>;
            const Vec<float> limit = both ? maximum(row_limit, load(&nearest_.limit[j])) : row_limit;
            const std::uint32_t mask = mask_greater_equal(tile[a][v], g - limit);
            if (mask != 0) [[unlikely]]
              add<both>(i, j, mask, g - tile[a][v]);
          }
        }
      }
  }

 private:
  static std::int64_t size(const Filter& filter, std::int64_t start) {
    return std::min<std::int64_t>(kBlock, filter.count - start);
  }

  template <bool both>
  void add(std::int64_t i, std::int64_t j, std::uint32_t mask, Vec<float> bounds) const {
    float bound[lanes<float>];
    store(bound, bounds);
    for (; mask != 0; mask &= mask - 1) {
      const int lane = __builtin_ctz(mask);
      nearest_.add(i, bound[lane], j + lane);
      if (both) nearest_.add(j + lane, bound[lane], i);
    }
  }

  /// A product that at least k of the `count` columns of a block, `self` left out, reach with this row: the k-th
  /// largest of the largest of each of about 2 k groups, which is much quicker to find than the k-th largest of all.
  float nearly_kth(const float* row, std::int64_t self, std::int64_t count) const {
    float best[kBlock];
    const std::int64_t groups = std::min(count, 2 * nearest_.k + 6);
    std::fill(best, best + groups, -kInfinity);
    for (std::int64_t start = 0; start < count; start += groups) {
      const std::int64_t width = std::min(groups, count - start);
      for (std::int64_t c = 0; c < width; ++c) best[c] = std::max(best[c], row[start + c]);
    }
    if (self >= 0 && self < count) {
      float& of_self = best[self % groups];
      of_self = -kInfinity;
      for (std::int64_t c = self % groups; c < count; c += groups)
        if (c != self) of_self = std::max(of_self, row[c]);
    }
    std::nth_element(best, best + nearest_.k - 1, best + groups, std::greater<>());
    return best[nearest_.k - 1];
  }

  const Filter &rows_, &columns_;
  Nearest<T>& nearest_;
};

/// Integers, where the processor has fast products of them, unless they are too coarse for these points (an outlier
/// sets the step of all): then the bounds of most pairs of close points decide nothing. A block of each set tells.
template <typename T>
void choose_storage(const Points<T>& rows, const Points<T>& columns, std::int64_t k, std::int64_t* indices,
                    T* distances, float* products, Frame& frame) {
  if (!has_integer_products || rows.d > kMostIntegerCoordinates) return;
  const std::int64_t count = std::min<std::int64_t>(rows.n, kBlock);
  for (const Storage storage : {Storage::int8, Storage::int16}) {
    if (storage == Storage::int8 && rows.d < kFewestByteCoordinates) continue;
    frame.store_as(storage);
    const Filter left(rows, 0, count, frame, 1), right(columns, 0, std::min<std::int64_t>(columns.n, kBlock), frame, 1);
    Nearest<T> nearest(rows, count, columns, frame, k, indices, distances);
    nearest.expect_rows(left);
    nearest.expect_columns(right);
    Jobs<T>(left, right, nearest).open(0, 0, products);
    if (nearest.undecided(count) <= 2.5 * static_cast<double>(k) + 8) return;
  }
  frame.store_as(Storage::float32);
}

/// What a search shares between its stages.
struct Team {
  int threads;
  float* products;  // kBlock * kBlock for each thread
  std::atomic<bool>& stop;
  const std::function<void(double)>& report;  // the share that is done
  std::int64_t block_bytes;                   // of filters at a time
};

/// Runs the jobs between two filters, each of which is a range of points. They are ordered like the rounds of a
/// tournament, in which no block plays twice, so that threads seldom wait for the lock of a block; the result does not
/// depend on the order. `open` says that the rows have not met any columns yet.
template <typename T>
void run_jobs(const Filter& rows, const Filter& columns, bool open, Nearest<T>& nearest, std::vector<std::mutex>& locks,
              const Team& team, double share_before, double share_after) {
  const bool within = nearest.join && &rows == &columns;
  const std::int64_t row_blocks = Jobs<T>::blocks(rows), column_blocks = Jobs<T>::blocks(columns);
  const std::int64_t rounds = column_blocks + within, total = rounds * row_blocks;
  std::mutex* const row_locks = &locks[rows.first / kBlock];
  std::mutex* const column_locks = nearest.join ? &locks[columns.first / kBlock] : nullptr;
  const Jobs<T> jobs(rows, columns, nearest);
  std::atomic<std::int64_t> next{0};

#pragma omp parallel num_threads(team.threads)
  {
    float* products = team.products + static_cast<std::int64_t>(thread_index()) * kBlock * kBlock;
    for (std::int64_t job; !team.stop && (job = next++) < total;) {
      const std::int64_t round = job / row_blocks, i = job % row_blocks;
      if (within && round > 0) {
        const std::int64_t j = (round - 1 - i + row_blocks) % row_blocks;
        if (i >= j) continue;
        const std::scoped_lock guard(row_locks[i], row_locks[j]);
        jobs.template run<true>(i, j);
      } else if (open && round == 0) {
        const std::lock_guard guard(row_locks[i]);
        jobs.open(i, within ? i : i % column_blocks, products);
      } else if (nearest.join) {
        const std::int64_t j = (i + round) % column_blocks;
        const std::scoped_lock guard(row_locks[i], column_locks[j]);
        jobs.template run<true>(i, j);
      } else {
        const std::lock_guard guard(row_locks[i]);
        jobs.template run<false>(i, (i + round) % column_blocks);
      }
      if (thread_index() == 0)
        team.report(share_before +
                    (share_after - share_before) * static_cast<double>(job + 1) / static_cast<double>(total));
    }
  }
}

/// The k nearest columns of every row; where both are one set, of the other points. Points are taken in ranges whose
/// filters fit the team's memory; each pair of ranges meets once.
template <typename T>
void search(const Points<T>& rows, const Points<T>& columns, std::int64_t k, std::int64_t offset, std::int64_t* indices,
            T* distances, const Team& team) {
  Frame frame = &rows == &columns ? Frame({&rows}, team.threads) : Frame({&rows, &columns}, team.threads);
  choose_storage(rows, columns, k, indices, distances, team.products, frame);
  Nearest<T> nearest(rows, rows.n, columns, frame, k, indices, distances);
  std::vector<std::mutex> locks((rows.n + kBlock - 1) / kBlock);

  const std::int64_t fit = team.block_bytes / 2 / Filter::bytes_per_point(rows.d, frame.storage);
  const std::int64_t range = std::max<std::int64_t>(1, fit / kBlock) * kBlock;
  const auto filter_of = [&](const Points<T>& points, std::int64_t first) {
    return Filter(points, first, std::min(range, points.n - first), frame, team.threads);
  };
  const double all = static_cast<double>(rows.n) * static_cast<double>(columns.n) / (nearest.join ? 2 : 1);
  double done = 0;
  for (std::int64_t r = 0; r < rows.n && !team.stop; r += range) {
    const Filter left = filter_of(rows, r);
    nearest.expect_rows(left);
    const auto meet = [&](const Filter& right, bool open) {
      nearest.expect_columns(right);
      const double pairs =
          static_cast<double>(left.count) * static_cast<double>(right.count) / (&left == &right ? 2 : 1);
      run_jobs(left, right, open, nearest, locks, team, done / all, (done + pairs) / all);
      done += pairs;
    };
    if (nearest.join) meet(left, true);
    for (std::int64_t c = 0; c < (nearest.join ? r : columns.n) && !team.stop; c += range)
      meet(filter_of(columns, c), !nearest.join && c == 0);
  }
  if (team.stop) return;
#pragma omp parallel for num_threads(team.threads) schedule(dynamic, 64)
  for (std::int64_t i = 0; i < rows.n; ++i) nearest.finish(i, offset);
}

}  // namespace

template <typename T>
bool knn_graph(const T* x, std::int64_t n, std::int64_t d, std::int64_t k, Metric metric, const std::int64_t* ptr,
               std::int64_t segments, std::int64_t* indices, T* distances, int num_threads, std::int64_t block_bytes,
               Progress& progress) {
  num_threads = static_cast<int>(std::min<std::int64_t>(num_threads, n / kBlock + segments + 1));
  std::vector<float> products(static_cast<std::size_t>(num_threads) * kBlock * kBlock);
  std::atomic<bool> stop{false};
  const auto report = [&](double points) {
    if (!progress.update(points / static_cast<double>(n))) stop = true;
  };
  const auto search_segment = [&](std::int64_t s, int threads, float* own_products,
                                  const std::function<void(double)>& report_share) {
    const std::int64_t first = ptr[s];
    const Points<T> points(x + first * d, ptr[s + 1] - first, d, metric);
    if (points.n > 0)
      search(points, points, k, first, indices + first * k, distances + first * k,
             Team{threads, own_products, stop, report_share, block_bytes});
  };

  // Segments of up to a few blocks are searched side by side, one thread each; larger ones one after the other.
  constexpr std::int64_t small = 4 * kBlock;
#pragma omp parallel for num_threads(num_threads) schedule(dynamic)
  for (std::int64_t s = 0; s < segments; ++s) {
    if (stop || ptr[s + 1] - ptr[s] > small || ptr[s + 1] == ptr[s]) continue;
    search_segment(s, 1, &products[static_cast<std::size_t>(thread_index()) * kBlock * kBlock], [](double) {});
    if (thread_index() == 0) report(static_cast<double>(ptr[s]));
  }
  for (std::int64_t s = 0; s < segments; ++s) {
    const std::int64_t size = ptr[s + 1] - ptr[s];
    if (stop || size <= small) continue;
    search_segment(s, num_threads, products.data(),
                   [&](double share) { report(static_cast<double>(ptr[s]) + share * static_cast<double>(size)); });
  }
  return !stop;
}

template <typename T>
bool knn_search(const T* queries, std::int64_t n_queries, const T* base, std::int64_t n_base, std::int64_t d,
                std::int64_t k, Metric metric, std::int64_t* indices, T* distances, int num_threads,
                std::int64_t block_bytes, Progress& progress) {
  if (n_queries == 0) return true;
  num_threads = static_cast<int>(std::min<std::int64_t>(num_threads, n_queries / kBlock + 1));
  std::vector<float> products(static_cast<std::size_t>(num_threads) * kBlock * kBlock);
  std::atomic<bool> stop{false};
  const std::function<void(double)> report = [&](double share) {
    if (!progress.update(share)) stop = true;
  };
  search(Points<T>(queries, n_queries, d, metric), Points<T>(base, n_base, d, metric), k, 0, indices, distances,
         Team{num_threads, products.data(), stop, report, block_bytes});
  return !stop;
}

template bool knn_graph(const float*, std::int64_t, std::int64_t, std::int64_t, Metric, const std::int64_t*,
                        std::int64_t, std::int64_t*, float*, int, std::int64_t, Progress&);
template bool knn_graph(const double*, std::int64_t, std::int64_t, std::int64_t, Metric, const std::int64_t*,
                        std::int64_t, std::int64_t*, double*, int, std::int64_t, Progress&);
template bool knn_search(const float*, std::int64_t, const float*, std::int64_t, std::int64_t, std::int64_t, Metric,
                         std::int64_t*, float*, int, std::int64_t, Progress&);
template bool knn_search(const double*, std::int64_t, const double*, std::int64_t, std::int64_t, std::int64_t, Metric,
                         std::int64_t*, double*, int, std::int64_t, Progress&);

}  // namespace ssdml
