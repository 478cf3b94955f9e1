// What a search finds: the neighbours of each row, by their distances.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#include "common/parallel.h"
#include "knn_graph/candidates.h"
#include "knn_graph/points.h"

namespace ssdml {

constexpr std::int64_t kNobody = -1;

/// Where the result of a search lies: (rows, k) each. With limits (rows), neighbours that are farther than its own are
/// not wanted by a row, which then may end up with fewer than k.
template <typename X>
struct Result {
  std::int64_t* indices;
  Distance<X>* distances;
  const Distance<X>* limits = nullptr;
};

/// The k nearest columns of each row so far: candidates and, in the arrays of the result, neighbours whose distances
/// have been computed, in order. Distances are computed at the end, or where bounds do not decide.
template <typename X>
class Nearest final : public Candidates {
 public:
  using T = Distance<X>;

  Nearest(const Points<X>& rows, const Points<X>& columns, const Frame& frame, std::int64_t k, const Result<X>& result)
      : Candidates(rows.n, columns.n, &rows == &columns, frame, k),
        rows_(rows),
        columns_(columns),
        indices_(result.indices),
        distances_(result.distances),
        limits_(result.limits) {
    std::fill(indices_, indices_ + rows.n * k, kNobody);
    if (limits_ == nullptr) return;
    std::fill(distances_, distances_ + rows.n * k, std::numeric_limits<T>::infinity());
    for (std::int64_t i = 0; i < rows.n; ++i) limit_by_distance(i, limits_[i]);
  }

  /// Turns every row into its result: k neighbours with their distances, nearest first, numbered from `offset`; where
  /// rows have limits, from 0, and nobody after what there is.
  void finish(std::int64_t offset, Team& team) {
    std::vector<Room> rooms(team.threads);
    const auto each_row = [&](auto work) {
      team.each(rows_.n, 64, [&](std::int64_t first, std::int64_t last, int thread) {
        for (std::int64_t i = first; i < last; ++i) work(i, rooms[thread]);
      });
    };
    each_row([this](std::int64_t i, Room&) {
      drop_far(i);
      forget_bounds(i);
    });
    if (join && std::is_same_v<T, float>) each_row([this](std::int64_t i, Room& room) { share(i, room); });
    each_row([this, offset](std::int64_t i, Room& room) {
      settle(i, room);
      for (std::int64_t r = 0; r < k; ++r) indices_[i * k + r] += offset;
    });
  }

 private:
  /// Calls take(c, distance) for the candidates c of row i that `wanted` selects.
  template <typename Wanted, typename Take>
  void measure(std::int64_t i, Room& room, Wanted wanted, Take take) const {
    std::vector<std::int64_t>& places = room.places;
    std::vector<double>& row = room.row;
    places.clear();
    for (std::int64_t c = 0; c < counts_[i]; ++c)
      if (wanted(c)) places.push_back(c);
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
  void share(std::int64_t i, Room& room) {
    const std::uint32_t* const columns = &columns_of_[i * capacity_];
    measure(
        i, room, [&](std::int64_t c) { return columns[c] > i; },
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
  void settle(std::int64_t i, Room& room) override {
    T* const distances = distances_ + i * k;
    std::int64_t* const indices = indices_ + i * k;
    const float* const known = &bounds_[i * capacity_];
    const std::uint32_t* const columns = &columns_of_[i * capacity_];
    auto& found = room.found;
    found.clear();
    measure(
        i, room, [&](std::int64_t c) { return std::isnan(known[c]); },
        [&](std::int64_t c, T distance) { found.emplace_back(distance, columns[c]); });
    for (std::int64_t c = 0; c < counts_[i]; ++c)
      if (!std::isnan(known[c])) found.emplace_back(known[c], columns[c]);
    counts_[i] = 0;
    for (std::int64_t r = 0; r < k && indices[r] != kNobody; ++r) found.emplace_back(distances[r], indices[r]);
    const auto nearest = found.begin() + std::min<std::int64_t>(k, found.size());
    if (nearest < found.end()) std::nth_element(found.begin(), nearest, found.end());
    std::sort(found.begin(), nearest);
    auto last = nearest;
    while (limits_ != nullptr && last > found.begin() && last[-1].first > static_cast<double>(limits_[i])) --last;
    for (auto neighbour = found.begin(); neighbour < last; ++neighbour) {
      distances[neighbour - found.begin()] = static_cast<T>(neighbour->first);
      indices[neighbour - found.begin()] = neighbour->second;
    }
    if (last - found.begin() == k) limit_by_distance(i, distances[k - 1]);
  }

  /// Tightens the limit of row i, given that k other points are no farther than `distance`.
  void limit_by_distance(std::int64_t i, T distance) {
    const double s = static_cast<double>(distance);
    const double square = rows_.metric == Metric::euclidean ? s * s : rows_.metric == Metric::cosine ? 2 * s : s;
    limit_by(i, frame_.unit * square);
  }

  const Points<X>&rows_, &columns_;
  std::int64_t* const indices_;
  T* const distances_;
  const T* const limits_;
};

}  // namespace ssdml
