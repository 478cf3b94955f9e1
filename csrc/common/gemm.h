// Products of row-major matrices, one of them narrow, for the orthogonal updates, the angular loss, slow modes and
// principal axes. No packing: both operands are read where they lie, in slices of depth that stay in the second-level
// cache.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/parallel.h"
#include "common/simd.h"

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
          std::int64_t c_row, bool add, int num_threads) {
  using namespace gemm_detail;
  const std::int64_t strips = (m + kRows - 1) / kRows;
  on_threads(num_threads, [=](std::int64_t thread, std::int64_t team) {
    for (std::int64_t q = 0; q == 0 || q < p; q += kDepth) {  // once at least: a sum of nothing is zero
      const std::int64_t depth = std::min(p - q, kDepth);
      const T* const right = b + q * b_row;
      for (std::int64_t s = strips * thread / team; s < strips * (thread + 1) / team; ++s) {
        std::int64_t i = s * kRows;
        const auto left = [&] { return Strided<T>{a.data + i * a.row + q * a.column, a.row, a.column}; };
        if (i + kRows <= m)
          strip<T, kRows>(n, depth, left(), right, b_row, c + i * c_row, c_row, add || q > 0);
        else
          for (; i < m; ++i) strip<T, 1>(n, depth, left(), right, b_row, c + i * c_row, c_row, add || q > 0);
      }
    }
  });
}

/// The same for b and c without padding between their rows.
template <typename T>
void gemm(std::int64_t m, std::int64_t n, std::int64_t p, Strided<T> a, const T* b, T* c, bool add, int num_threads) {
  gemm(m, n, p, a, b, n, c, n, add, num_threads);
}

/// c (m, n) = a b for an upper triangular b (n, n), all three row-major, b and c with rows b_row and c_row entries
/// apart: the columns of c in panels, each from the rows of b that are not zero there.
template <typename T>
void gemm_triangular(std::int64_t m, std::int64_t n, const T* a, std::int64_t a_row, const T* b, std::int64_t b_row,
                     T* c, std::int64_t c_row, int num_threads) {
  constexpr std::int64_t panel = gemm_detail::kVectors * lanes<T>;
  for (std::int64_t j = 0; j < n; j += panel) {
    const std::int64_t end = j + panel < n ? j + panel : n;
    gemm(m, end - j, end, Strided<T>{a, a_row, 1}, b + j, b_row, c + j, c_row, false, num_threads);
  }
}

/// c (n, n) = a' b for a product that is symmetric, a and b (p, n) row-major: the upper triangle, mirrored.
template <typename T>
void gemm_symmetric(std::int64_t n, std::int64_t p, const T* a, const T* b, T* c, int num_threads) {
  using namespace gemm_detail;
  const std::int64_t strips = (n + kRows - 1) / kRows;
  on_threads(num_threads, [=](std::int64_t thread, std::int64_t team) {
    for (std::int64_t q = 0; q == 0 || q < p; q += kDepth) {
      const std::int64_t depth = std::min(p - q, kDepth);
      for (std::int64_t s = thread; s < strips; s += team) {  // in turn, for strips get shorter
        std::int64_t i = s * kRows;
        const std::int64_t j = i / lanes<T> * lanes<T>;  // loads stay aligned to the rows
        const auto right_of_diagonal = [&]<int rows>() {
          strip<T, rows>(n - j, depth, Strided<T>{a + q * n + i, 1, n}, b + q * n + j, n, c + i * n + j, n, q > 0);
        };
        if (i + kRows <= n)
          right_of_diagonal.template operator()<kRows>();
        else
          for (; i < n; ++i) right_of_diagonal.template operator()<1>();
      }
    }
  });
  for (std::int64_t first = 0; first < n; first += lanes<T>)  // columns whose cache lines are kept meanwhile
    for (std::int64_t i = first + 1; i < n; ++i)
      for (std::int64_t j = first; j < i && j < first + lanes<T>; ++j) c[i * n + j] = c[j * n + i];
}

/// Sum of x[e] y[e].
template <typename T>
double dot(const T* x, const T* y, std::int64_t size) {
  constexpr std::int64_t chains = 4;  // independent sums, to hide the latency of an addition
  Vec<T> sums[chains] = {};
  std::int64_t e = 0;
  for (; e + chains * lanes<T> <= size; e += chains * lanes<T>)
#pragma GCC unroll 4
    for (std::int64_t c = 0; c < chains; ++c)
      sums[c] = multiply_add<T>(load(x + e + c * lanes<T>), load(y + e + c * lanes<T>), sums[c]);
  double total = static_cast<double>(sum<T>((sums[0] + sums[1]) + (sums[2] + sums[3])));
  for (; e < size; ++e) total += static_cast<double>(x[e]) * y[e];
  return total;
}

}  // namespace ssdml
