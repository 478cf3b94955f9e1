#include "knn_graph.h"

#include <atomic>
#include <cmath>
#include <cstddef>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <tuple>
#include <utility>
#include <vector>

#include "knn_filter.h"
#include "knn_points.h"
#include "simd.h"

namespace ssdml {
namespace {

constexpr int kBlock = 5 * Filter::kPanel;                 // points per side of a job
constexpr std::int64_t kMostIntegerCoordinates = 1 << 16;  // more could overflow sums of 32 bits
constexpr std::int64_t kSpare = 22;  // least room for candidates beyond k: the less, the newer a row's limit
constexpr std::int64_t kNobody = -1;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// The k nearest columns of each row so far. A row holds candidates known by their bounds, and, in the arrays of the
/// result, neighbours whose distances have been computed, in order. Candidates that can no longer be among the k
/// nearest are dropped as bounds tighten; distances are computed at the end, or where bounds do not decide.
template <typename X>
class Nearest {
 public:
  using T = Distance<X>;

  /// Where rows and columns are one set, no point is its own neighbour.
  Nearest(const Points<X>& rows, const Points<X>& columns, const Frame& frame, std::int64_t k, std::int64_t* indices,
          T* distances)
      : limit(rows.n + Filter::kPanel, kInfinity),
        join(&rows == &columns),
        k(k),
        rows_(rows),
        columns_(columns),
        frame_(frame),
        capacity_((k + std::max(k, kSpare) + lanes<float> - 1) / lanes<float> * lanes<float>),
        indices_(indices),
        distances_(distances),
        bounds_(std::make_unique_for_overwrite<float[]>(rows.n * capacity_)),
        columns_of_(std::make_unique_for_overwrite<std::uint32_t[]>(rows.n * capacity_)),
        counts_(rows.n, 0),
        row_slack_(rows.n),
        column_slack_(join ? 0 : columns.n) {
    std::fill(indices, indices + rows.n * k, kNobody);
  }

  /// In the frame's units, per row: no further neighbour has a bound above it.
  std::vector<float> limit;
  const bool join;
  const std::int64_t k;

  /// Takes note of the slack of rows or columns before any of their pairs is added.
  void expect_rows(const Filter& rows) { copy_slack(rows, row_slack_); }
  void expect_columns(const Filter& columns) {
    if (!join) copy_slack(columns, column_slack_);
  }

  /// Without branches that nobody can predict.
  void add(std::int64_t i, float bound, std::int64_t j) {
    if (counts_[i] == capacity_) [[unlikely]]
      make_room(i);
    const std::int64_t place = i * capacity_ + counts_[i];
    bounds_[place] = bound;
    columns_of_[place] = static_cast<std::uint32_t>(j);
    counts_[i] += (bound <= limit[i]) & !(join & (i == j));
  }

  /// Tightens the limit of row i, given that k other points have a v of at most `most`.
  void limit_by(std::int64_t i, double most) { limit[i] = std::min(limit[i], frame_.limit(most)); }

  /// Drops the candidates of row i that k others are certain to be nearer than, and tightens its limit to theirs.
  void drop_far(std::int64_t i) {
    float* const bounds = &bounds_[i * capacity_];
    std::uint32_t* const columns = &columns_of_[i * capacity_];
    const std::int64_t count = counts_[i];
    if (const float kth = at_least_kth(bounds, count, limit[i]); kth < kInfinity) {
      const std::vector<float>& slack = join ? row_slack_ : column_slack_;
      float widest = 0;
      for (std::int64_t c = 0; c < count; ++c) widest = std::max(widest, bounds[c] <= kth ? slack[columns[c]] : 0.0f);
      limit_by(i, static_cast<double>(kth) + 2.0 * (static_cast<double>(row_slack_[i]) + widest));
    }
    const float most = limit[i];
    std::int64_t kept = 0;
    for (std::int64_t c = 0; c < count; ++c) {
      bounds[kept] = bounds[c];
      columns[kept] = columns[c];
      kept += bounds[c] <= most;
    }
    counts_[i] = kept;
  }

  /// Turns row i into its result: k neighbours with their distances, nearest first, numbered from `offset`.
  void finish(std::int64_t i, std::int64_t offset) {
    drop_far(i);
    settle(i);
    for (std::int64_t r = 0; r < k; ++r) indices_[i * k + r] += offset;
  }

