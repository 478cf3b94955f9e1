// QR decomposition of a tall, well-conditioned matrix by way of its Gram matrix.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "gemm.h"

namespace ssdml {

/// The largest |X'X - I| of X (d, l), NaN where X is not finite; gram (l, l) receives X'X.
template <typename T>
double orthonormality_error(const T* x, std::int64_t d, std::int64_t l, T* gram, int num_threads) {
  gemm_symmetric(l, d, x, x, gram, num_threads);
  double largest = 0;
  for (std::int64_t i = 0; i < l; ++i)
    for (std::int64_t j = 0; j < l; ++j) {
      const double off = std::abs(static_cast<double>(gram[i * l + j]) - (i == j ? 1.0 : 0.0));
      if (!(off <= largest)) largest = off;
      if (std::isnan(largest)) return largest;
    }
  return largest;
}

/// Y = QR with positive diagonal of R; scratch for matrices (d, l).
template <typename T>
class CholeskyQr {
 public:
  CholeskyQr(std::int64_t d, std::int64_t l) : d_(d), l_(l), r_(l * l), inverse_(l * l) {}

  /// q (d, l) = Q. Returns the condition that entitles one to trust it: the largest diagonal entry of Y'Y over the
  /// smallest pivot; infinity where Y'Y is not positive definite, q is then untouched.
  double operator()(const T* y, T* q, int num_threads) {
    gemm_symmetric(l_, d_, y, y, r_.data(), num_threads);
    T largest = 0, smallest = std::numeric_limits<T>::infinity();
    for (std::int64_t i = 0; i < l_; ++i) largest = std::max(largest, r_[i * l_ + i]);
    for (std::int64_t i = 0; i < l_; ++i) {  // Y'Y = R'R, R in the upper triangle
      T* const row = &r_[i * l_];
      if (!(row[i] > 0 && std::isfinite(row[i]))) return std::numeric_limits<double>::infinity();
      smallest = std::min(smallest, row[i]);
      const T scale = 1 / std::sqrt(row[i]);
      for (std::int64_t j = i; j < l_; ++j) row[j] *= scale;
      for (std::int64_t k = i + 1; k < l_; ++k)
        for (std::int64_t j = k; j < l_; ++j) r_[k * l_ + j] -= row[k] * row[j];
    }
    std::fill(inverse_.begin(), inverse_.end(), T(0));
    for (std::int64_t i = l_ - 1; i >= 0; --i) {
      T* const row = &inverse_[i * l_];
      const T scale = 1 / r_[i * l_ + i];
      for (std::int64_t k = i + 1; k < l_; ++k)
        for (std::int64_t j = k; j < l_; ++j) row[j] -= scale * r_[i * l_ + k] * inverse_[k * l_ + j];
      row[i] = scale;
    }
    gemm(d_, l_, l_, Strided<T>{y, l_, 1}, inverse_.data(), q, false, num_threads);
    return static_cast<double>(largest) / static_cast<double>(smallest);
  }

 private:
  std::int64_t d_, l_;
  std::vector<T> r_, inverse_;
};

}  // namespace ssdml
