#include "stiefel.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "gemm.h"

namespace ssdml {
namespace {

/// Replaces the n x n matrix by its inverse. Gauss-Jordan without pivoting: meant for matrices whose symmetric part is
/// at least the identity, on which no pivot can vanish.
template <typename T>
void invert(std::int64_t n, T* k) {
  for (std::int64_t pivot = 0; pivot < n; ++pivot) {
    T* pivot_row = k + pivot * n;
    const T inverse = 1 / pivot_row[pivot];
    pivot_row[pivot] = 1;
    for (std::int64_t j = 0; j < n; ++j) pivot_row[j] *= inverse;
    for (std::int64_t i = 0; i < n; ++i) {
      if (i == pivot) continue;
      T* row = k + i * n;
      const T factor = row[pivot];
      row[pivot] = 0;
      for (std::int64_t j = 0; j < n; ++j) row[j] -= factor * pivot_row[j];
    }
  }
}

/// The 2l x 2l solve of the header, with L'L = I, collapses to l x l. With B = L'G, a = tau/2 and M = a (G'G - B'B):
///
///   L(tau) = L - tau (G + L (M - B')) K^-1,   K = I + a (B - B') + a M
///
/// B - B' is skew and M positive semidefinite, so K is safely invertible for any step. The Newton-Schulz factor
/// R = (3 I - L'L) / 2 is applied to L through the small matrices, at no cost in d.
template <typename T>
double update_one(const T* L, const T* grad, std::int64_t d, std::int64_t l, T step, T* updated, int num_threads) {
  const std::int64_t size = l * l;
  std::vector<T> work(8 * size);
  T *gram = &work[0], *r = gram + size, *b_raw = r + size, *b = b_raw + size, *m = b + size, *k = m + size,
    *x2 = k + size, *on_l = x2 + size;
  const Strided<T> L_transposed{L, 1, l}, grad_transposed{grad, 1, l};

  gemm(l, l, d, L_transposed, L, gram, false, num_threads);
  double drift = 0;
  for (std::int64_t i = 0; i < l; ++i)
    for (std::int64_t j = 0; j < l; ++j) {
      const T identity = i == j ? 1 : 0;
      drift = std::max(drift, static_cast<double>(std::abs(gram[i * l + j] - identity)));
      r[i * l + j] = (3 * identity - gram[i * l + j]) / 2;
    }

  gemm(l, l, d, L_transposed, grad, b_raw, false, num_threads);
  gemm(l, l, l, Strided<T>{r, l, 1}, b_raw, b, false, num_threads);  // R is symmetric
  gemm(l, l, d, grad_transposed, grad, m, false, num_threads);
  gemm(l, l, l, Strided<T>{b, 1, l}, b, k, false, num_threads);
  const T a = step / 2;
  for (std::int64_t e = 0; e < size; ++e) m[e] = a * (m[e] - k[e]);
  for (std::int64_t i = 0; i < l; ++i)
    for (std::int64_t j = 0; j < l; ++j) {
      const T skew = b[i * l + j] - b[j * l + i];
      k[i * l + j] = (i == j ? T(1) : T(0)) + a * (skew + m[i * l + j]);
    }
  invert(l, k);

  // updated = L R (I - tau (M - B') K^-1) - tau G K^-1
  for (std::int64_t i = 0; i < l; ++i)
    for (std::int64_t j = 0; j < l; ++j) m[i * l + j] -= b[j * l + i];
  gemm(l, l, l, Strided<T>{m, l, 1}, k, x2, false, num_threads);
  for (std::int64_t i = 0; i < l; ++i)
    for (std::int64_t j = 0; j < l; ++j) x2[i * l + j] = (i == j ? T(1) : T(0)) - step * x2[i * l + j];
  gemm(l, l, l, Strided<T>{r, l, 1}, x2, on_l, false, num_threads);
  for (std::int64_t e = 0; e < size; ++e) k[e] *= -step;
  gemm(d, l, l, Strided<T>{L, l, 1}, on_l, updated, false, num_threads);
  gemm(d, l, l, Strided<T>{grad, l, 1}, k, updated, true, num_threads);
  return drift;
}

}  // namespace

template <typename T>
double cayley_update(const T* L, const T* grad, std::int64_t batch, std::int64_t d, std::int64_t l, double step,
                     T* updated, int num_threads) {
  // Below this many multiply-adds a matrix product is over before a second thread has started.
  constexpr std::int64_t worth_sharing = 1 << 20;
  const int inner = batch == 1 && d * l * l >= worth_sharing ? num_threads : 1;
  const int outer = batch == 1 ? 1 : num_threads;
  double drift = 0;
#pragma omp parallel for num_threads(outer) reduction(max : drift)
  for (std::int64_t i = 0; i < batch; ++i) {
    const std::int64_t at = i * d * l;
    drift = std::max(drift, update_one(L + at, grad + at, d, l, static_cast<T>(step), updated + at, inner));
  }
  return drift;
}

template double cayley_update(const float*, const float*, std::int64_t, std::int64_t, std::int64_t, double, float*,
                              int);
template double cayley_update(const double*, const double*, std::int64_t, std::int64_t, std::int64_t, double, double*,
                              int);

}  // namespace ssdml
