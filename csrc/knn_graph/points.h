// Sets of points and the exact distances between them.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "common/parallel.h"
#include "knn_graph/knn_graph.h"

namespace ssdml {

/// Sum of f(a_p, b_p) over d coordinates in float64, in an order that no instruction set changes; knn_graph.cu sums 32
/// parts in the same order. Reads `next` ahead, which is as long as b and will be wanted soon, line by line: asked for
/// all at once, it would keep b waiting; and not into the nearest cache, which can wait for fewer lines at a time.
template <typename A, typename X, typename F>
double sum_over(const A* a, const X* b, const X* next, std::int64_t d, F f) {
  constexpr int width = 32;
  double part[width] = {};
  std::int64_t p = 0;
  for (; p + width <= d; p += width) {
    for (int r = 0; r < width; r += 64 / static_cast<int>(sizeof(X))) __builtin_prefetch(next + p + r, 0, 2);
    for (int r = 0; r < width; ++r) part[r] += f(static_cast<double>(a[p + r]), static_cast<double>(b[p + r]));
  }
  for (int r = 0; p < d; ++p, ++r) part[r] += f(static_cast<double>(a[p]), static_cast<double>(b[p]));
  for (int half = width / 2; half > 0; half /= 2)
    for (int r = 0; r < half; ++r) part[r] += part[r + half];
  return part[0];
}

template <typename X>
struct Points {
  const X* x;
  std::int64_t n, d;
  Metric metric;
  /// Cosine only. A row becomes a unit vector as (row * lift) * inverse_norm; inverse_norm is 0 for a zero vector, and
  /// lift a power of two that keeps the squares of tiny float64 coordinates (empty, as if 1, for other types).
  std::vector<double> inverse_norm, lift;

  Points(const X* x_, std::int64_t n_, std::int64_t d_, Metric metric_, Team& team)
      : x(x_), n(n_), d(d_), metric(metric_) {
    if (metric != Metric::cosine) return;
    inverse_norm.resize(n);
    if (std::is_same_v<X, double>) lift.resize(n, 1.0);
    team.each(n, 1024, [this](std::int64_t first, std::int64_t last, int) {
      for (std::int64_t i = first; i < last; ++i) {
        double square = square_of(i, 1.0);
        if (std::is_same_v<X, double> && square < kTinySquare) square = square_of(i, lift[i] = kLift);
        inverse_norm[i] = square > 0 ? 1 / std::sqrt(square) : 0.0;
      }
    });
  }

  const X* row(std::int64_t i) const { return x + i * d; }

  /// What row i is multiplied with, one after the other, before it is compared.
  double first_factor(std::int64_t i) const { return lift.empty() ? 1.0 : lift[i]; }
  double second_factor(std::int64_t i) const { return metric == Metric::cosine ? inverse_norm[i] : 1.0; }

 private:
  double square_of(std::int64_t i, double factor) const {
    return sum_over(row(i), row(i), row(i), d, [factor](double u, double v) { return (u * factor) * (v * factor); });
  }
};

/// Distance between point i of one set, whose coordinates are in `a`, and point j of another, or of the same: summed in
/// float64, rounded once. Point `next` of the latter is read ahead.
template <typename X>
Distance<X> exact_distance(const Points<X>& rows, std::int64_t i, const double* a, const Points<X>& columns,
                           std::int64_t j, std::int64_t next) {
  using T = Distance<X>;
  const X *b = columns.row(j), *ahead = columns.row(next);
  if (rows.metric == Metric::inner_product)
    return static_cast<T>(-sum_over(a, b, ahead, rows.d, [](double u, double v) { return u * v; }));
  if (rows.metric == Metric::cosine) {
    const double ia = rows.inverse_norm[i], ib = columns.inverse_norm[j];
    if (ia == 0 || ib == 0) return 1;
    const double la = rows.first_factor(i), lb = columns.first_factor(j);
    const auto difference = [=](double u, double v) {
      if constexpr (std::is_same_v<X, double>)
        return u * la * ia - v * lb * ib;
      else
        return u * ia - v * ib;
    };
    return static_cast<T>(
        sum_over(a, b, ahead, rows.d, [=](double u, double v) { return difference(u, v) * difference(u, v); }) / 2);
  }
  const double square = sum_over(a, b, ahead, rows.d, [](double u, double v) { return (u - v) * (u - v); });
  if (rows.metric == Metric::sqeuclidean) return static_cast<T>(square);
  if (std::is_same_v<X, double> && square < kTinySquare)
    return static_cast<T>(std::sqrt(sum_over(a, b, ahead, rows.d,
                                             [](double u, double v) { return (u - v) * kLift * ((u - v) * kLift); })) /
                          kLift);
  return static_cast<T>(std::sqrt(square));
}

}  // namespace ssdml
