// Successive over-relaxation (SOR) for (I - gamma Q) y = r, in place: one line per point instead of two, and after the
// slow modes are gone two to four times fewer sweeps than the walk's own series.
//
// With Q = L + U, what lies before a point and after it, the change d of y from one sweep to the next obeys
//
//   d <- (1 - omega) d + omega gamma (L d_new + U d),   first d = omega (r + gamma L d),
//
// a Gauss-Seidel sweep for omega = 1. y is the sum of all d, so only its wanted entries need be kept, and the residual
// that is left, (1 - omega) / omega d + gamma U d, is bounded by the range of d. An error e in an entry of d changes
// that residual by e / omega: rounding is no more amplified than in the series.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "affinity_sor.h"
#include "affinity_walk.h"

namespace ssdml::walk {

struct Relaxation : Sor {
  /// In place: d of the next sweep from that of the last; returns the range of the new one. `back`: the same for Q',
  /// from the last point to the first.
  template <typename T>
  Range<T> sweep(const Graph& graph, Line<T>* d, bool back = false) const {
    const Line<T> keep = fill(static_cast<T>(1 - omega)), take = fill(static_cast<T>(omega * gamma));
    return back ? run<T>(graph, true, d, [&](std::int64_t p, Line<T> sum) { return d[p] = keep * d[p] + take * sum; })
                : run<T>(graph, false, d, [&](std::int64_t p, Line<T> sum) { return d[p] = keep * d[p] + take * sum; });
  }

  /// The first d, from a residual; overwrites whatever d was.
  template <typename T>
  Range<T> start(const Graph& graph, const Line<T>* residual, Line<T>* d) const {
    std::fill(d, d + graph.n, Line<T>{});  // so that points to come do not count
    const Line<T> scale = fill(static_cast<T>(omega)), take = fill(static_cast<T>(omega * gamma));
    return run<T>(graph, false, d,
                  [&](std::int64_t p, Line<T> sum) { return d[p] = scale * residual[p] + take * sum; });
  }

  /// The residual that the sweep to d left; zeroes d.
  template <typename T>
  Range<T> stop(const Graph& graph, Line<T>* d, Line<T>* residual) const {
    const Line<T> own = fill(static_cast<T>((1 - omega) / omega)), take = fill(static_cast<T>(gamma));
    return run<T>(graph, false, d, [&](std::int64_t p, Line<T> sum) {
      residual[p] = own * std::exchange(d[p], Line<T>{}) + take * sum;  // so that points passed do not count
      return residual[p];
    });
  }

  /// Bounds on the residual of column c that a sweep to d within `range` left.
  template <typename T>
  Interval residual(const Range<T>& range, int c) const {
    return Sor::residual(range.low[c], range.high[c]);
  }

  /// Change of the residual by rounding in one of the above, relative to the largest entry before and after.
  template <typename T>
  double rounding(const Graph& graph) const {
    return gather_rounding<T>(graph) + 6 * unit_roundoff<T>;
  }

 private:
  // Points are swept in so many runs of so many at once, lest each wait for the neighbour that was swept just before
  // it.
  static constexpr std::int64_t kRuns = 4, kRun = 256;

  template <typename T, typename Update>
  Range<T> run(const Graph& graph, bool back, const Line<T>* x, const Update& update) const {
    return by_weights(graph, [&](auto weighted) {
      const Line<T> same = fill(T(1) / static_cast<T>(graph.k));
      Range<T> range = empty_range<T>();
      const auto at = [&](std::int64_t p) {
        if (p < graph.n)
          range.add(update(p, gather<T, weighted()>(back ? graph.edges_in(p) : graph.edges_out(p), same, x)));
      };
      const std::int64_t blocks = (graph.n + kRuns * kRun - 1) / (kRuns * kRun);
      for (std::int64_t b = 0; b < blocks; ++b)
        for (std::int64_t q = 0; q < kRun; ++q)
          for (std::int64_t r = 0; r < kRuns; ++r)
            if (back)
              at((blocks - b) * kRuns * kRun - 1 - (r * kRun + q));
            else
              at(b * kRuns * kRun + r * kRun + q);
      return range;
    });
  }
};

}  // namespace ssdml::walk
