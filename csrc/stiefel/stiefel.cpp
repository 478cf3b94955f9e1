#include "stiefel/stiefel.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "common/buffer.h"
#include "common/cholesky_qr.h"
#include "common/gemm.h"
#include "common/invert.h"
#include "common/orthonormal.h"
#include "common/parallel.h"

namespace ssdml {
namespace {

/// Threads over the matrices of a batch, and within each: one matrix is shared out where its products are so long that
/// they are worth the starts of several parallel regions, which benchmarks/bench_stiefel.py measures.
struct Shares {
  int outer, inner;

  Shares(std::int64_t batch, std::int64_t work, int num_threads)
      : outer(batch == 1 ? 1 : threads_for(batch * work / 16, num_threads)),
        inner(batch == 1 ? threads_for(work / 512, num_threads) : 1) {}
};

/// Calls f(first, count, buffer) for blocks of the rows 0 .. d - 1, with room for one block of l columns.
template <typename T, typename F>
void each_block(std::int64_t d, std::int64_t l, int num_threads, F f) {
  constexpr std::int64_t rows = 64;
  const std::int64_t blocks = (d + rows - 1) / rows;
  const auto buffers = std::make_unique_for_overwrite<T[]>(num_threads * rows * l);
  in_shares(blocks, num_threads, [&](std::int64_t first, std::int64_t last, int thread) {
    for (std::int64_t i = first; i < last; ++i)
      f(i * rows, std::min(rows, d - i * rows), buffers.get() + thread * rows * l);
  });
}

/// polished (d, l), which may be L itself, = L (I - off / 2), where off = L'L - I, which is overwritten: one
/// Newton-Schulz step.
template <typename T>
void newton_schulz(const T* L, std::int64_t d, std::int64_t l, T* off, T* polished, int num_threads) {
  for (std::int64_t e = 0; e < l * l; ++e) off[e] /= -2;
  each_block<T>(d, l, num_threads, [&](std::int64_t first, std::int64_t count, T* buffer) {
    std::copy_n(L + first * l, count * l, buffer);
    std::copy_n(buffer, count * l, polished + first * l);
    gemm(count, l, l, Strided<T>{buffer, l, 1}, off, polished + first * l, true, 1);
  });
}

/// The 2l x 2l solve of the header, with L'L = I, collapses to l x l. With B = L'G, W = G - L B the part of G that is
/// orthogonal to L, a = tau/2 and K = I + a (B - B') + a^2 W'W:
///
///   L(tau) = (2 L - tau W) K^-1 - L = (L - tau W) + (2 L - tau W) (I - K) K^-1
///
/// B - B' is skew and W'W positive semidefinite, so K is safely invertible for any step. The second form adds what is
/// small to what is large, so that short steps cost L hardly a rounding.
template <typename T>
CayleyReport update_one(const T* L, const T* grad, std::int64_t d, std::int64_t l, double step, T* updated,
                        int num_threads) {
  const std::int64_t size = l * l;
  const Buffer<T> work = make_scratch<T>(3 * size + size / 2);
  T *const b = work.get(), *const gram = b + size, *const k = gram + size, *const scratch = k + size,
           *const w = updated;
  const T tau = static_cast<T>(step), a = tau / 2;

  CayleyReport report{orthonormality_error(L, d, l, gram, num_threads), 0};
  // How far the step goes bounds how much the Cayley transform amplifies rounding and the error of L: while it is less
  // than 1, an error of L grows to 9 times its size at most.
  const bool is_long = !(step * step / 4 * dot(grad, grad, d * l) < 1);
  std::unique_ptr<T[]> polished;
  if (is_long || report.drift > kOrthonormal<T>) {
    polished = std::make_unique_for_overwrite<T[]>(d * l);
    newton_schulz(L, d, l, gram, polished.get(), num_threads);
    L = polished.get();
  }

  gemm(l, l, d, Strided<T>{L, 1, l}, grad, b, false, num_threads);
  for (std::int64_t e = 0; e < size; ++e) b[e] = -b[e];
  each_block<T>(d, l, num_threads, [&](std::int64_t first, std::int64_t count, T*) {
    std::copy_n(grad + first * l, count * l, w + first * l);
    gemm(count, l, l, Strided<T>{L + first * l, l, 1}, b, w + first * l, true, 1);
  });
  gemm_symmetric(l, d, w, w, gram, num_threads);
  constexpr std::int64_t block = 16;  // columns of b whose cache lines are kept while its rows are passed
  for (std::int64_t first = 0; first < l; first += block)
    for (std::int64_t i = first; i < l; ++i)
      for (std::int64_t j = first; j < std::min(first + block, i + 1); ++j) {
        const T skew = a * (b[j * l + i] - b[i * l + j]), even = a * a * gram[i * l + j];
        b[i * l + j] = -even - skew;  // from now on I - K
        b[j * l + i] = skew - even;
      }
  for (std::int64_t e = 0; e < size; ++e) k[e] = -b[e];
  for (std::int64_t i = 0; i < l; ++i) k[i * l + i] += 1;
  invert(l, k, l, scratch);
  // From now on K^-1 - I, whose diagonal a difference would leave few digits of: that of K^-1 (I - K) is a sum of
  // products of rows, for the transpose of I - K is its negative up to twice its even part.
  for (std::int64_t i = 0; i < l; ++i) {
    T *const row = b + i * l, *const inverse = k + i * l;
    for (std::int64_t j = 0; j < l; ++j) row[j] = -2 * a * a * gram[i * l + j] - row[j];
    inverse[i] = is_long ? inverse[i] - 1 : static_cast<T>(dot(inverse, row, l));
  }
  each_block<T>(d, l, num_threads, [&](std::int64_t first, std::int64_t count, T* left) {
    const T* const from = L + first * l;
    T* const to = updated + first * l;  // where W is
    for (std::int64_t e = 0; e < count * l; ++e) {
      to[e] = from[e] - tau * to[e];
      left[e] = from[e] + to[e];
    }
    gemm(count, l, l, Strided<T>{left, l, 1}, k, to, true, 1);
  });

  // Long steps amplify rounding; short ones, as training takes them, need no second look.
  if (is_long) {
    for (int polish = 0; polish < 4; ++polish) {
      report.updated_drift = orthonormality_error(updated, d, l, gram, num_threads);
      if (!(report.updated_drift > 2 * kOrthonormal<T> && report.updated_drift < 0.5)) break;
      newton_schulz(updated, d, l, gram, updated, num_threads);
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
  in_shares(batch, shares.outer, [&](std::int64_t first, std::int64_t last, int) {
    for (std::int64_t i = first; i < last; ++i)
      reports[i] = update_one(L + i * d * l, grad + i * d * l, d, l, step, updated + i * d * l, shares.inner);
  });
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
  const Shares shares(batch, d * l * l, num_threads);
  std::vector<RetractionReport> reports(batch);
  const auto retract = [&](std::int64_t i) {
    const T *const at = L + i * d * l, *const along = direction + i * d * l;
    const auto work = std::make_unique_for_overwrite<T[]>(2 * l * l + d * l);
    T *const gram = work.get(), *const inverse = gram + l * l, *const moved = inverse + l * l;
    reports[i].drift = orthonormality_error(at, d, l, gram, shares.inner);
    for (std::int64_t e = 0; e < d * l; ++e) moved[e] = at[e] + along[e];
    gemm_symmetric(l, d, moved, moved, gram, shares.inner);
    reports[i].is_accurate = invert_cholesky(l, gram, inverse) <= kTrustedCondition;
    if (reports[i].is_accurate) gemm_triangular(d, l, moved, l, inverse, l, q + i * d * l, l, shares.inner);
  };
  in_shares(batch, shares.outer, [&](std::int64_t first, std::int64_t last, int) {
    for (std::int64_t i = first; i < last; ++i) retract(i);
  });
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