 private:
  struct Neighbour {
    T distance;
    std::int64_t index;
    bool operator<(const Neighbour& other) const {
      return distance < other.distance || (distance == other.distance && index < other.index);
    }
  };

  static void copy_slack(const Filter& filter, std::vector<float>& slack) {
    std::copy_n(filter.closest().slack.begin(), filter.count, slack.begin() + filter.first);
  }

  void make_room(std::int64_t i) {
    drop_far(i);
    if (counts_[i] > capacity_ - kSpare / 2) settle(i);
  }

  /// A number that at least k of the bounds, and hardly more, do not exceed; much quicker to find than the k-th itself.
  /// Infinite if there is none up to `most`.
  float at_least_kth(float* bounds, std::int64_t count, float most) const {
    if (count < k) return kInfinity;
    for (std::int64_t c = count; c % lanes<float> != 0; ++c) bounds[c] = kInfinity;  // capacity is whole vectors
    const auto within = [&](float bound) {
      std::int64_t sum = 0;
      for (std::int64_t c = 0; c < count; c += lanes<float>)
        sum += __builtin_popcount(mask_greater_equal(broadcast(bound), load(bounds + c)));
      return sum;
    };
    Vec<float> least = load(bounds);
    for (std::int64_t c = lanes<float>; c < count; c += lanes<float>) least = minimum(least, load(bounds + c));
    float low = least[0], high = most;
    for (int r = 1; r < lanes<float>; ++r) low = std::min(low, least[r]);
    if (high == kInfinity) high = *std::max_element(bounds, bounds + count);
    if (within(high) < k) return kInfinity;
    for (int halving = 0; halving < 8; ++halving) {
      const float middle = low + (high - low) / 2;
      (within(middle) >= k ? high : low) = middle;
    }
    return high;
  }

  /// Computes the distances of row i's candidates, and keeps the k nearest of them and the neighbours known before.
  void settle(std::int64_t i) {
    T* const distances = distances_ + i * k;
    std::int64_t* const indices = indices_ + i * k;
    const std::uint32_t* const columns = &columns_of_[i * capacity_];
    const std::int64_t count = counts_[i];
    thread_local std::vector<double> row;
    row.resize(rows_.d);
    for (std::int64_t p = 0; p < rows_.d; ++p) row[p] = static_cast<double>(rows_.row(i)[p]);
    thread_local std::vector<Neighbour> found;
    found.clear();
    for (std::int64_t c = 0; c < count; ++c)
      found.push_back({exact_distance(rows_, i, row.data(), columns_, columns[c], columns[std::min(c + 1, count - 1)]),
                       static_cast<std::int64_t>(columns[c])});
    counts_[i] = 0;
    for (std::int64_t r = 0; r < k && indices[r] != kNobody; ++r) found.push_back({distances[r], indices[r]});
    const auto nearest = found.begin() + std::min<std::int64_t>(k, found.size());
    if (nearest < found.end()) std::nth_element(found.begin(), nearest, found.end());
    std::sort(found.begin(), nearest);
    for (auto neighbour = found.begin(); neighbour < nearest; ++neighbour) {
      distances[neighbour - found.begin()] = neighbour->distance;
      indices[neighbour - found.begin()] = neighbour->index;
    }
    if (nearest - found.begin() < k) return;
    const double s = static_cast<double>(distances[k - 1]);
    const double square = rows_.metric == Metric::euclidean ? s * s : rows_.metric == Metric::cosine ? 2 * s : s;
    limit_by(i, frame_.unit * square);
  }

  const Points<X>&rows_, &columns_;
  const Frame& frame_;
  const std::int64_t capacity_;
  std::int64_t* const indices_;
  T* const distances_;
  const std::unique_ptr<float[]> bounds_;              // of candidates, and
  const std::unique_ptr<std::uint32_t[]> columns_of_;  // which columns they are
  std::vector<std::int64_t> counts_;
  std::vector<float> row_slack_, column_slack_;  // the latter only where columns are another set
};

/// A pair of points, each by its number in its filter, and a lower bound of its v.
struct Pair {
  std::int32_t row, column;
  float bound;
};

/// What a thread needs to run jobs.
struct Scratch {
  std::vector<float> products = std::vector<float>(kBlock * kBlock);
  std::vector<Pair> pairs = std::vector<Pair>(kBlock * Filter::kTileColumns + 1);  // and one to read ahead
};

/// Jobs: the pairs between a block of rows and a block of columns. Only the rows of those blocks are touched.
template <typename X>
class Jobs {
 public:
  Jobs(const Filter& rows, const Filter& columns, Nearest<X>& nearest)
      : rows_(rows), columns_(columns), nearest_(nearest) {}

