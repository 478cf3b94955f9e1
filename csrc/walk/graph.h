// A graph as a random walk: v <- Q v for panels of columns, one cache line of them per point.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>
#include <type_traits>
#include <vector>

#include "common/random.h"
#include "walk/rounding.h"

namespace ssdml::walk {

template <typename T>
struct LineOf {
  typedef T type __attribute__((vector_size(64)));
};
/// Entries of kWidth columns at one point, one cache line. Wider than the registers of lesser instruction sets, which
/// costs them nothing and makes results independent of the register width.
template <typename T>
using Line = typename LineOf<T>::type;
template <typename T>
inline constexpr int kWidth = 64 / static_cast<int>(sizeof(T));
template <typename T>
using Lines = std::vector<Line<T>>;

template <typename T>
inline Line<T> fill(T x) {
  return x - Line<T>{};
}
template <typename T>
inline Line<T> smaller(Line<T> a, Line<T> b) {
  return a < b ? a : b;
}
template <typename T>
inline Line<T> larger(Line<T> a, Line<T> b) {
  return a > b ? a : b;
}

/// The edges at one end of a point: where they lead, and what share of the walk takes each; null where all edges of the
/// graph have the same.
struct Edges {
  const std::int32_t* at;
  const double* share;
  std::int64_t count;
};

/// The share of each of a point's k edges in their weights.
inline void shares(const double* weights, std::int64_t k, double* share) {
  const double largest = *std::max_element(weights, weights + k);  // the sum itself might overflow
  double total = 0;
  for (std::int64_t r = 0; r < k; ++r) total += weights[r] / largest;
  for (std::int64_t r = 0; r < k; ++r) share[r] = weights[r] / largest / total;
}

/// The edges of one connected component in both directions. Its points stand at places 0 .. n - 1, so that neighbours
/// lie close together in memory.
struct Graph {
  std::int32_t n, k;
  std::span<const std::int64_t> points;  // point at each place
  std::vector<std::int32_t> out;         // (n, k): places of each point's neighbours
  std::vector<std::int64_t> in_ptr;      // (n + 1)
  std::vector<std::int32_t> in;          // places of the points that have each point as a neighbour, ascending
  std::vector<std::int32_t> in_rank;     // which of their k neighbours it is
  std::vector<double> out_share;         // (n, k): Q at each edge of `out`, rows of sum 1; empty where it is 1 / k
  std::vector<double> in_share;          // and of `in`

  /// `place` maps each of `members` to its position there; `weights` (N, k) may be null.
  Graph(const std::int64_t* indices, const double* weights, std::int64_t degree, std::span<const std::int64_t> members,
        const std::vector<std::int32_t>& place)
      : n(static_cast<std::int32_t>(members.size())),
        k(static_cast<std::int32_t>(degree)),
        points(members),
        out(members.size() * degree),
        in_ptr(members.size() + 1, 0),
        in(members.size() * degree),
        in_rank(members.size() * degree),
        out_share(weights ? members.size() * degree : 0),
        in_share(out_share.size()) {
    for (std::int64_t p = 0; p < n; ++p)
      for (std::int64_t r = 0; r < k; ++r) {
        const std::int32_t to = place[indices[points[p] * k + r]];
        out[p * k + r] = to;
        ++in_ptr[to + 1];
      }
    if (weights)
      for (std::int64_t p = 0; p < n; ++p) shares(weights + points[p] * k, k, &out_share[p * k]);
    std::partial_sum(in_ptr.begin(), in_ptr.end(), in_ptr.begin());
    std::vector<std::int64_t> next(in_ptr.begin(), in_ptr.end() - 1);
    for (std::int32_t p = 0; p < n; ++p)
      for (std::int32_t r = 0; r < k; ++r) {
        const std::int64_t from = std::int64_t{p} * k + r, at = next[out[from]]++;
        in[at] = p;
        in_rank[at] = r;
        if (weights) in_share[at] = out_share[from];
      }
  }

