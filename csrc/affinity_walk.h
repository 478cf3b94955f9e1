// A graph as a random walk: v <- Q v for panels of columns, one cache line of them per point.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>
#include <vector>

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
inline constexpr double unit_roundoff = sizeof(T) == 4 ? 0x1p-24 : 0x1p-53;

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

/// The edges of one connected component in both directions. Its points stand at places 0 .. n - 1, so that neighbours
/// lie close together in memory.
struct Graph {
  std::int32_t n, k;
  std::span<const std::int64_t> points;  // point at each place
  std::vector<std::int32_t> out;         // (n, k): places of each point's neighbours
  std::vector<std::int64_t> in_ptr;      // (n + 1)
  std::vector<std::int32_t> in;          // places of the points that have each point as a neighbour, ascending
  std::vector<std::int32_t> in_rank;     // which of their k neighbours it is

  /// `place` maps each of `members` to its position there.
  Graph(const std::int64_t* indices, std::int64_t degree, std::span<const std::int64_t> members,
        const std::vector<std::int32_t>& place)
      : n(static_cast<std::int32_t>(members.size())),
        k(static_cast<std::int32_t>(degree)),
        points(members),
        out(members.size() * degree),
        in_ptr(members.size() + 1, 0),
        in(members.size() * degree),
        in_rank(members.size() * degree) {
    for (std::int64_t p = 0; p < n; ++p)
      for (std::int64_t r = 0; r < k; ++r) {
        const std::int32_t to = place[indices[points[p] * k + r]];
        out[p * k + r] = to;
        ++in_ptr[to + 1];
      }
    std::partial_sum(in_ptr.begin(), in_ptr.end(), in_ptr.begin());
    std::vector<std::int64_t> next(in_ptr.begin(), in_ptr.end() - 1);
    for (std::int32_t p = 0; p < n; ++p)
      for (std::int32_t r = 0; r < k; ++r) {
        const std::int64_t at = next[out[std::int64_t{p} * k + r]]++;
        in[at] = p;
        in_rank[at] = r;
      }
  }

  std::int64_t in_degree(std::int64_t p) const { return in_ptr[p + 1] - in_ptr[p]; }
};

/// Points component by component, each in the order of depth-first searches along nearest neighbours.
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
    for (const std::int64_t i : order) {
      std::int64_t& at = filled[root_of[i]];
      place[i] = static_cast<std::int32_t>(at - next[root_of[i]]);
      points[at++] = i;
    }
  }

  std::int64_t count() const { return static_cast<std::int64_t>(ptr.size()) - 1; }
  std::span<const std::int64_t> operator[](std::int64_t c) const {
    return {points.data() + ptr[c], static_cast<std::size_t>(ptr[c + 1] - ptr[c])};
  }
};

/// Sum of x[at[r] * stride] over r < count. In groups of four, which rounds like count / 4 + 3 additions at most.
template <typename T>
inline Line<T> gather(const std::int32_t* at, std::int64_t count, const Line<T>* x, std::int64_t stride) {
  Line<T> sum{};
  std::int64_t r = 0;
  for (; r + 4 <= count; r += 4)
    sum += (x[at[r] * stride] + x[at[r + 1] * stride]) + (x[at[r + 2] * stride] + x[at[r + 3] * stride]);
  if (r + 2 <= count) {
    sum += x[at[r] * stride] + x[at[r + 1] * stride];
    r += 2;
  }
  return r < count ? sum + x[at[r] * stride] : sum;
}

/// Error of an entry of Q x as `sweep` computes it, relative to the same entry of Q |x|: the additions, 1 / k, and the
/// product with it.
template <typename T>
inline double sweep_rounding(std::int64_t k) {
  return 1.01 * unit_roundoff<T> * static_cast<double>(k / 4 + 5);
}

template <typename T>
struct Range {
  Line<T> low, high;
};

/// y = Q x at `count` places, listed in `places` or all from 0 on; returns the range of these entries.
template <typename T>
Range<T> sweep(const Graph& graph, const std::int32_t* places, std::int64_t count, const Line<T>* x, Line<T>* y) {
  const Line<T> share = fill(T(1) / static_cast<T>(graph.k));
  Line<T> low = fill(std::numeric_limits<T>::infinity()), high = -low;
  for (std::int64_t c = 0; c < count; ++c) {
    const std::int64_t p = places ? places[c] : c;
    const Line<T> sum = gather<T>(&graph.out[p * graph.k], graph.k, x, 1) * share;
    low = smaller<T>(low, sum);
    high = larger<T>(high, sum);
    y[p] = sum;
  }
  return {low, high};
}

}  // namespace ssdml::walk