  static std::int64_t blocks(const Filter& filter) { return (filter.count + kBlock - 1) / kBlock; }

  /// The first job of its rows: gives them their first limits, without which they would take in every pair. With
  /// `both`, for a block and itself.
  template <bool both>
  void open(std::int64_t row_block, std::int64_t column_block, Scratch& scratch) const {
    const std::int64_t r0 = row_block * kBlock, c0 = column_block * kBlock;
    const std::int64_t rows = size(rows_, r0), columns = size(columns_, c0);
    float* const products = scratch.products.data();
    Filter::Tile tile;
    for (std::int64_t c = 0; c < columns; c += Filter::kTileColumns)
      for (std::int64_t r = 0; r < rows; r += Filter::kTileRows) {
        rows_.products(r0 + r, columns_, c0 + c, tile);
        for (int a = 0; a < Filter::kTileRows; ++a)
          for (int v = 0; v < Filter::kTileVectors; ++v)
            store(&products[(r + a) * kBlock + c + v * lanes<float>], tile[a][v]);
      }

    // Twice: first the pairs about as near as the k nearest, whose closer bounds then limit the others.
    float none[kBlock + Filter::kPanel], near[kBlock + Filter::kPanel];
    std::fill(std::begin(none), std::end(none), -kInfinity);
    std::fill(std::begin(near), std::end(near), -kInfinity);
    for (std::int64_t r = 0; r < rows; ++r)
      near[r] = rows_.tiled.g[r0 + r] - nearly_kth(&products[r * kBlock], both ? r : -1, columns);
    offer_between<both>(r0, c0, products, none, near, scratch);
    for (std::int64_t r = 0; r < rows; ++r) nearest_.drop_far(rows_.first + r0 + r);
    offer_between<both>(r0, c0, products, near, &nearest_.limit[rows_.first + r0], scratch);
  }

  /// Any further job. With `both`, rows and columns are offered to each other.
  template <bool both>
  void run(std::int64_t row_block, std::int64_t column_block, Scratch& scratch) const {
    const std::int64_t r0 = row_block * kBlock, c0 = column_block * kBlock;
    const std::int64_t rows = size(rows_, r0), columns = size(columns_, c0);
    Filter::Tile tile;
    for (std::int64_t c = c0; c < c0 + columns; c += Filter::kTileColumns) {
      Pair* end = scratch.pairs.data();  // collected first: products keep their registers, and what follows its own
      for (std::int64_t r = r0; r < r0 + rows; r += Filter::kTileRows) {
        rows_.products(r, columns_, c, tile);
#pragma GCC unroll 8
        for (int a = 0; a < Filter::kTileRows; ++a) {
          const float g = rows_.tiled.g[r + a];
          const Vec<float> row_limit = broadcast(nearest_.limit[rows_.first + r + a]);
#pragma GCC unroll 3
          for (int v = 0; v < Filter::kTileVectors; ++v) {
            const std::int64_t column = c + v * lanes<float>;
            const Vec<float> limit =
                both ? maximum(row_limit, load(&nearest_.limit[columns_.first + column])) : row_limit;
            const std::uint32_t mask = mask_greater_equal(tile[a][v], g - limit);
            if (mask != 0) [[unlikely]]
              end = collect(r + a, column, mask, g - tile[a][v], end);
          }
        }
      }
      offer<both>(scratch.pairs.data(), end);
    }
  }

 private:
  static std::int64_t size(const Filter& filter, std::int64_t start) {
    return std::min<std::int64_t>(kBlock, filter.count - start);
  }