  bool weighted() const { return !out_share.empty(); }
  std::int64_t in_degree(std::int64_t p) const { return in_ptr[p + 1] - in_ptr[p]; }
  Edges edges_out(std::int64_t p) const { return {&out[p * k], weighted() ? &out_share[p * k] : nullptr, k}; }
  Edges edges_in(std::int64_t p) const {
    return {in.data() + in_ptr[p], weighted() ? in_share.data() + in_ptr[p] : nullptr, in_degree(p)};
  }
};

/// Reproducible random entries in [-1, 1).
template <typename T>
void random_entries(std::uint64_t seed, T* x, std::int64_t count) {
  const Random random{seed, 0};
  for (std::int64_t e = 0; e < count; ++e) x[e] = static_cast<T>(random.symmetric(e));
}

/// Points component by component, each in the order of depth-first searches along nearest neighbours, large ones in
/// parts that have few edges between them, in runs that take turns.
struct Components {
  std::vector<std::int64_t> points, ptr;
  std::vector<std::int32_t> place;  // of each point within its component

  Components(const std::int64_t* indices, std::int64_t n, std::int64_t k) : place(n) {
    std::vector<std::int64_t> parent(n), root_of(n);
    std::iota(parent.begin(), parent.end(), 0);
    const auto root = [&](std::int64_t i) {
      while (parent[i] != i) i = parent[i] = parent[parent[i]];
      return i;
    };
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t r = 0; r < k; ++r) {
        const std::int64_t a = root(i), b = root(indices[i * k + r]);
        parent[std::max(a, b)] = std::min(a, b);
      }
    std::vector<std::int64_t> order, stack;
    std::vector<bool> seen(n, false);
    for (std::int64_t start = 0; start < n; ++start) {
      stack.push_back(start);
      while (!stack.empty()) {
        const std::int64_t i = stack.back();
        stack.pop_back();
        if (seen[i]) continue;
        seen[i] = true;
        order.push_back(i);
        for (std::int64_t r = k; r-- > 0;)
          if (!seen[indices[i * k + r]]) stack.push_back(indices[i * k + r]);
      }
    }
    // Counting sort by component, stable in that order.
    std::vector<std::int64_t> next(n + 1, 0);
    for (std::int64_t i = 0; i < n; ++i) ++next[(root_of[i] = root(i)) + 1];
    ptr.push_back(0);
    for (std::int64_t i = 0; i < n; ++i) {
      if (next[i + 1] > 0) ptr.push_back(ptr.back() + next[i + 1]);
      next[i + 1] += next[i];
    }
    std::vector<std::int64_t> filled(next.begin(), next.end() - 1);
    points.resize(n);
    for (const std::int64_t i : order) points[filled[root_of[i]]++] = i;
    for (std::int64_t c = 0; c < count(); ++c) {
      const std::span<std::int64_t> members(points.data() + ptr[c], static_cast<std::size_t>(ptr[c + 1] - ptr[c]));
      bisect(indices, k, members);
      interleave(members);
      for (std::size_t p = 0; p < members.size(); ++p) place[members[p]] = static_cast<std::int32_t>(p);
    }
  }

  std::int64_t count() const { return static_cast<std::int64_t>(ptr.size()) - 1; }
  std::span<const std::int64_t> operator[](std::int64_t c) const {
    return {points.data() + ptr[c], static_cast<std::size_t>(ptr[c + 1] - ptr[c])};
  }

 private:
  // So many runs of so many points at once, lest in a sweep each wait for the neighbour that was swept just before it.
  static constexpr std::size_t kRuns = 4, kRun = 256;
  static constexpr std::size_t kPart = 2048;  // a panel of so many points leaves room in a second-level cache
  static constexpr int kSweeps = 40;          // more separate the halves a little better, but cost more than they save

  /// Makes kRuns runs of `members` after another take turns.
  static void interleave(std::span<std::int64_t> members) {
    const std::vector<std::int64_t> before(members.begin(), members.end());
    auto to = members.begin();
    for (std::size_t block = 0; block < before.size(); block += kRuns * kRun)
      for (std::size_t q = 0; q < kRun; ++q)
        for (std::size_t p = block + q; p < std::min(block + kRuns * kRun, before.size()); p += kRun) *to++ = before[p];
  }

