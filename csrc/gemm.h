// Product of small row-major matrices that fit the second-level cache, as the orthogonal updates need it. No packing:
// both operands are read where they lie.
#pragma once

#include <algorithm>
#include <cstdint>

#include "simd.h"

namespace ssdml {

/// An m x p operand whose entry (i, q) is data[i * row + q * column]; a transpose is a swap of the two strides.
template <typename T>
struct Strided {
  const T* data;
  std::int64_t row, column;
};

namespace gemm_detail {

inline constexpr int kRows = vector_registers == 32 ? 8 : 4;
inline constexpr int kVectors = 3;
inline constexpr std::int64_t kDepth = 512;  // rows of b that stay in the second-level cache from strip to strip

/// `rows` rows of c and the columns of `vectors` vectors, or the `first` columns of one where that is not 0.
template <typename T, int rows, int vectors>
inline void tile(std::int64_t p, Strided<T> a, const T* b, std::int64_t b_row, T* c, std::int64_t c_row, bool add,
                 std::int64_t first = 0) {
  Vec<T> acc[rows][vectors] = {};
  for (std::int64_t q = 0; q < p; ++q) {
    Vec<T> right[vectors];
#pragma GCC unroll 3
    for (int v = 0; v < vectors; ++v)
      right[v] = first ? load_first(b + q * b_row, first, T(0)) : load(b + q * b_row + v * lanes<T>);
#pragma GCC unroll 8
    for (int i = 0; i < rows; ++i) {
      const Vec<T> left = broadcast(a.data[i * a.row + q * a.column]);
#pragma GCC unroll 3
      for (int v = 0; v < vectors; ++v) acc[i][v] = multiply_add<T>(left, right[v], acc[i][v]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < rows; ++i) {
    T* out = c + i * c_row;
    for (std::int64_t j = 0; j < first; ++j) out[j] = add ? out[j] + acc[i][0][j] : acc[i][0][j];
    if (first) continue;
#pragma GCC unroll 3
    for (int v = 0; v < vectors; ++v) store(out + v * lanes<T>, add ? load(out + v * lanes<T>) + acc[i][v] : acc[i][v]);
  }
}

/// A strip of `rows` rows and all n columns.
template <typename T, int rows>
inline void strip(std::int64_t n, std::int64_t p, Strided<T> a, const T* b, std::int64_t b_row, T* c,
                  std::int64_t c_row, bool add) {
  std::int64_t j = 0;
  for (; j + kVectors * lanes<T> <= n; j += kVectors * lanes<T>)
    tile<T, rows, kVectors>(p, a, b + j, b_row, c + j, c_row, add);
  for (; j + lanes<T> <= n; j += lanes<T>) tile<T, rows, 1>(p, a, b + j, b_row, c + j, c_row, add);
  if (j < n) tile<T, rows, 1>(p, a, b + j, b_row, c + j, c_row, add, n - j);
}

}  // namespace gemm_detail

/// c (m, n) = a (m, p) b (p, n), added to c where `add` is set; b and c are row-major, their rows b_row and c_row
/// entries apart. The order in which an entry is summed does not depend on the number of threads.
template <typename T>
void gemm(std::int64_t m, std::int64_t n, std::int64_t p, Strided<T> a, const T* b, std::int64_t b_row, T* c,
          std::int64_t c_row, bool add, [[maybe_unused]] int num_threads) {
  using namespace gemm_detail;
  const std::int64_t strips = (m + kRows - 1) / kRows, pieces = std::max<std::int64_t>((p + kDepth - 1) / kDepth, 1);
#pragma omp parallel num_threads(num_threads) if (num_threads > 1)
  for (std::int64_t piece = 0; piece < pieces; ++piece) {
    const std::int64_t q = piece * kDepth, depth = std::min(p - q, kDepth);
#pragma omp for schedule(static) nowait  // every thread keeps its strips
    for (std::int64_t s = 0; s < strips; ++s) {
      std::int64_t i = s * kRows;
      const auto strip_at = [&]<int rows>() {
        strip<T, rows>(n, depth, Strided<T>{a.data + i * a.row + q * a.column, a.row, a.column}, b + q * b_row, b_row,
                       c + i * c_row, c_row, add || q > 0);
      };
      if (i + kRows <= m)
        strip_at.template operator()<kRows>();
      else
        for (; i < m; ++i) strip_at.template operator()<1>();
    }
  }
}

/// The same for b and c without padding between their rows.
template <typename T>
void gemm(std::int64_t m, std::int64_t n, std::int64_t p, Strided<T> a, const T* b, T* c, bool add, int num_threads) {
  gemm(m, n, p, a, b, n, c, n, add, num_threads);
}

/// c (n, n) = a' b for a product that is symmetric, a and b (p, n) row-major: the upper triangle, mirrored.
template <typename T>
void gemm_symmetric(std::int64_t n, std::int64_t p, const T* a, const T* b, T* c, [[maybe_unused]] int num_threads) {
  using namespace gemm_detail;
  const std::int64_t strips = (n + kRows - 1) / kRows;
#pragma omp parallel for num_threads(num_threads) schedule(dynamic) if (num_threads > 1)
  for (std::int64_t s = 0; s < strips; ++s) {
    std::int64_t i = s * kRows;
    const std::int64_t j = i / lanes<T> * lanes<T>;  // loads stay aligned to the rows
    const auto right_of_diagonal = [&]<int rows>() {
      strip<T, rows>(n - j, p, Strided<T>{a + i, 1, n}, b + j, n, c + i * n + j, n, false);
    };
    if (i + kRows <= n)
      right_of_diagonal.template operator()<kRows>();
    else
      for (; i < n; ++i) right_of_diagonal.template operator()<1>();
  }
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = 0; j < i; ++j) c[i * n + j] = c[j * n + i];
}

}  // namespace ssdml