  /// Appends the pairs of a row and those columns from `column` on that the mask selects.
  static Pair* collect(std::int64_t row, std::int64_t column, std::uint32_t mask, Vec<float> bounds, Pair* end) {
    float bound[lanes<float>];
    store(bound, bounds);
    for (; mask != 0; mask &= mask - 1) {
      const int lane = __builtin_ctz(mask);
      *end++ = {static_cast<std::int32_t>(row), static_cast<std::int32_t>(column + lane), bound[lane]};
    }
    return end;
  }

  /// Offers the columns to the rows, and with `both` the rows to the columns.
  template <bool both>
  void offer(const Pair* pair, const Pair* end) const {
    for (; pair < end; ++pair) {
      const std::int64_t i = rows_.first + pair->row, j = columns_.first + pair->column;
      const float most = both ? std::max(nearest_.limit[i], nearest_.limit[j]) : nearest_.limit[i];
      if (pair->bound > most) continue;  // it may have come down
      const Pair& next = pair[pair + 1 < end];
      const float bound =
          rows_.refines() ? rows_.refine(pair->row, pair->column, columns_, next.row, next.column) : pair->bound;
      nearest_.add(i, bound, j);
      if (both) nearest_.add(j, bound, i);
    }
  }

  /// Offers the pairs of a block whose bounds lie above the entry of `from`, and not above that of `to`, of their row
  /// (with `both`, of either point). Only pairs of a point and a later one, where the block is one of both.
  template <bool both>
  void offer_between(std::int64_t r0, std::int64_t c0, const float* products, const float* from, const float* to,
                     Scratch& scratch) const {
    const std::int64_t rows = size(rows_, r0), columns = size(columns_, c0);
    for (std::int64_t r = 0; r < rows; ++r) {
      Pair* end = scratch.pairs.data();
      for (std::int64_t c = both ? r / lanes<float> * lanes<float> : 0; c < columns; c += lanes<float>) {
        const Vec<float> product = load(products + r * kBlock + c);
        const float g = rows_.tiled.g[r0 + r];
        const auto up_to = [&](const float* limits) {
          const Vec<float> own = broadcast(limits[r]);
          return mask_greater_equal(product, g - (both ? maximum(own, load(limits + c)) : own));
        };
        std::uint32_t mask = up_to(to) & ~up_to(from);
        if (both && c <= r) mask &= ~0u << (r - c) << 1;
        end = collect(r0 + r, c0 + c, mask, g - product, end);
      }
      offer<both>(scratch.pairs.data(), end);
    }
  }

  /// A product that at least k of the `count` columns of a block, `self` left out, reach with this row: the k-th
  /// largest of the largest of each of about 2 k groups, which is much quicker to find than the k-th largest of all.
  /// Minus infinity if there are not so many.
  float nearly_kth(const float* row, std::int64_t self, std::int64_t count) const {
    const std::int64_t groups = std::min(count, 2 * nearest_.k + 6);
    if (nearest_.k > groups - (self >= 0)) return -kInfinity;
    float best[kBlock];
    std::fill(best, best + groups, -kInfinity);
    for (std::int64_t start = 0; start < count; start += groups) {
      const std::int64_t width = std::min(groups, count - start);
      for (std::int64_t c = 0; c < width; ++c) best[c] = std::max(best[c], row[start + c]);
    }
    if (self >= 0) {
      float& of_self = best[self % groups];
      of_self = -kInfinity;
      for (std::int64_t c = self % groups; c < count; c += groups)
        if (c != self) of_self = std::max(of_self, row[c]);
    }
    std::nth_element(best, best + nearest_.k - 1, best + groups, std::greater<>());
    return best[nearest_.k - 1];
  }

