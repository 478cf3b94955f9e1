// What a search keeps of each row while pairs go by: candidates, by bounds of their distances.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "common/buffer.h"
#include "common/simd.h"
#include "knn_graph/filter.h"

namespace ssdml {

constexpr std::int64_t kSpare = 22;  // least room for candidates beyond k: the less, the newer a row's limit
constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// What settling a row needs, one per thread, on cache lines of its own.
struct alignas(64) Room {
  std::vector<std::int64_t> places;                    // of candidates whose distance is wanted
  std::vector<double> row;                             // its coordinates
  std::vector<std::pair<double, std::int64_t>> found;  // distances and indices of neighbours
};

/// Columns that may be among the k nearest of each row. They are dropped as bounds tighten, and settled where bounds do
/// not decide. The type of points is not known here, so that the jobs that add candidates are compiled once for all.
class Candidates {
 public:
  /// Where rows and columns are one set, `join`, no point is its own neighbour.
  Candidates(std::int64_t rows, std::int64_t columns, bool join, const Frame& frame, std::int64_t k)
      : limit(rows + Filter::kPanel, kInfinity),
        join(join),
        k(k),
        frame_(frame),
        capacity_((k + std::max(k, kSpare) + lanes<float> - 1) / lanes<float> * lanes<float>),
        bounds_(make_buffer<float>(rows * capacity_)),
        columns_of_(make_buffer<std::uint32_t>(rows * capacity_)),
        counts_(rows, 0),
        row_slack_(rows),
        column_slack_(join ? 0 : columns) {}

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
  void add(std::int64_t i, float bound, std::int64_t j, Room& room) {
    if (counts_[i] == capacity_) [[unlikely]]
      make_room(i, room);
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

 protected:
  ~Candidates() = default;

  /// Turns the candidates of row i, whose bounds are forgotten, into neighbours, and tightens its limit to theirs.
  virtual void settle(std::int64_t i, Room& room) = 0;

  /// Makes room for distances in the place of bounds: NaN stands for one that is not known yet.
  void forget_bounds(std::int64_t i) {
    std::fill_n(&bounds_[i * capacity_], counts_[i], std::numeric_limits<float>::quiet_NaN());
  }

  const Frame& frame_;
  const std::int64_t capacity_;
  const Buffer<float> bounds_;              // of candidates, or in the end distances, and
  const Buffer<std::uint32_t> columns_of_;  // which columns they are
  std::vector<std::int64_t> counts_;

 private:
  static void copy_slack(const Filter& filter, std::vector<float>& slack) {
    std::copy_n(filter.closest().slack.begin(), filter.count, slack.begin() + filter.first);
  }

  void make_room(std::int64_t i, Room& room) {
    drop_far(i);
    if (counts_[i] <= capacity_ - kSpare / 2) return;
    forget_bounds(i);
    settle(i, room);
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

  std::vector<float> row_slack_, column_slack_;  // the latter only where columns are another set
};

}  // namespace ssdml