  /// Halves `members` along the slowest mode of the walk among them, and so on; keeps their order within the parts.
  void bisect(const std::int64_t* indices, std::int64_t k, std::span<std::int64_t> members) {
    if (members.size() <= kPart) return;
    const auto n = static_cast<std::int64_t>(members.size());
    for (std::int64_t q = 0; q < n; ++q) place[members[q]] = static_cast<std::int32_t>(q);
    std::vector<std::int32_t> inner(n * k), inner_count(n, 0);  // neighbours among the members
    for (std::int64_t q = 0; q < n; ++q)
      for (std::int64_t r = 0; r < k; ++r) {
        const std::int64_t j = indices[members[q] * k + r], at = place[j];
        if (at < n && members[at] == j) inner[q * k + inner_count[q]++] = static_cast<std::int32_t>(at);
      }
    std::vector<float> x(n), swept(n);
    random_entries(static_cast<std::uint64_t>(n), x.data(), n);
    for (int s = 0; s < kSweeps; ++s) {
      double total = 0;
      for (std::int64_t q = 0; q < n; ++q) {
        float sum = 0;
        for (std::int64_t r = 0; r < inner_count[q]; ++r) sum += x[inner[q * k + r]];
        swept[q] = inner_count[q] > 0 ? sum / static_cast<float>(inner_count[q]) : x[q];
        total += swept[q];
      }
      const auto mean = static_cast<float>(total / static_cast<double>(n));
      float largest = 0;
      for (std::int64_t q = 0; q < n; ++q) largest = std::max(largest, std::abs(swept[q] -= mean));
      for (std::int64_t q = 0; q < n; ++q) x[q] = swept[q] / std::max(largest, std::numeric_limits<float>::min());
    }
    std::vector<std::int32_t> order(n);
    std::iota(order.begin(), order.end(), 0);
    const auto half = order.begin() + n / 2;
    std::nth_element(order.begin(), half, order.end(),
                     [&](std::int32_t a, std::int32_t b) { return x[a] != x[b] ? x[a] < x[b] : a < b; });
    std::sort(order.begin(), half);
    std::sort(half, order.end());
    const std::vector<std::int64_t> before(members.begin(), members.end());
    for (std::int64_t q = 0; q < n; ++q) members[q] = before[order[q]];
    bisect(indices, k, members.first(n / 2));
    bisect(indices, k, members.subspan(n / 2));
  }
};

/// Calls f(std::true_type) for a weighted graph and f(std::false_type) for others.
template <typename F>
inline auto by_weights(const Graph& graph, F f) {
  return graph.weighted() ? f(std::true_type{}) : f(std::false_type{});
}

/// Sum of Q x over a point's edges, with `same` = 1 / k for the edges of a graph that is not weighted. In groups of
/// four, which rounds like count / 4 + 3 additions at most.
template <typename T, bool weighted>
[[gnu::always_inline]] inline Line<T> gather(Edges edges, Line<T> same, const Line<T>* x) {
  const auto term = [&](std::int64_t r) {
    if constexpr (weighted)
      return fill(static_cast<T>(edges.share[r])) * x[edges.at[r]];
    else
      return x[edges.at[r]];
  };
  Line<T> sum{};
  std::int64_t r = 0;
  for (; r + 4 <= edges.count; r += 4) sum += (term(r) + term(r + 1)) + (term(r + 2) + term(r + 3));
  if (r + 2 <= edges.count) {
    sum += term(r) + term(r + 1);
    r += 2;
  }
  if (r < edges.count) sum += term(r);
  if constexpr (weighted)
    return sum;
  else
    return sum * same;
}

/// Error of an entry of Q x as `gather` computes it, relative to the same entry of Q |x|.
template <typename T>
inline double sweep_rounding(const Graph& graph) {
  return gather_rounding(unit_roundoff<T>, graph.k, graph.weighted());
}

/// Smallest and largest entries of a panel's columns.
template <typename T>
struct Range {
  Line<T> low, high;

  void add(Line<T> x) {
    low = smaller<T>(low, x);
    high = larger<T>(high, x);
  }
  /// Largest magnitude of column c.
  double size(int c) const { return std::max(-static_cast<double>(low[c]), static_cast<double>(high[c])); }
};
template <typename T>
inline Range<T> empty_range() {
  const Line<T> infinity = fill(std::numeric_limits<T>::infinity());
  return {infinity, -infinity};
}

/// y = Q x at `count` places, listed in `places` or all from 0 on; returns the range of these entries.
template <typename T>
Range<T> sweep(const Graph& graph, const std::int32_t* places, std::int64_t count, const Line<T>* x, Line<T>* y) {
  return by_weights(graph, [&](auto weighted) {
    const Line<T> same = fill(T(1) / static_cast<T>(graph.k));
    Range<T> range = empty_range<T>();
    for (std::int64_t c = 0; c < count; ++c) {
      const std::int64_t p = places ? places[c] : c;
      y[p] = gather<T, weighted()>(graph.edges_out(p), same, x);
      range.add(y[p]);
    }
    return range;
  });
}

}  // namespace ssdml::walk
