// What makes a tall, well-conditioned matrix Y orthonormal: Y'Y = R'R and Q = Y R^-1, so that Y = QR.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>

#include "common/check.h"
#include "common/gemm.h"

namespace ssdml {

/// The largest |X'X - I| of X (d, l), infinite or NaN where X is not finite; off (l, l) receives X'X - I.
template <typename T>
double orthonormality_error(const T* x, std::int64_t d, std::int64_t l, T* off, int num_threads) {
  gemm_symmetric(l, d, x, x, off, num_threads);
  for (std::int64_t i = 0; i < l; ++i) off[i * l + i] -= 1;
  return static_cast<double>(largest_magnitude(off, l * l));
}

namespace cholesky_detail {

inline constexpr int kBlock = 16;
template <typename T>
using Block = T[kBlock][kBlock];

/// x, the identity on entry, becomes R^-T for s = R'R, which is overwritten: what eliminates s below its diagonal.
/// Returns the smallest pivot, or 0 where one is not positive and finite.
template <typename T>
T invert_factor(Block<T>& s, Block<T>& x) {
  constexpr int vectors = kBlock / lanes<T>;
  T smallest = std::numeric_limits<T>::infinity();
  for (int p = 0; p < kBlock; ++p) {
    const T pivot = s[p][p];
    if (!(pivot > 0 && std::isfinite(pivot))) return 0;
    smallest = std::min(smallest, pivot);
    const T scale = 1 / std::sqrt(pivot);
    for (auto* block : {&s, &x})
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) {
        T* const row = &(*block)[p][v * lanes<T>];
        store(row, load(row) * scale);
      }
    for (int i = p + 1; i < kBlock; ++i) {
      const Vec<T> factor = broadcast(-s[p][i]);
      for (auto* block : {&s, &x})
#pragma GCC unroll 8
        for (int v = 0; v < vectors; ++v) {
          T* const row = &(*block)[i][v * lanes<T>];
          store(row, multiply_add<T>(factor, load(&(*block)[p][v * lanes<T>]), load(row)));
        }
    }
  }
  return smallest;
}

}  // namespace cholesky_detail

/// inverse (n, n) = R^-1, upper triangular, for s (n, n) = R'R with positive diagonal of R. s, of which the upper
/// triangle is read, is overwritten. Returns the condition that entitles one to trust it: the largest diagonal entry of
/// s over the smallest pivot; infinity where s is not positive definite.
template <typename T>
double invert_cholesky(std::int64_t n, T* s, T* inverse) {
  using namespace cholesky_detail;
  T largest = 0, smallest = std::numeric_limits<T>::infinity();
  for (std::int64_t i = 0; i < n; ++i) largest = std::max(largest, s[i * n + i]);
  std::fill(inverse, inverse + n * n, T(0));
  const auto panel = std::make_unique_for_overwrite<T[]>(kBlock * n);
  // Each block of rows of R is found and taken from the rows below. -R is kept where s was.
  for (std::int64_t first = 0; first < n; first += kBlock) {
    const std::int64_t after = std::min(first + kBlock, n), width = after - first, rest = n - after;
    alignas(64) Block<T> diagonal = {}, x = {};
    for (int i = 0; i < kBlock; ++i) {
      x[i][i] = 1;
      if (i < width)
        std::copy_n(s + (first + i) * n + first, width, diagonal[i]);
      else
        diagonal[i][i] = largest;  // bordered by what is not the smallest
    }
    const T pivot = invert_factor(diagonal, x);
    if (!(pivot > 0)) return std::numeric_limits<double>::infinity();
    smallest = std::min(smallest, pivot);
    for (std::int64_t i = 0; i < width; ++i)
      for (std::int64_t j = i; j < width; ++j) inverse[(first + i) * n + first + j] = x[j][i];
    T* const right = s + first * n + after;
    gemm(width, rest, width, Strided<T>{x[0], kBlock, 1}, right, n, panel.get(), rest, false, 1);
    for (std::int64_t i = 0; i < width; ++i)
      for (std::int64_t j = 0; j < rest; ++j) right[i * n + j] = -panel[i * rest + j];
    for (std::int64_t i = 0; i < rest; i += kBlock)
      gemm(std::min<std::int64_t>(kBlock, rest - i), rest - i, width, Strided<T>{panel.get() + i, 1, rest}, right + i,
           n, s + (after + i) * n + after + i, n, true, 1);
  }
  for (std::int64_t first = (n - 1) / kBlock * kBlock - kBlock; first >= 0; first -= kBlock) {
    const std::int64_t after = first + kBlock, rest = n - after;
    T* const rows = inverse + first * n;
    gemm_triangular(kBlock, rest, s + first * n + after, n, inverse + after * n + after, n, panel.get(), rest, 1);
    gemm(kBlock, rest, kBlock, Strided<T>{rows + first, n, 1}, panel.get(), rest, rows + after, n, false, 1);
  }
  return static_cast<double>(largest) / static_cast<double>(smallest);
}

}  // namespace ssdml