  const Filter &rows_, &columns_;
  Nearest<X>& nearest_;
};

/// The share of pairs that bounds leave undecided in a search for the k nearest of n columns, seen at samples of both
/// sets: the k-th nearest column is about as far as the share k / n of the sample.
inline double undecided(const Filter& rows, const Filter& columns, bool join, std::int64_t k, std::int64_t n) {
  const std::int64_t nearest = std::clamp<std::int64_t>(k * columns.count / n, 1, columns.count - join);
  const float widest = *std::max_element(columns.tiled.slack.begin(), columns.tiled.slack.end());
  const std::int64_t width = columns.count + Filter::kPanel;
  std::vector<float> bounds(Filter::kTileRows * width);
  std::int64_t left = 0;
  Filter::Tile tile;
  for (std::int64_t first = 0; first < rows.count; first += Filter::kTileRows) {
    for (std::int64_t c = 0; c < columns.count; c += Filter::kTileColumns) {
      rows.products(first, columns, c, tile);
      for (int a = 0; a < Filter::kTileRows; ++a)
        for (int v = 0; v < Filter::kTileVectors; ++v)
          store(&bounds[a * width + c + v * lanes<float>], rows.tiled.g[first + a] - tile[a][v]);
    }
    for (std::int64_t r = first; r < std::min(rows.count, first + Filter::kTileRows); ++r) {
      const auto begin = bounds.begin() + (r - first) * width, end = begin + columns.count;
      if (join) begin[r] = kInfinity;
      std::nth_element(begin, begin + nearest - 1, end);
      const float most = begin[nearest - 1] + 2 * (rows.tiled.slack[r] + widest);
      left += std::count_if(begin + nearest, end, [most](float bound) { return bound <= most; });
    }
  }
  return static_cast<double>(left) / static_cast<double>(rows.count * columns.count);
}

/// The storage that is quickest in the end: what narrow coordinates save in tiles they may lose where their bounds do
/// not decide, as between points of tight clusters, or where one coordinate is much larger than the others.
template <typename X>
Storage choose_storage(const Points<X>& rows, const Points<X>& columns, std::int64_t k, const Frame& frame,
                       Team& team) {
  if (!has_pair_products || rows.d > kMostIntegerCoordinates) return Storage::float32;
  const bool join = &rows == &columns;
  const auto sample = [&](const Points<X>& points, std::vector<X>& copy) {
    const std::int64_t count = std::min<std::int64_t>(points.n, kBlock);
    copy.resize(count * points.d);
    for (std::int64_t i = 0; i < count; ++i)
      std::copy_n(points.row(i * points.n / count), points.d, &copy[i * points.d]);
    return Points<X>(copy.data(), count, points.d, points.metric, team);
  };
  std::vector<X> row_copy, column_copy;
  const Points<X> some_rows = sample(rows, row_copy);
  const Points<X> some_columns = join ? some_rows : sample(columns, column_copy);
  const auto d = static_cast<double>(rows.d);
  // Cycles per pair: what a tile saves over one of twice the width, and what an undecided pair costs.
  const auto pays = [&](Storage storage, double saves, double costs) {
    const Filter left(some_rows, 0, some_rows.n, frame, storage, team);
    const auto share = [&](const Filter& right) { return undecided(left, right, join, k, columns.n); };
    return (join ? share(left) : share(Filter(some_columns, 0, some_columns.n, frame, storage, team))) * costs < saves;
  };
  if (has_byte_products && pays(Storage::int8, d / 64, d / 16 + 40)) return Storage::int8;
  if (pays(Storage::int16, d / 32, d * 0.6 + 40)) return Storage::int16;
  return Storage::float32;
}

/// Runs the jobs between two filters, each of which is a range of points. They are ordered like the rounds of a
/// tournament, in which no block plays twice, so that threads seldom wait for the lock of a block; the result does not
/// depend on the order. `open` says that the rows have not met any columns yet.
template <typename X>
void run_jobs(const Filter& rows, const Filter& columns, bool open, Nearest<X>& nearest, std::vector<std::mutex>& locks,
              std::vector<Scratch>& scratches, Team& team, double share_before, double share_after) {
  const bool within = nearest.join && &rows == &columns;
  const std::int64_t row_blocks = Jobs<X>::blocks(rows), column_blocks = Jobs<X>::blocks(columns);
  const std::int64_t rounds = column_blocks + within, total = rounds * row_blocks;
  std::mutex* const row_locks = &locks[rows.first / kBlock];
  std::mutex* const column_locks = nearest.join ? &locks[columns.first / kBlock] : nullptr;
  const Jobs<X> jobs(rows, columns, nearest);
  std::atomic<std::int64_t> next{0};

#pragma omp parallel num_threads(team.threads)
  for (std::int64_t job; !team.stopped() && (job = next++) < total;) {
    Scratch& scratch = scratches[thread_index()];
    const std::int64_t round = job / row_blocks, i = job % row_blocks;
    if (within && round > 0) {
      const std::int64_t j = (round - 1 - i + row_blocks) % row_blocks;
      if (i >= j) continue;
      const std::scoped_lock guard(row_locks[i], row_locks[j]);
      jobs.template run<true>(i, j, scratch);
    } else if (open && round == 0) {
      const std::lock_guard guard(row_locks[i]);
      if (within)
        jobs.template open<true>(i, i, scratch);
      else
        jobs.template open<false>(i, i % column_blocks, scratch);
    } else if (nearest.join) {
      const std::int64_t j = (i + round) % column_blocks;
      const std::scoped_lock guard(row_locks[i], column_locks[j]);
      jobs.template run<true>(i, j, scratch);
    } else {
      const std::lock_guard guard(row_locks[i]);
      jobs.template run<false>(i, (i + round) % column_blocks, scratch);
    }
    team.poll(share_before + (share_after - share_before) * static_cast<double>(job + 1) / static_cast<double>(total));
  }
}

/// The k nearest columns of every row; where both are one set, of the other points. Points are taken in ranges whose
/// filters fit `block_bytes`; each pair of ranges meets once.
template <typename X>
Outcome search(const Points<X>& rows, const Points<X>& columns, std::int64_t k, std::int64_t offset,
               std::int64_t* indices, Distance<X>* distances, std::int64_t block_bytes, Team& team) {
  const Frame frame = &rows == &columns ? Frame({&rows}, team) : Frame({&rows, &columns}, team);
  if (team.stopped()) return Outcome::stopped;
  if (!frame.finite) return Outcome::refused;
  const Storage storage = choose_storage(rows, columns, k, frame, team);
  Nearest<X> nearest(rows, columns, frame, k, indices, distances);
  std::vector<std::mutex> locks((rows.n + kBlock - 1) / kBlock);
  std::vector<Scratch> scratches(team.threads);

  const std::int64_t fit = block_bytes / 2 / Filter::bytes_per_point(rows.d, storage);
  const std::int64_t range = std::max<std::int64_t>(1, fit / kBlock) * kBlock;
  const auto filter_of = [&](const Points<X>& points, std::int64_t first) {
    return Filter(points, first, std::min(range, points.n - first), frame, storage, team);
  };
  const double all = static_cast<double>(rows.n) * static_cast<double>(columns.n) / (nearest.join ? 2 : 1);
  double done = 0;
  for (std::int64_t r = 0; r < rows.n && !team.stopped(); r += range) {
    const Filter left = filter_of(rows, r);
    nearest.expect_rows(left);
    const auto meet = [&](const Filter& right, bool open) {
      nearest.expect_columns(right);
      const double pairs =
          static_cast<double>(left.count) * static_cast<double>(right.count) / (&left == &right ? 2 : 1);
      run_jobs(left, right, open, nearest, locks, scratches, team, done / all, (done + pairs) / all);
      done += pairs;
    };
    if (nearest.join) meet(left, true);
    for (std::int64_t c = 0; c < (nearest.join ? r : columns.n) && !team.stopped(); c += range)
      meet(filter_of(columns, c), !nearest.join && c == 0);
  }
  team.each(rows.n, 64, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) nearest.finish(i, offset);
  });
  return team.stopped() ? Outcome::stopped : Outcome::complete;
}

}  // namespace

