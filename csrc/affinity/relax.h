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
//
// Where the residual is large at few points only, those are relaxed alone, in the same order, lest the slow modes of
// this relaxation be others than those taken out. Then y is kept, and the residual known from it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>
#include <utility>

#include "affinity/sor.h"
#include "walk/graph.h"

namespace ssdml::walk {

/// Whether the magnitude of any column is above `limit`, or no number.
template <typename T>
inline bool exceeds(Line<T> x, T limit) {
  const auto above = ~((x <= limit) & (x >= -limit));
  std::int64_t words[sizeof above / sizeof(std::int64_t)], any = 0;
  std::memcpy(words, &above, sizeof above);
  for (const std::int64_t word : words) any |= word;
  return any != 0;
}

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

  /// Where few points have a residual above `limit`: relaxes y, zero at first, only at points where it is, until it is
  /// nowhere, which leaves the residual r - (I - gamma Q) y within it. Range of y; nothing where `sweeps`, set to those
  /// taken, were not enough. `waiting` is room for n flags: points whose residual may have come to exceed it.
  template <typename T>
  std::optional<Range<T>> local(const Graph& graph, const Line<T>* r, Line<T>* y, T limit, std::vector<char>& waiting,
                                int& sweeps) const {
    const Line<T> same = fill(T(1) / static_cast<T>(graph.k));
    const Line<T> step = fill(static_cast<T>(omega)), take = fill(static_cast<T>(gamma));
    for (std::int64_t p = 0; p < graph.n; ++p) waiting[p] = exceeds<T>(r[p], limit);
    std::fill(y, y + graph.n, Line<T>{});
    return by_weights(graph, [&](auto weighted) -> std::optional<Range<T>> {
      Range<T> range{};
      const char *const first = waiting.data(), *const last = first + graph.n;
      for (const int most = std::exchange(sweeps, 0); sweeps < most;) {
        ++sweeps;
        bool settled = true;
        for (const char* at = first; (at = static_cast<const char*>(std::memchr(at, true, last - at))); ++at) {
          const std::int64_t p = at - first;
          const Line<T> left = r[p] - y[p] + take * gather<T, weighted()>(graph.edges_out(p), same, y);
          waiting[p] = exceeds<T>(left, limit);
          if (!waiting[p]) continue;
          settled = false;
          y[p] += step * left;
          range.add(y[p]);
          const Edges edges = graph.edges_in(p);
          for (std::int64_t e = 0; e < edges.count; ++e) waiting[edges.at[e]] = true;
        }
        if (settled) return range;
      }
      return std::nullopt;
    });
  }

  /// Change of the residual by rounding in one of the above, relative to the largest entry before and after.
  template <typename T>
  double rounding(const Graph& graph) const {
    return sweep_rounding<T>(graph) + 6 * unit_roundoff<T>;
  }

 private:
  template <typename T, typename Update>
  Range<T> run(const Graph& graph, bool back, const Line<T>* x, const Update& update) const {
    return by_weights(graph, [&](auto weighted) {
      const Line<T> same = fill(T(1) / static_cast<T>(graph.k));
      Range<T> range = empty_range<T>();
      for (std::int64_t q = 0; q < graph.n; ++q) {
        const std::int64_t p = back ? graph.n - 1 - q : q;
        range.add(update(p, gather<T, weighted()>(back ? graph.edges_in(p) : graph.edges_out(p), same, x)));
      }
      return range;
    });
  }
};

}  // namespace ssdml::walk
