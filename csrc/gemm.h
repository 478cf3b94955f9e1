// Product of small row-major matrices that fit the second-level cache, as the orthogonal updates need it. No packing:
// both operands are read where they lie.
#pragma once

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

template <typename T, int rows, int vectors>
inline void tile(std::int64_t p, Strided<T> a, const T* b, std::int64_t b_row, T* c, std::int64_t c_row, bool add) {
  Vec<T> acc[rows][vectors] = {};
  for (std::int64_t q = 0; q < p; ++q) {
    Vec<T> right[vectors];
#pragma GCC unroll 3
    for (int v = 0; v < vectors; ++v) right[v] = load(b + q * b_row + v * lanes<T>);
#pragma GCC unroll 8
    for (int i = 0; i < rows; ++i) {
      const Vec<T> left = broadcast(a.data[i * a.row + q * a.column]);
#pragma GCC unroll 3
      for (int v = 0; v < vectors; ++v) acc[i][v] = multiply_add<T>(left, right[v], acc[i][v]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < rows; ++i)
#pragma GCC unroll 3
    for (int v = 0; v < vectors; ++v) {
      T* out = c + i * c_row + v * lanes<T>;
      store(out, add ? load(out) + acc[i][v] : acc[i][v]);
    }
}

/// Any size, one entry at a time: the last rows and columns.
template <typename T>
inline void edge(std::int64_t rows, std::int64_t columns, std::int64_t p, Strided<T> a, const T* b, std::int64_t b_row,
                 T* c, std::int64_t c_row, bool add) {
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t j = 0; j < columns; ++j) {
      T sum = add ? c[i * c_row + j] : T(0);
      for (std::int64_t q = 0; q < p; ++q) sum += a.data[i * a.row + q * a.column] * b[q * b_row + j];
      c[i * c_row + j] = sum;
    }
}

}  // namespace gemm_detail

/// c (m, n) = a (m, p) b (p, n), added to c where `add` is set. b and c are row-major without padding. The order in
/// which an entry is summed does not depend on the number of threads.
template <typename T>
void gemm(std::int64_t m, std::int64_t n, std::int64_t p, Strided<T> a, const T* b, T* c, bool add,
          [[maybe_unused]] int num_threads) {
  using namespace gemm_detail;
  const std::int64_t row_tiles = (m + kRows - 1) / kRows;
#pragma omp parallel for num_threads(num_threads) schedule(static)
  for (std::int64_t t = 0; t < row_tiles; ++t) {
    const std::int64_t i = t * kRows, rows = m - i < kRows ? m - i : kRows;
    const Strided<T> left{a.data + i * a.row, a.row, a.column};
    T* out = c + i * n;
    std::int64_t j = 0;
    if (rows == kRows) {
      for (; j + kVectors * lanes<T> <= n; j += kVectors * lanes<T>)
        tile<T, kRows, kVectors>(p, left, b + j, n, out + j, n, add);
      for (; j + lanes<T> <= n; j += lanes<T>) tile<T, kRows, 1>(p, left, b + j, n, out + j, n, add);
    }
    edge(rows, n - j, p, left, b + j, n, out + j, n, add);
  }
}

}  // namespace ssdml
