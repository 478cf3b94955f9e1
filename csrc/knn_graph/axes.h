// Principal axes of a sample of points: where the points lie near a space of few dimensions, coordinates along these
// tell them apart nearly as well as all their own.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "common/gemm.h"

namespace ssdml {

/// Makes the rows of v (m, d) orthonormal, in order (Gram and Schmidt, twice, which is enough for rounding errors); a
/// row that the rows before it span becomes zero.
inline void orthonormalise(std::vector<double>& v, std::int64_t m, std::int64_t d) {
  for (std::int64_t i = 0; i < m; ++i) {
    double* const row = &v[i * d];
    const double before = std::sqrt(dot(row, row, d));
    for (int pass = 0; pass < 2; ++pass)
      for (std::int64_t j = 0; j < i; ++j) {
        const double* const other = &v[j * d];
        const double along = dot(row, other, d);
        for (std::int64_t p = 0; p < d; ++p) row[p] -= along * other[p];
      }
    const double after = std::sqrt(dot(row, row, d)), inverse = after > 1e-10 * before ? 1 / after : 0.0;
    for (std::int64_t p = 0; p < d; ++p) row[p] *= inverse;
  }
}

/// Axes (d, m), orthonormal or zero, along which the s points y (s, d) are spread the most, the first the most of all;
/// by orthogonal iteration from the points themselves. Empty if the points spread too evenly for few axes to tell much.
inline std::vector<double> principal_axes(const std::vector<double>& y, std::int64_t s, std::int64_t d,
                                          std::int64_t m) {
  const auto transpose = [](const std::vector<double>& a, std::int64_t n, std::int64_t columns) {
    std::vector<double> b(a.size());
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t j = 0; j < columns; ++j) b[j * n + i] = a[i * columns + j];
    return b;
  };
  const std::vector<double> columns = transpose(y, s, d);
  std::vector<double> gram(s * s);
  gemm_symmetric(s, d, columns.data(), columns.data(), gram.data(), 1);
  double trace = 0, square = 0;  // of the eigenvalues: their sum, squared, over that of their squares counts the large
  for (std::int64_t i = 0; i < s; ++i) trace += gram[i * s + i];
  for (const double entry : gram) square += entry * entry;
  if (!(trace * trace < square * static_cast<double>(s) / 4)) return {};

  std::vector<double> weights(gram.begin(), gram.begin() + m * s), next(m * s);  // (m, s): each axis in terms of points
  for (int iteration = 0; iteration < 3; ++iteration) {
    orthonormalise(weights, m, s);
    gemm(m, s, s, Strided<double>{weights.data(), s, 1}, gram.data(), next.data(), false, 1);
    weights.swap(next);
  }
  orthonormalise(weights, m, s);
  std::vector<double> axes(m * d);
  gemm(m, d, s, Strided<double>{weights.data(), s, 1}, y.data(), axes.data(), false, 1);
  orthonormalise(axes, m, d);
  return transpose(axes, m, d);
}

}  // namespace ssdml
