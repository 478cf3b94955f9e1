// Sets of points and the exact distances between them.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "knn_graph.h"

namespace ssdml {

/// Sum of f(a_p, b_p) over d coordinates in float64, in an order that no instruction set changes; knn_graph.cu sums 32
/// parts in the same order.
template <typename T, typename F>
double sum_over(const T* a, const T* b, std::int64_t d, F f) {
  constexpr int width = 32;
  double part[width] = {};
  std::int64_t p = 0;
  for (; p + width <= d; p += width)
    for (int r = 0; r < width; ++r) part[r] += f(static_cast<double>(a[p + r]), static_cast<double>(b[p + r]));
  for (int r = 0; p < d; ++p, ++r) part[r] += f(static_cast<double>(a[p]), static_cast<double>(b[p]));
  for (int half = width / 2; half > 0; half /= 2)
    for (int r = 0; r < half; ++r) part[r] += part[r + half];
  return part[0];
}

template <typename T>
struct Points {
  const T* x;
  std::int64_t n, d;
  Metric metric;
  std::vector<double> inverse_norm;  // cosine only; 0 for a zero vector

  Points(const T* x_, std::int64_t n_, std::int64_t d_, Metric metric_) : x(x_), n(n_), d(d_), metric(metric_) {
    if (metric != Metric::cosine) return;
    inverse_norm.resize(n);
    for (std::int64_t i = 0; i < n; ++i) {
      const double square = sum_over(row(i), row(i), d, [](double u, double v) { return u * v; });
      inverse_norm[i] = square > 0 ? 1 / std::sqrt(square) : 0.0;
    }
  }

  const T* row(std::int64_t i) const { return x + i * d; }

  /// What row i is multiplied with before it is compared.
  double factor(std::int64_t i) const { return metric == Metric::cosine ? inverse_norm[i] : 1.0; }

  void prefetch(std::int64_t i) const {
    const auto* bytes = reinterpret_cast<const char*>(row(i));
    for (std::int64_t b = 0; b < d * static_cast<std::int64_t>(sizeof(T)); b += 64) __builtin_prefetch(bytes + b);
  }
};

/// Distance between point i of one set and point j of another, or of the same: summed in float64, rounded once.
template <typename T>
T exact_distance(const Points<T>& rows, std::int64_t i, const Points<T>& columns, std::int64_t j) {
  const T *a = rows.row(i), *b = columns.row(j);
  if (rows.metric == Metric::inner_product)
    return static_cast<T>(-sum_over(a, b, rows.d, [](double u, double v) { return u * v; }));
  if (rows.metric == Metric::cosine) {
    const double ia = rows.inverse_norm[i], ib = columns.inverse_norm[j];
    if (ia == 0 || ib == 0) return 1;
    return static_cast<T>(
        sum_over(a, b, rows.d, [ia, ib](double u, double v) { return (u * ia - v * ib) * (u * ia - v * ib); }) / 2);
  }
  const double square = sum_over(a, b, rows.d, [](double u, double v) { return (u - v) * (u - v); });
  return static_cast<T>(rows.metric == Metric::euclidean ? std::sqrt(square) : square);
}

}  // namespace ssdml
