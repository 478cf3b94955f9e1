#include "stiefel.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "cholesky_qr.h"
#include "gemm.h"
#include "parallel.h"

namespace ssdml {
namespace {

/// Threads over the matrices of a batch, and within each: one matrix is shared out where its products are long enough.
struct Shares {
  int outer, inner;

  Shares(std::int64_t batch, std::int64_t work, int num_threads)
      : outer(batch == 1 ? 1 : threads_for(batch * work / 16, num_threads)),
        inner(batch == 1 ? threads_for(work / 16, num_threads) : 1) {}
};

constexpr std::int64_t kBase = 32;  // smaller matrices are inverted entry by entry

/// Replaces an n x n matrix, its rows `row` entries apart, by its inverse. No pivoting: meant for matrices whose
/// symmetric part is at least the identity, on which no pivot can vanish, nor one of the Schur complements below.
/// scratch: n^2 entries.
template <typename T>
void invert(std::int64_t n, T* k, std::int64_t row, T* scratch) {
  if (n <= kBase) {  // Gauss-Jordan
    for (std::int64_t pivot = 0; pivot < n; ++pivot) {
      T* const pivot_row = k + pivot * row;
      const T inverse = 1 / pivot_row[pivot];
      pivot_row[pivot] = 1;
      for (std::int64_t j = 0; j < n; ++j) pivot_row[j] *= inverse;
      for (std::int64_t i = 0; i < n; ++i) {
        if (i == pivot) continue;
        T* const other = k + i * row;
        const T factor = other[pivot];
        other[pivot] = 0;
        for (std::int64_t j = 0; j < n; ++j) other[j] -= factor * pivot_row[j];
      }
    }
    return;
  }
  // With k = [A B; C D], S = D - C A^-1 B and P = -A^-1 B, the inverse is [A^-1 + P C', P S^-1; C', S^-1] where
  // C' = -S^-1 C A^-1.
  const std::int64_t h = (n / 2 + kBase - 1) / kBase * kBase, m = n - h;
  T *const A = k, *const B = k + h, *const C = k + h * row, *const D = C + h, *const P = scratch, *const Q = P + h * m;
  T* const rest = Q + h * m;
  invert(h, A, row, rest);
  gemm(h, m, h, Strided<T>{A, row, 1}, B, row, P, m, false, 1);
  for (std::int64_t e = 0; e < h * m; ++e) P[e] = -P[e];
  gemm(m, m, h, Strided<T>{C, row, 1}, P, m, D, row, true, 1);
  invert(m, D, row, rest);
  gemm(m, h, h, Strided<T>{C, row, 1}, A, row, Q, h, false, 1);
  for (std::int64_t e = 0; e < h * m; ++e) Q[e] = -Q[e];
  gemm(h, m, m, Strided<T>{P, m, 1}, D, row, B, row, false, 1);
  gemm(m, h, m, Strided<T>{D, row, 1}, Q, h, C, row, false, 1);
  gemm(h, h, m, Strided<T>{P, m, 1}, C, row, A, row, true, 1);
}

/// gram = L'L, r = (3 I - L'L) / 2; returns the largest |L'L - I|, NaN where L is not finite.
template <typename T>
double newton_schulz(const T* L, std::int64_t d, std::int64_t l, T* gram, T* r, int num_threads) {
  const double drift = orthonormality_error(L, d, l, gram, num_threads);
  for (std::int64_t i = 0; i < l; ++i)
    for (std::int64_t j = 0; j < l; ++j) {
      const T identity = i == j ? 1 : 0;
      r[i * l + j] = identity - (gram[i * l + j] - identity) / 2;
    }
  return drift;
}

/// The 2l x 2l solve of the header, with L'L = I, collapses to l x l. With B = L'G, a = tau/2, N = a (G'G - B'B) - B'
/// and K = I + a (B + N):
///
///   L(tau) = L (I - tau N K^-1) - tau G K^-1
///
/// B - B' is skew and G'G - B'B positive semidefinite, so K is safely invertible for any step. L stands for L R, where
/// R = (3 I - L'L) / 2 is the Newton-Schulz factor: it is applied through the small matrices, at no cost in d.
/// In: r, b = L'G and square = G'G. Out: what L and G are to be multiplied by. W: the type to compute in.
template <typename W, typename T>
void coefficients(std::int64_t l, W a, const T* r, const T* b, const T* square, T* on_l, T* on_grad) {
  const std::int64_t size = l * l;
  std::vector<W> work(6 * size);
  W *R = &work[0], *B = R + size, *N = B + size, *K = N + size, *X = K + size, *scratch = X + size;
  std::copy(r, r + size, R);
  std::copy(b, b + size, X);
  gemm(l, l, l, Strided<W>{R, l, 1}, X, B, false, 1);
  gemm_symmetric(l, l, B, B, X, 1);
  for (std::int64_t i = 0; i < l; ++i)
    for (std::int64_t j = 0; j < l; ++j) {
      const std::int64_t e = i * l + j;
      N[e] = a * (static_cast<W>(square[e]) - X[e]) - B[j * l + i];
      K[e] = (i == j ? W(1) : W(0)) + a * (B[e] + N[e]);
    }
  invert(l, K, l, scratch);
  gemm(l, l, l, Strided<W>{N, l, 1}, K, X, false, 1);
  gemm(l, l, l, Strided<W>{R, l, 1}, X, N, false, 1);
  for (std::int64_t e = 0; e < size; ++e) {
    on_l[e] = static_cast<T>(R[e] - 2 * a * N[e]);
    on_grad[e] = static_cast<T>(-2 * a * K[e]);
  }
}

template <typename T>
CayleyReport update_one(const T* L, const T* grad, std::int64_t d, std::int64_t l, double step, T* updated,
                        int num_threads) {
  const std::int64_t size = l * l;
  std::vector<T> work(6 * size);
  T *gram = &work[0], *r = gram + size, *b = r + size, *square = b + size, *on_l = square + size,
    *on_grad = on_l + size;

  CayleyReport report{newton_schulz(L, d, l, gram, r, num_threads), 0};
  gemm(l, l, d, Strided<T>{L, 1, l}, grad, b, false, num_threads);
  gemm_symmetric(l, d, grad, grad, square, num_threads);
  const double a = step / 2;
  double far = 0;  // how far the step goes: the largest entry of a^2 G'G, which lies on the diagonal
  for (std::int64_t i = 0; i < l; ++i) far = std::max(far, a * a * static_cast<double>(square[i * l + i]));
  const bool is_long = !(far < 1);
  if (is_long)  // the difference of large numbers in K needs more digits than they have
    coefficients<double>(l, a, r, b, square, on_l, on_grad);
  else
    coefficients<T>(l, static_cast<T>(a), r, b, square, on_l, on_grad);
  gemm(d, l, l, Strided<T>{L, l, 1}, on_l, updated, false, num_threads);
  gemm(d, l, l, Strided<T>{grad, l, 1}, on_grad, updated, true, num_threads);

  // Long steps amplify rounding; short ones, as training takes them, need no second look.
  if (is_long) {
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
  const Shares shares(batch, d * l * l, num_threads);
  std::vector<CayleyReport> reports(batch);
#pragma omp parallel for num_threads(shares.outer)
  for (std::int64_t i = 0; i < batch; ++i)
    reports[i] = update_one(L + i * d * l, grad + i * d * l, d, l, step, updated + i * d * l, shares.inner);
  CayleyReport worst{0, 0};
  for (const CayleyReport& report : reports) {
    if (!(report.drift <= worst.drift)) worst.drift = report.drift;
    if (!(report.updated_drift <= worst.updated_drift)) worst.updated_drift = report.updated_drift;
  }
  return worst;
}

template <typename T>
RetractionReport qr_retraction(const T* L, const T* direction, std::int64_t batch, std::int64_t d, std::int64_t l, T* q,
                               int num_threads) {
  constexpr double trusted = 16;  // largest diagonal entry over smallest pivot of the Gram matrix
  const Shares shares(batch, d * l * l, num_threads);
  std::vector<RetractionReport> reports(batch);
#pragma omp parallel for num_threads(shares.outer)
  for (std::int64_t i = 0; i < batch; ++i) {
    const T *const at = L + i * d * l, *const along = direction + i * d * l;
    std::vector<T> gram(l * l), moved(d * l);
    reports[i].drift = orthonormality_error(at, d, l, gram.data(), shares.inner);
    for (std::int64_t e = 0; e < d * l; ++e) moved[e] = at[e] + along[e];
    reports[i].is_accurate = CholeskyQr<T>(d, l)(moved.data(), q + i * d * l, shares.inner) <= trusted;
  }
  RetractionReport worst{0, true};
  for (const RetractionReport& report : reports) {
    if (!(report.drift <= worst.drift)) worst.drift = report.drift;
    worst.is_accurate &= report.is_accurate;
  }
  return worst;
}

template CayleyReport cayley_update(const float*, const float*, std::int64_t, std::int64_t, std::int64_t, double,
                                    float*, int);
template CayleyReport cayley_update(const double*, const double*, std::int64_t, std::int64_t, std::int64_t, double,
                                    double*, int);
template RetractionReport qr_retraction(const float*, const float*, std::int64_t, std::int64_t, std::int64_t, float*,
                                        int);
template RetractionReport qr_retraction(const double*, const double*, std::int64_t, std::int64_t, std::int64_t, double*,
                                        int);

}  // namespace ssdml
