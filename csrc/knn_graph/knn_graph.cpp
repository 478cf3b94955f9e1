#include "knn_graph/knn_graph.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "common/simd.h"
#include "knn_graph/candidates.h"
#include "knn_graph/filter.h"
#include "knn_graph/jobs.h"
#include "knn_graph/nearest.h"
#include "knn_graph/points.h"

namespace ssdml {
namespace {

constexpr std::int64_t kMostIntegerCoordinates = 1 << 16;  // more could overflow sums of 32 bits
constexpr double kWorthAxes = 0x1p32;  // coordinates of all pairs together: fewer, and finding axes takes too long

/// The share of pairs that bounds from tiles leave undecided in a search for the k nearest of n columns, seen at
/// samples of both sets: the k-th nearest column is about as far as the share k / n of the sample.
double undecided(const Filter& rows, const Filter& columns, bool join, std::int64_t k, std::int64_t n) {
  const std::int64_t nearest = std::clamp<std::int64_t>(k * columns.count / n, 1, columns.count - join);
  const std::vector<float>& slack = columns.tiled.slack;
  const float widest = *std::max_element(slack.begin(), slack.end());
  const std::int64_t width = columns.count + Filter::kPanel;
  std::vector<float> middles(Filter::kPanel * width), sorted;  // v lies within the slack of these, and close as a rule
  std::int64_t left = 0;
  for (std::int64_t first = 0; first < rows.count; first += Filter::kPanel) {
    const std::int64_t last = std::min(rows.count, first + Filter::kPanel);
    for (std::int64_t c = 0; c < columns.count; c += Filter::kTileColumns)
      rows.each_tile(first, last, columns, c, [&](std::int64_t row, const Filter::Tile& tile) {
        for (int a = 0; a < Filter::kTileRows; ++a)
          for (int v = 0; v < Filter::kTileVectors; ++v) {
            const std::int64_t column = c + v * lanes<float>;
            const float own = rows.tiled.g[row + a] + rows.tiled.slack[row + a];
            store(&middles[(row - first + a) * width + column], own - tile[a][v] + load(&slack[column]));
          }
      });
    for (std::int64_t r = first; r < last; ++r) {
      float* const middle = &middles[(r - first) * width];
      if (join) middle[r] = kInfinity;
      sorted.assign(middle, middle + columns.count);
      std::nth_element(sorted.begin(), sorted.begin() + nearest - 1, sorted.end());
      // Limits come from the closest bounds: nearly v itself where pairs are refined.
      const float limit = sorted[nearest - 1] + (rows.refines() ? 0 : rows.tiled.slack[r] + widest);
      for (std::int64_t c = 0; c < columns.count; ++c) left += middle[c] - rows.tiled.slack[r] - slack[c] <= limit;
      left -= nearest;
    }
  }
  return static_cast<double>(std::max<std::int64_t>(left, 0)) / static_cast<double>(rows.count * columns.count);
}

/// The form that is quickest in the end: what narrow coordinates, or few, save in tiles they may lose where their
/// bounds do not decide, as between points of tight clusters, or where one coordinate is much larger than the others.
template <typename X>
Form choose_form(const Points<X>& rows, const Points<X>& columns, bool both, std::int64_t k, Frame& frame,
                 std::int64_t block_bytes, Team& team) {
  Form best{Storage::float32, 0};
  if (!has_pair_products || rows.d > kMostIntegerCoordinates) return best;
  const bool join = &rows == &columns;
  if (!join && rows.n < Filter::kPanel) return best;  // choosing takes longer than meeting all columns so few times
  // A block of points, or as many as fit half of the memory for copies.
  const std::int64_t fit = block_bytes / 2 / std::max<std::int64_t>(rows.d * sizeof(X), 1);
  const std::int64_t most = std::clamp<std::int64_t>(fit, Filter::kPanel, kBlock);
  const auto sample = [&](const Points<X>& points, std::vector<X>& copy, std::int64_t halves = 0) {
    const std::int64_t count = std::min(points.n, most);
    copy.resize(count * points.d);
    for (std::int64_t i = 0; i < count; ++i)
      std::copy_n(points.row((2 * i + halves) * points.n / (2 * count)), points.d, &copy[i * points.d]);
    return Points<X>(copy.data(), count, points.d, points.metric, team);
  };
  std::vector<X> row_copy, column_copy;
  const Points<X> some_rows = sample(rows, row_copy);
  const Points<X> some_columns = join ? some_rows : sample(columns, column_copy);
  const auto d = static_cast<double>(rows.d), n_rows = static_cast<double>(rows.n),
             n_columns = static_cast<double>(columns.n);
  // In cycles per pair: what the best form takes, beside one that takes `tiles`, and `each` for an undecided pair. With
  // AVX-512; benchmarks/bench_knn_graph.py with one form at a time measures them.
  double least = d / 16;
  const auto consider = [&](Form form, double tiles, double each) {
    if (tiles >= least || team.stopped()) return;
    const Filter left(some_rows, 0, some_rows.n, frame, form, team);
    const auto share = [&](const Filter& right) {
      return team.stopped() ? 1.0 : undecided(left, right, join, k, columns.n);  // filters may be unfinished
    };
    const double all =
        tiles + each * (join ? share(left) : share(Filter(some_columns, 0, some_columns.n, frame, form, team)));
    if (all < least) {
      least = all;
      best = form;
    }
  };
  const double refined = (both ? 2 : 1) * (d / 16 + 100);  // a pair may be undecided for either point
  if (has_byte_products) consider({Storage::int8, 0}, d / 64, refined);
  if (least > d / 32) consider({Storage::int16, 0}, d / 32, d * 0.6 + 40);
  const double room_for_axes = 8 * d * static_cast<double>(2 * kBlock + 2 * Frame::kAxes);  // bytes
  if (n_rows * n_columns * d < kWorthAxes || room_for_axes > static_cast<double>(block_bytes)) return best;
  std::vector<X> other_copy;
  frame.find_axes(sample(columns, other_copy, 1));  // others, which do not lie nearer to the axes than most
  for (std::int64_t axes = 16; axes <= std::min(Frame::kAxes, rows.d / 4) && !frame.axes.empty(); axes *= 2) {
    const auto m = static_cast<double>(axes);
    consider({Storage::int16, axes}, m / 32 + 0.2 * d * m * (1 / n_rows + 1 / n_columns), refined);
  }
  return best;
}

/// A set of points that look for their nearest: what they have found, and a lock for each of its blocks.
struct Seekers {
  Seekers(Candidates& candidates, std::int64_t n) : candidates(candidates), locks((n + kBlock - 1) / kBlock) {}

