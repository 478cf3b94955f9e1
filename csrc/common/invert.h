// Inverse of a small matrix, in place.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/gemm.h"

namespace ssdml {

namespace invert_detail {

inline constexpr int kBlock = 16;

/// Gauss-Jordan of kBlock rows and columns, without pivoting.
template <typename T>
inline void invert_block(T (&k)[kBlock][kBlock]) {
  constexpr int vectors = kBlock / lanes<T>;
  T column[kBlock];
  for (int j = 0; j < kBlock; ++j) column[j] = static_cast<T>(j);
  for (int p = 0; p < kBlock; ++p) {
    const T inverse = 1 / k[p][p];
    T factor[kBlock];
    for (int i = 0; i < kBlock; ++i) factor[i] = -k[i][p];
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) {
      const int j = v * lanes<T>;
      const auto is_other = load(column + j) != broadcast(static_cast<T>(p));
      const Vec<T> row = (is_other ? load(&k[p][j]) : broadcast(T(1))) * inverse;
      for (int i = 0; i < kBlock; ++i)
        store(&k[i][j], multiply_add<T>(broadcast(factor[i]), row, is_other ? load(&k[i][j]) : Vec<T>{}));
      store(&k[p][j], row);
    }
  }
}

}  // namespace invert_detail

/// Replaces an n x n matrix, its rows `row` entries apart, by its inverse. No pivoting: meant for matrices on which
/// no pivot can vanish, nor one of the Schur complements below: whose symmetric part is at least the identity, or whose
/// rows are diagonally dominant.
/// scratch: n^2 / 2 entries.
template <typename T>
void invert(std::int64_t n, T* k, std::int64_t row, T* scratch) {
  using invert_detail::kBlock;
  if (n <= kBlock) {
    alignas(64) T block[kBlock][kBlock] = {};  // bordered by the identity
    for (std::int64_t i = 0; i < n; ++i) std::copy_n(k + i * row, n, block[i]);
    for (std::int64_t i = n; i < kBlock; ++i) block[i][i] = 1;
    invert_detail::invert_block(block);
    for (std::int64_t i = 0; i < n; ++i) std::copy_n(block[i], n, k + i * row);
    return;
  }
  // With k = [A B; C D], S = D - C A^-1 B and P = -A^-1 B, the inverse is [A^-1 + P C', P S^-1; C', S^-1] where
  // C' = -S^-1 C A^-1.
  const std::int64_t h = (n / 2 + kBlock - 1) / kBlock * kBlock, m = n - h;
  T *const A = k, *const B = k + h, *const C = k + h * row, *const D = C + h, *const P = scratch, *const Q = P + h * m;
  invert(h, A, row, scratch);
  gemm(h, m, h, Strided<T>{A, row, 1}, B, row, P, m, false, 1);
  for (std::int64_t e = 0; e < h * m; ++e) P[e] = -P[e];
  gemm(m, m, h, Strided<T>{C, row, 1}, P, m, D, row, true, 1);
  invert(m, D, row, Q);
  gemm(m, h, h, Strided<T>{C, row, 1}, A, row, Q, h, false, 1);
  for (std::int64_t e = 0; e < h * m; ++e) Q[e] = -Q[e];
  gemm(h, m, m, Strided<T>{P, m, 1}, D, row, B, row, false, 1);
  gemm(m, h, m, Strided<T>{D, row, 1}, Q, h, C, row, false, 1);
  gemm(h, h, m, Strided<T>{P, m, 1}, C, row, A, row, true, 1);
}

}  // namespace ssdml
