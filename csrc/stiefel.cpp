#include "stiefel.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "gemm.h"

namespace ssdml {
namespace {

/// Replaces the n x n matrix by its inverse. Gauss-Jordan without pivoting: meant for matrices whose symmetric part is
/// at least the identity, on which no pivot can vanish.
void invert(std::int64_t n, double* k) {
  for (std::int64_t pivot = 0; pivot < n; ++pivot) {
    double* pivot_row = k + pivot * n;
    const double inverse = 1 / pivot_row[pivot];
    pivot_row[pivot] = 1;
    for (std::int64_t j = 0; j < n; ++j) pivot_row[j] *= inverse;
    for (std::int64_t i = 0; i < n; ++i) {
      if (i == pivot) continue;
      double* row = k + i * n;
      const double factor = row[pivot];
      row[pivot] = 0;
      for (std::int64_t j = 0; j < n; ++j) row[j] -= factor * pivot_row[j];
    }
  }
}

/// gram = L'L, r = (3 I - L'L) / 2; returns the largest |L'L - I|, NaN where L is not finite.
template <typename T>
double newton_schulz(const T* L, std::int64_t d, std::int64_t l, T* gram, T* r, int num_threads) {
  gemm(l, l, d, Strided<T>{L, 1, l}, L, gram, false, num_threads);
  double drift = 0;
  for (std::int64_t i = 0; i < l; ++i)
    for (std::int64_t j = 0; j < l; ++j) {
      const T identity = i == j ? 1 : 0, off = gram[i * l + j] - identity;
      if (!(std::abs(off) <= drift)) drift = static_cast<double>(std::abs(off));
      if (std::isnan(drift)) return drift;
      r[i * l + j] = identity - off / 2;
    }
  return drift;
}

/// The 2l x 2l solve of the header, with L'L = I, collapses to l x l. With B = L'G, a = tau/2 and M = a (G'G - B'B):
///
///   L(tau) = L - tau (G + L (M - B')) K^-1,   K = I + a (B - B') + a M
///
/// B - B' is skew and M positive semidefinite, so K is safely invertible for any step. The Newton-Schulz factor
/// R = (3 I - L'L) / 2 is applied to L through the small matrices, at no cost in d. These are float64: M loses digits
/// where the gradient lies close to the span of L.
template <typename T>
CayleyReport update_one(const T* L, const T* grad, std::int64_t d, std::int64_t l, double step, T* updated,
                        int num_threads) {
  const std::int64_t size = l * l;
  std::vector<T> narrow(4 * size);
  T *gram = &narrow[0], *r = gram + size, *b_raw = r + size, *square = b_raw + size;
  std::vector<double> wide(5 * size);
  double *R = &wide[0], *B = R + size, *M = B + size, *K = M + size, *X = K + size;

  CayleyReport report{newton_schulz(L, d, l, gram, r, num_threads), 0};
  gemm(l, l, d, Strided<T>{L, 1, l}, grad, b_raw, false, num_threads);
  gemm(l, l, d, Strided<T>{grad, 1, l}, grad, square, false, num_threads);

  std::copy(r, r + size, R);
  std::copy(b_raw, b_raw + size, X);
  gemm(l, l, l, Strided<double>{R, l, 1}, X, B, false, num_threads);  // R is symmetric
  gemm(l, l, l, Strided<double>{B, 1, l}, B, K, false, num_threads);
  const double a = step / 2;
  double far = 0;  // how far the step goes: the largest entry of a^2 G'G
  for (std::int64_t e = 0; e < size; ++e) {
    M[e] = a * (static_cast<double>(square[e]) - K[e]);
    far = std::max(far, a * a * std::abs(static_cast<double>(square[e])));
  }
  for (std::int64_t i = 0; i < l; ++i)
    for (std::int64_t j = 0; j < l; ++j)
      K[i * l + j] = (i == j ? 1.0 : 0.0) + a * (B[i * l + j] - B[j * l + i] + M[i * l + j]);
  invert(l, K);

  // updated = L R (I - tau (M - B') K^-1) - tau G K^-1
  for (std::int64_t i = 0; i < l; ++i)
    for (std::int64_t j = 0; j < l; ++j) M[i * l + j] -= B[j * l + i];
  gemm(l, l, l, Strided<double>{M, l, 1}, K, X, false, num_threads);
  for (std::int64_t i = 0; i < l; ++i)
    for (std::int64_t j = 0; j < l; ++j) X[i * l + j] = (i == j ? 1.0 : 0.0) - step * X[i * l + j];
  gemm(l, l, l, Strided<double>{R, l, 1}, X, B, false, num_threads);
  for (std::int64_t e = 0; e < size; ++e) {
    gram[e] = static_cast<T>(B[e]);
    square[e] = static_cast<T>(-step * K[e]);
  }
  gemm(d, l, l, Strided<T>{L, l, 1}, gram, updated, false, num_threads);
  gemm(d, l, l, Strided<T>{grad, l, 1}, square, updated, true, num_threads);

  // Long steps amplify rounding; short ones, as training takes them, need no second look.
  if (!(far < 1)) {
    std::vector<T> before(static_cast<std::size_t>(d * l));
    for (int polish = 0; polish < 4; ++polish) {
      report.updated_drift = newton_schulz(updated, d, l, gram, r, num_threads);
      if (!(report.updated_drift > 16 * std::numeric_limits<T>::epsilon() && report.updated_drift < 0.5)) break;
      std::copy(updated, updated + d * l, before.begin());
      gemm(d, l, l, Strided<T>{before.data(), l, 1}, r, updated, false, num_threads);
    }
  }
  return report;
}

}  // namespace

template <typename T>
CayleyReport cayley_update(const T* L, const T* grad, std::int64_t batch, std::int64_t d, std::int64_t l, double step,
                           T* updated, int num_threads) {
  // Below this many multiply-adds a matrix product is over before a second thread has started.
  constexpr std::int64_t worth_sharing = 1 << 20;
  const int inner = batch == 1 && d * l * l >= worth_sharing ? num_threads : 1;
  [[maybe_unused]] const int outer = batch == 1 ? 1 : num_threads;
  std::vector<CayleyReport> reports(batch);
#pragma omp parallel for num_threads(outer)
  for (std::int64_t i = 0; i < batch; ++i)
    reports[i] = update_one(L + i * d * l, grad + i * d * l, d, l, step, updated + i * d * l, inner);
  CayleyReport worst{0, 0};
  for (const CayleyReport& report : reports) {
    if (!(report.drift <= worst.drift)) worst.drift = report.drift;
    if (!(report.updated_drift <= worst.updated_drift)) worst.updated_drift = report.updated_drift;
  }
  return worst;
}

template CayleyReport cayley_update(const float*, const float*, std::int64_t, std::int64_t, std::int64_t, double,
                                    float*, int);
template CayleyReport cayley_update(const double*, const double*, std::int64_t, std::int64_t, std::int64_t, double,
                                    double*, int);

}  // namespace ssdml