template <typename X>
Outcome knn_graph(const X* x, std::int64_t n, std::int64_t d, std::int64_t k, Metric metric, const std::int64_t* ptr,
                  std::int64_t segments, std::int64_t* indices, Distance<X>* distances, int num_threads,
                  std::int64_t block_bytes, Progress& progress) {
  const auto size = [ptr](std::int64_t s) { return ptr[s + 1] - ptr[s]; };
  const auto search_segment = [&](std::int64_t s, Team& team) {
    const std::int64_t first = ptr[s];
    const Points<X> points(x + first * d, size(s), d, metric, team);
    return search(points, points, k, first, indices + first * k, distances + first * k, block_bytes, team);
  };

  // Segments of up to a few blocks are searched side by side, one thread each; larger ones one after the other.
  constexpr std::int64_t small = 4 * kBlock;
  Team team(num_threads, progress);
  std::atomic<bool> refused{false};
  std::atomic<std::int64_t> done{0};
  const auto share = [n](std::int64_t points) { return static_cast<double>(points) / static_cast<double>(n); };
  team.each(segments, 1, [&](std::int64_t s, std::int64_t) {
    if (refused || size(s) > small || size(s) == 0) return;
    PolledWithin within(team);
    Team alone(1, within);
    if (search_segment(s, alone) == Outcome::refused) refused = true;
    team.poll(share(done += size(s)));
  });
  for (std::int64_t s = 0; s < segments && !team.stopped() && !refused; ++s) {
    if (size(s) <= small) continue;
    PartialProgress part(progress, share(done), share(done + size(s)));
    Team all(static_cast<int>(std::min<std::int64_t>(num_threads, size(s) / kBlock)), part);
    const Outcome outcome = search_segment(s, all);
    if (outcome != Outcome::complete) return outcome;
    done += size(s);
  }
  return team.stopped() ? Outcome::stopped : refused ? Outcome::refused : Outcome::complete;
}

