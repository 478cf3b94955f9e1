// Algebra with small dense matrices, (m, m) by rows.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

namespace ssdml {

/// Inverts in place, by Gauss-Jordan with complete pivoting, as large a part of `a` as has no pivot below `least`; the
/// rest becomes zero. False if nothing is left.
inline bool invert_pivoted(std::vector<double>& a, std::int64_t m, double least) {
  std::vector<std::int64_t> row_of(m), column_of(m);  // where each row and column came from
  std::iota(row_of.begin(), row_of.end(), 0);
  std::iota(column_of.begin(), column_of.end(), 0);
  std::int64_t rank = 0;
  for (; rank < m; ++rank) {
    std::int64_t row = rank, column = rank;
    for (std::int64_t i = rank; i < m; ++i)
      for (std::int64_t c = rank; c < m; ++c)
        if (std::abs(a[i * m + c]) > std::abs(a[row * m + column])) row = i, column = c;
    const double pivot = a[row * m + column];
    if (!(std::abs(pivot) > least) || !std::isfinite(pivot)) break;
    std::swap_ranges(&a[row * m], &a[row * m] + m, &a[rank * m]);
    std::swap(row_of[row], row_of[rank]);
    for (std::int64_t i = 0; i < m; ++i) std::swap(a[i * m + column], a[i * m + rank]);
    std::swap(column_of[column], column_of[rank]);
    a[rank * m + rank] = 1;
    for (std::int64_t c = 0; c < m; ++c) a[rank * m + c] /= pivot;
    for (std::int64_t i = 0; i < m; ++i) {
      if (i == rank) continue;
      const double f = std::exchange(a[i * m + rank], 0.0);
      if (f != 0)
        for (std::int64_t c = 0; c < m; ++c) a[i * m + c] -= f * a[rank * m + c];
    }
  }
  std::vector<double> inverse(m * m, 0.0);
  for (std::int64_t i = 0; i < rank; ++i)
    for (std::int64_t c = 0; c < rank; ++c) inverse[column_of[i] * m + row_of[c]] = a[i * m + c];
  a.swap(inverse);
  return rank > 0;
}

/// From x' x, the matrix R^-1 that makes the columns of x R^-1 orthonormal, by Cholesky; false if they are dependent
/// up to rounding in a type of that unit roundoff.
inline bool triangular_inverse(std::vector<double>& r, std::int64_t m, double unit_roundoff) {
  for (std::int64_t a = 0; a < m; ++a) {  // upper factor, row by row
    const double before = r[a * m + a];
    for (std::int64_t b = 0; b < a; ++b) {
      const double f = r[b * m + a];
      for (std::int64_t c = a; c < m; ++c) r[a * m + c] -= f * r[b * m + c];
    }
    const double pivot = r[a * m + a];
    if (!(pivot > before * 64 * unit_roundoff) || !std::isfinite(pivot)) return false;
    const double scale = 1 / std::sqrt(pivot);
    for (std::int64_t c = a; c < m; ++c) r[a * m + c] *= scale;
    for (std::int64_t c = 0; c < a; ++c) r[a * m + c] = 0;
  }
  return invert_pivoted(r, m, 0);
}

}  // namespace ssdml