  std::mutex* locks_of(const Filter& filter) { return &locks[filter.first / kBlock]; }

  Candidates& candidates;
  std::vector<std::mutex> locks;
};

/// Runs the jobs between two filters, each of which is a range of points. They are ordered like the rounds of a
/// tournament, in which no block plays twice (unless there are more rows than columns), so that threads seldom wait for
/// the lock of a block; the result does not depend on the order. `of_columns` is null unless the columns seek, too;
/// `open` says that the rows have not met any columns yet, and have no limits.
void run_jobs(const Filter& rows, const Filter& columns, bool open, Seekers& of_rows, Seekers* of_columns,
              std::vector<Scratch>& scratches, Team& team, double share_before, double share_after) {
  const bool within = &of_rows == of_columns && &rows == &columns;
  const std::int64_t row_blocks = Jobs::blocks(rows), column_blocks = Jobs::blocks(columns);
  const std::int64_t rounds = column_blocks + within, total = rounds * row_blocks;
  std::mutex* const row_locks = of_rows.locks_of(rows);
  std::mutex* const column_locks = of_columns ? of_columns->locks_of(columns) : nullptr;
  const Jobs jobs(rows, columns, of_rows.candidates, of_columns ? &of_columns->candidates : nullptr);
  if (team.stopped()) return;
  in_turn(total, team.threads, [&](std::int64_t job, int thread) {
    Scratch& scratch = scratches[thread];
    const std::int64_t round = job / row_blocks, i = job % row_blocks;
    if (within && round > 0) {
      const std::int64_t j = (round - 1 - i + row_blocks) % row_blocks;
      if (i >= j) return true;
      const std::scoped_lock guard(row_locks[i], row_locks[j]);
      jobs.run<true>(i, j, scratch);
    } else if (open && round == 0) {
      const std::lock_guard guard(row_locks[i]);
      if (within)
        jobs.open<true>(i, i, scratch);
      else
        jobs.open<false>(i, i % column_blocks, scratch);
    } else if (of_columns) {
      const std::int64_t j = (i + round) % column_blocks;
      const std::scoped_lock guard(row_locks[i], column_locks[j]);
      jobs.run<true>(i, j, scratch);
    } else {
      const std::lock_guard guard(row_locks[i]);
      jobs.run<false>(i, (i + round) % column_blocks, scratch);
    }
    team.poll(thread,
              share_before + (share_after - share_before) * static_cast<double>(job + 1) / static_cast<double>(total));
    return !team.stopped();
  });
}

/// The k nearest columns of every row; where both are one set, of the other points. With `result_of_columns`, of two
/// sets whose points have limits, the k nearest rows of every column, too. Points are taken in ranges whose filters fit
/// `block_bytes`; each pair of ranges meets once.
template <typename X>
SearchOutcome search(const Points<X>& rows, const Points<X>& columns, std::int64_t k, std::int64_t offset,
                     const Result<X>& result, std::int64_t block_bytes, Team& team,
                     const Result<X>* result_of_columns = nullptr) {
  const bool join = &rows == &columns, both = join || result_of_columns != nullptr;
  Frame frame = join ? Frame({&rows}, team) : Frame({&rows, &columns}, team);
  if (team.stopped()) return SearchOutcome::stopped;
  if (!frame.finite) return SearchOutcome::refused;
  const Form form = choose_form(rows, columns, both, k, frame, block_bytes, team);
  Nearest<X> nearest(rows, columns, frame, k, result);
  Seekers of_rows(nearest, rows.n);
  std::optional<Nearest<X>> nearest_of_columns;
  std::optional<Seekers> others;
  if (result_of_columns) {
    nearest_of_columns.emplace(columns, rows, frame, k, *result_of_columns);
    others.emplace(*nearest_of_columns, columns.n);
  }
  Seekers* const of_columns = others ? &*others : join ? &of_rows : nullptr;
  std::vector<Scratch> scratches(team.threads);

  const std::int64_t fit = block_bytes / 2 / Filter::bytes_per_point(rows.d, form);
  const std::int64_t range = std::max<std::int64_t>(1, fit / kBlock) * kBlock;
  const auto filter_of = [&](const Points<X>& points, std::int64_t first) {
    return Filter(points, first, std::min(range, points.n - first), frame, form, team);
  };
  const double all = static_cast<double>(rows.n) * static_cast<double>(columns.n) / (join ? 2 : 1);
  double done = 0;
  for (std::int64_t r = 0; r < rows.n && !team.stopped(); r += range) {
    const Filter left = filter_of(rows, r);
    nearest.expect_rows(left);
    if (others) others->candidates.expect_columns(left);
    const auto meet = [&](const Filter& right, bool open) {
      nearest.expect_columns(right);
      if (others) others->candidates.expect_rows(right);
      const double pairs =
          static_cast<double>(left.count) * static_cast<double>(right.count) / (&left == &right ? 2 : 1);
      run_jobs(left, right, open, of_rows, of_columns, scratches, team, done / all, (done + pairs) / all);
      done += pairs;
    };
    if (join) meet(left, true);
    for (std::int64_t c = 0; c < (join ? r : columns.n) && !team.stopped(); c += range)
      meet(filter_of(columns, c), !both && c == 0);
  }
  nearest.finish(offset, team);
  if (nearest_of_columns) nearest_of_columns->finish(0, team);
  return team.stopped() ? SearchOutcome::stopped : SearchOutcome::complete;
}

}  // namespace

template <typename X>
SearchOutcome knn_graph(const X* x, std::int64_t n, std::int64_t d, std::int64_t k, Metric metric,
                        const std::int64_t* ptr, std::int64_t segments, std::int64_t* indices, Distance<X>* distances,
                        int num_threads, std::int64_t block_bytes, Progress& progress) {
  const auto size = [ptr](std::int64_t s) { return ptr[s + 1] - ptr[s]; };
  const auto search_segment = [&](std::int64_t s, Team& team) {
    const std::int64_t first = ptr[s];
    const Points<X> points(x + first * d, size(s), d, metric, team);
    return search(points, points, k, first, {indices + first * k, distances + first * k}, block_bytes, team);
  };

  // Segments of up to a few blocks are searched side by side, one thread each; larger ones one after the other.
  constexpr std::int64_t small = 4 * kBlock;
  Team team(num_threads, progress);
  std::atomic<bool> refused{false};
  std::atomic<std::int64_t> done{0};
  const auto share = [n](std::int64_t points) { return static_cast<double>(points) / static_cast<double>(n); };
  team.each(segments, 1, [&](std::int64_t s, std::int64_t, int thread) {
    if (refused || size(s) > small || size(s) == 0) return;
    PolledWithin within(team, thread);
    Team alone(1, within);
    if (search_segment(s, alone) == SearchOutcome::refused) refused = true;
    team.poll(thread, share(done += size(s)));
  });
  for (std::int64_t s = 0; s < segments && !team.stopped() && !refused; ++s) {
    if (size(s) <= small) continue;
    PartialProgress part(progress, share(done), share(done + size(s)));
    Team all(static_cast<int>(std::min<std::int64_t>(num_threads, size(s) / kBlock)), part);
    const SearchOutcome outcome = search_segment(s, all);
    if (outcome != SearchOutcome::complete) return outcome;
    done += size(s);
  }
  return team.stopped() ? SearchOutcome::stopped : refused ? SearchOutcome::refused : SearchOutcome::complete;
}

template <typename X>
SearchOutcome knn_search(const X* queries, std::int64_t n_queries, const X* base, std::int64_t n_base, std::int64_t d,
                         std::int64_t k, Metric metric, std::int64_t* indices, Distance<X>* distances, int num_threads,
                         std::int64_t block_bytes, Progress& progress) {
  Team team(num_threads, progress);
  if (n_queries >= num_threads * kBlock || n_base < 2 * kBlock) {
    const Points<X> rows(queries, n_queries, d, metric, team), columns(base, n_base, d, metric, team);
    return search(rows, columns, k, 0, {indices, distances}, block_bytes, team);
  }
  // Too few queries to share: each thread searches a part of the base, and the parts are merged.
  const std::int64_t part = std::max<std::int64_t>((n_base + num_threads - 1) / num_threads, kBlock);
  const std::int64_t parts = (n_base + part - 1) / part;
  std::vector<std::int64_t> part_indices(parts * n_queries * k);
  std::vector<Distance<X>> part_distances(part_indices.size());
  const auto size = [&](std::int64_t p) { return std::min(part, n_base - p * part); };
  std::atomic<bool> refused{false};
  team.each(parts, 1, [&](std::int64_t p, std::int64_t, int thread) {
    PolledWithin within(team, thread);
    Team alone(1, within);
    const Points<X> rows(queries, n_queries, d, metric, alone), columns(base + p * part * d, size(p), d, metric, alone);
    const std::int64_t place = p * n_queries * k;
    if (search(rows, columns, std::min(k, size(p)), p * part,
               {part_indices.data() + place, part_distances.data() + place}, block_bytes / parts,
               alone) == SearchOutcome::refused)
      refused = true;
  });
  if (team.stopped() || refused) return refused ? SearchOutcome::refused : SearchOutcome::stopped;
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
  return SearchOutcome::complete;
}

template <typename X>
SearchOutcome knn_between(const X* a, std::int64_t n_a, const X* b, std::int64_t n_b, std::int64_t d, std::int64_t k,
                          Metric metric, const Distance<X>* limits_a, std::int64_t* indices_a, Distance<X>* distances_a,
                          const Distance<X>* limits_b, std::int64_t* indices_b, Distance<X>* distances_b,
                          int num_threads, std::int64_t block_bytes, Progress& progress) {
  if (n_a > n_b)  // as many blocks as there are of rows can be worked on at once
    return knn_between(b, n_b, a, n_a, d, k, metric, limits_b, indices_b, distances_b, limits_a, indices_a, distances_a,
                       num_threads, block_bytes, progress);
  Team team(num_threads, progress);
  const Points<X> rows(a, n_a, d, metric, team), columns(b, n_b, d, metric, team);
  const Result<X> of_rows{indices_a, distances_a, limits_a}, of_columns{indices_b, distances_b, limits_b};
  return search(rows, columns, k, 0, of_rows, block_bytes, team, &of_columns);
}

template <typename T>
void merge_neighbors(std::int64_t n, std::int64_t k, std::int64_t* indices, T* distances, std::int64_t m,
                     const std::int64_t* further, const T* further_distances, std::int64_t first, int num_threads) {
  in_shares(n, threads_for(n * (k + m), num_threads), [&](std::int64_t begin, std::int64_t end, int) {
    std::vector<std::pair<T, std::int64_t>> merged(k);
    for (std::int64_t i = begin; i < end; ++i) {
      const auto own = [&](std::int64_t r) { return std::pair(distances[i * k + r], indices[i * k + r]); };
      const auto other = [&](std::int64_t r) {
        return std::pair(further_distances[i * m + r], further[i * m + r] + first);
      };
      for (std::int64_t r = 0, a = 0, b = 0; r < k; ++r) merged[r] = b < m && other(b) < own(a) ? other(b++) : own(a++);
      for (std::int64_t r = 0; r < k; ++r) std::tie(distances[i * k + r], indices[i * k + r]) = merged[r];
    }
  });
}
template void merge_neighbors(std::int64_t, std::int64_t, std::int64_t*, float*, std::int64_t, const std::int64_t*,
                              const float*, std::int64_t, int);
template void merge_neighbors(std::int64_t, std::int64_t, std::int64_t*, double*, std::int64_t, const std::int64_t*,
                              const double*, std::int64_t, int);

#define SSDML_INSTANTIATE(X)                                                                                        \
  template SearchOutcome knn_graph(const X*, std::int64_t, std::int64_t, std::int64_t, Metric, const std::int64_t*, \
                                   std::int64_t, std::int64_t*, Distance<X>*, int, std::int64_t, Progress&);        \
  template SearchOutcome knn_search(const X*, std::int64_t, const X*, std::int64_t, std::int64_t, std::int64_t,     \
                                    Metric, std::int64_t*, Distance<X>*, int, std::int64_t, Progress&);             \
  template SearchOutcome knn_between(const X*, std::int64_t, const X*, std::int64_t, std::int64_t, std::int64_t,    \
                                     Metric, const Distance<X>*, std::int64_t*, Distance<X>*, const Distance<X>*,   \
                                     std::int64_t*, Distance<X>*, int, std::int64_t, Progress&);
SSDML_INSTANTIATE(float)
SSDML_INSTANTIATE(double)
SSDML_INSTANTIATE(float16)
SSDML_INSTANTIATE(bfloat16)
#undef SSDML_INSTANTIATE

}  // namespace ssdml