template <typename X>
Outcome knn_search(const X* queries, std::int64_t n_queries, const X* base, std::int64_t n_base, std::int64_t d,
                   std::int64_t k, Metric metric, std::int64_t* indices, Distance<X>* distances, int num_threads,
                   std::int64_t block_bytes, Progress& progress) {
  Team team(num_threads, progress);
  if (n_queries >= num_threads * kBlock || n_base < 2 * kBlock) {
    const Points<X> rows(queries, n_queries, d, metric, team), columns(base, n_base, d, metric, team);
    return search(rows, columns, k, 0, indices, distances, block_bytes, team);
  }
  // Too few queries to share: each thread searches a part of the base, and the parts are merged.
  const std::int64_t part = std::max<std::int64_t>((n_base + num_threads - 1) / num_threads, kBlock);
  const std::int64_t parts = (n_base + part - 1) / part;
  std::vector<std::int64_t> part_indices(parts * n_queries * k);
  std::vector<Distance<X>> part_distances(part_indices.size());
  const auto size = [&](std::int64_t p) { return std::min(part, n_base - p * part); };
  std::atomic<bool> refused{false};
  team.each(parts, 1, [&](std::int64_t p, std::int64_t) {
    PolledWithin within(team);
    Team alone(1, within);
    const Points<X> rows(queries, n_queries, d, metric, alone), columns(base + p * part * d, size(p), d, metric, alone);
    const std::int64_t place = p * n_queries * k;
    if (search(rows, columns, std::min(k, size(p)), p * part, &part_indices[place], &part_distances[place],
               block_bytes / parts, alone) == Outcome::refused)
      refused = true;
  });
  if (team.stopped() || refused) return refused ? Outcome::refused : Outcome::stopped;
  std::vector<std::pair<Distance<X>, std::int64_t>> found;
  for (std::int64_t i = 0; i < n_queries; ++i) {
    found.clear();
    for (std::int64_t p = 0; p < parts; ++p)
      for (std::int64_t r = 0, count = std::min(k, size(p)); r < count; ++r) {
        const std::int64_t place = p * n_queries * k + i * count + r;
        found.emplace_back(part_distances[place], part_indices[place]);
      }
    std::partial_sort(found.begin(), found.begin() + k, found.end());
    for (std::int64_t r = 0; r < k; ++r) std::tie(distances[i * k + r], indices[i * k + r]) = found[r];
  }
  return Outcome::complete;
}

#define SSDML_INSTANTIATE(X)                                                                                      \
  template Outcome knn_graph(const X*, std::int64_t, std::int64_t, std::int64_t, Metric, const std::int64_t*,     \
                             std::int64_t, std::int64_t*, Distance<X>*, int, std::int64_t, Progress&);            \
  template Outcome knn_search(const X*, std::int64_t, const X*, std::int64_t, std::int64_t, std::int64_t, Metric, \
                              std::int64_t*, Distance<X>*, int, std::int64_t, Progress&);
SSDML_INSTANTIATE(float)
SSDML_INSTANTIATE(double)
SSDML_INSTANTIATE(float16)
SSDML_INSTANTIATE(bfloat16)
#undef SSDML_INSTANTIATE

}  // namespace ssdml
