// What a search keeps of each row while pairs go by: candidates by their bounds, then neighbours by their distances.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#include "buffer.h"
#include "knn_filter.h"
#include "knn_points.h"
#include "parallel.h"
#include "simd.h"

namespace ssdml {

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
        bounds_(make_buffer<float>(rows.n * capacity_)),
        columns_of_(make_buffer<std::uint32_t>(rows.n * capacity_)),
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

  /// Turns every row into its result: k neighbours with their distances, nearest first, numbered from `offset`.
  void finish(std::int64_t offset, Team& team) {
    const auto each_row = [&](auto work) {
      team.each(rows_.n, 64, [&](std::int64_t first, std::int64_t last) {
        for (std::int64_t i = first; i < last; ++i) work(i);
      });
    };
    each_row([this](std::int64_t i) {
      drop_far(i);
      forget_bounds(i);
    });
    if (join && std::is_same_v<T, float>) each_row([this](std::int64_t i) { share(i); });
    each_row([this, offset](std::int64_t i) {
      settle(i);
      for (std::int64_t r = 0; r < k; ++r) indices_[i * k + r] += offset;
    });
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
    if (counts_[i] <= capacity_ - kSpare / 2) return;
    forget_bounds(i);
    settle(i);
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

  /// Makes room for distances in the place of bounds: NaN stands for one that is not known yet.
  void forget_bounds(std::int64_t i) {
    std::fill_n(&bounds_[i * capacity_], counts_[i], std::numeric_limits<float>::quiet_NaN());
  }

  /// Calls take(c, distance) for the candidates c of row i that `wanted` selects.
  template <typename Wanted, typename Take>
  void measure(std::int64_t i, Wanted wanted, Take take) const {
    thread_local std::vector<std::int64_t> places;
    places.clear();
    for (std::int64_t c = 0; c < counts_[i]; ++c)
      if (wanted(c)) places.push_back(c);
    thread_local std::vector<double> row;
    row.resize(rows_.d);
    for (std::int64_t p = 0; p < rows_.d; ++p) row[p] = static_cast<double>(rows_.row(i)[p]);
    const std::uint32_t* const columns = &columns_of_[i * capacity_];
    for (std::size_t c = 0; c < places.size(); ++c) {
      const std::int64_t ahead = places[std::min(c + 2, places.size() - 1)];
      take(places[c], exact_distance(rows_, i, row.data(), columns_, columns[places[c]], columns[ahead]));
    }
  }

  /// Computes the distances between row i and its candidates further on, for both where each is a candidate of the
  /// other, as in most pairs of near neighbours.
  void share(std::int64_t i) {
    const std::uint32_t* const columns = &columns_of_[i * capacity_];
    measure(
        i, [&](std::int64_t c) { return columns[c] > i; },
        [&](std::int64_t c, T distance) {
          bounds_[i * capacity_ + c] = static_cast<float>(distance);
          const std::int64_t j = columns[c];
          const std::uint32_t* const others = &columns_of_[j * capacity_];
          std::int64_t place = kNobody;
          for (std::int64_t r = 0; r < counts_[j]; ++r) place = others[r] == i ? r : place;
          if (place != kNobody) bounds_[j * capacity_ + place] = static_cast<float>(distance);
        });
  }

  /// Computes the distances of row i's candidates that are not known, and keeps the k nearest of them all and the
  /// neighbours known before.
  void settle(std::int64_t i) {
    T* const distances = distances_ + i * k;
    std::int64_t* const indices = indices_ + i * k;
    const float* const known = &bounds_[i * capacity_];
    const std::uint32_t* const columns = &columns_of_[i * capacity_];
    thread_local std::vector<Neighbour> found;
    found.clear();
    measure(
        i, [&](std::int64_t c) { return std::isnan(known[c]); },
        [&](std::int64_t c, T distance) { found.push_back({distance, columns[c]}); });
    for (std::int64_t c = 0; c < counts_[i]; ++c)
      if (!std::isnan(known[c])) found.push_back({known[c], columns[c]});
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
  const Buffer<float> bounds_;              // of candidates, or in the end distances, and
  const Buffer<std::uint32_t> columns_of_;  // which columns they are
  std::vector<std::int64_t> counts_;
  std::vector<float> row_slack_, column_slack_;  // the latter only where columns are another set
};

}  // namespace ssdml
