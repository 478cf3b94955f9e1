// Slow modes of the walk, and how a panel is freed of them.
//
// Q has few eigenvalues near 1, one for every weakly connected cluster; what else v contains dies out within some tens
// of sweeps. An oblique projection takes those modes out of v = Q^t e_j: with any matrix Z and V = P^-1 Z,
//
//   P v = P (v - V c) + Z c        whatever c is,
//
// so how well Z spans the slow modes decides the speed, never the correctness. Z and the left modes U come from
// orthogonal iteration with Q and Q'; c = (U' V)^-1 U' Q^t e_j is row j of one (n, modes) matrix for all columns.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "affinity_walk.h"
#include "gemm.h"
#include "simd.h"

namespace ssdml::walk {

template <typename T>
class Modes {
 public:
  static constexpr std::int64_t kBlock = 16;  // terms summed before they join the others

  /// Modes to be taken out after `sweeps` sweeps. There are none (count() == 0) where the iteration breaks down, or
  /// where `proceed`, called between sweeps, says false.
  template <typename Proceed>
  Modes(const Graph& graph, std::int64_t wanted, double gamma, int sweeps, int num_threads, const Proceed& proceed)
      : n_(graph.n), m_(wanted), sweeps_(sweeps), threads_(num_threads) {
    if (m_ == 0 || !find(graph, gamma, proceed)) {
      m_ = 0;
      solved_.clear(), basis_.clear(), coefficients_.clear();
    }
  }

  std::int64_t count() const { return m_; }
  int sweeps() const { return sweeps_; }
  /// c of the column that starts at place p.
  const T* coefficients(std::int64_t p) const { return &coefficients_[p * m_]; }
  /// Row p of Z.
  const T* solved(std::int64_t p) const { return &solved_[p * m_]; }
  double solved_norm() const { return solved_norm_; }

  /// v <- v - V c for a panel, c as (count(), kWidth). Returns the range.
  template <typename P>
  Range<P> remove(const Line<P>* c, Line<P>* v) const {
    constexpr std::int64_t kRows = vector_registers == 32 ? 8 : 4;
    constexpr int kPieces = 64 / vector_bytes;  // registers to a line
    Line<P> low = fill(std::numeric_limits<P>::infinity()), high = -low;
    for (std::int64_t p = 0; p < n_; p += kRows) {
      const std::int64_t rows = std::min(kRows, n_ - p);
      Line<P> total[kRows] = {};
      for (std::int64_t a = 0; a < m_; a += kBlock) {
        const T* row[kRows];
        for (std::int64_t i = 0; i < kRows; ++i) row[i] = &basis_[(p + std::min(i, rows - 1)) * m_ + a];
        for (int q = 0; q < kPieces; ++q) {
          Vec<P> part[kRows] = {};
#pragma GCC unroll 1  // else GCC transposes what it should broadcast
          for (std::int64_t b = 0; b < kBlock; ++b) {
            const Vec<P> factor = load(reinterpret_cast<const P*>(&c[a + b]) + q * lanes<P>);
#pragma GCC unroll 8
            for (std::int64_t i = 0; i < kRows; ++i)
              part[i] = multiply_add<P>(broadcast(static_cast<P>(row[i][b])), factor, part[i]);
          }
#pragma GCC unroll 8
          for (std::int64_t i = 0; i < kRows; ++i) {
            P* at = reinterpret_cast<P*>(&total[i]) + q * lanes<P>;
            store(at, load(at) + part[i]);
          }
        }
      }
      for (std::int64_t i = 0; i < rows; ++i) {
        const Line<P> rest = v[p + i] - total[i];
        low = smaller<P>(low, rest);
        high = larger<P>(high, rest);
        v[p + i] = rest;
      }
    }
    return {low, high};
  }

  /// Bounds the error of `remove` in the largest entry, where |v| <= size and |c| = norm: rounding of the sums, and of
  /// V.
  template <typename P>
  double remove_rounding(double size, double norm) const {
    const double sums = 1.01 * unit_roundoff<P> * static_cast<double>(kBlock + m_ / kBlock + 3);
    return sums * size + (sums + 1.01 * unit_roundoff<T>)*basis_norm_ * norm +
           basis_error_ * std::sqrt(static_cast<double>(m_)) * norm;
  }

 private:
  // Sweeps of the iterations for Z and U. More do not pay; fewer leave columns that need hundreds of sweeps.
  static constexpr int kRight = 48, kLeft = 60;

  template <typename Proceed>
  bool find(const Graph& graph, double gamma, const Proceed& proceed) {
    std::vector<T> right(n_ * m_), left(n_ * m_), other(n_ * m_);
    if (!iterate(graph, false, kRight, right, other, proceed)) return false;
    if (!iterate(graph, true, kLeft, left, other, proceed)) return false;
    // Z such that V is nearly orthonormal: no cancellation in V c. What V is, is known in float64.
    solved_ = std::move(right);
    basis_.resize(n_ * m_);
    restart(graph, gamma);
    std::vector<double> factor(m_ * m_);
    if (!triangular_inverse(basis_, factor)) return false;
    multiply(solved_, {factor.begin(), factor.end()}, other);
    solved_.swap(other);
    restart(graph, gamma);

    // Coefficients: rows of (Q')^t U, times the inverse of V' U.
    std::vector<T> product(m_ * m_);
    multiply_transposed(basis_, left, product);
    std::vector<double> inverse(product.begin(), product.end());
    if (!invert(inverse)) return false;
    for (int s = 0; s < sweeps_; ++s) advance(graph, true, left, other);
    coefficients_.resize(n_ * m_);
    multiply(left, {inverse.begin(), inverse.end()}, coefficients_);
    return std::all_of(coefficients_.begin(), coefficients_.end(), [](T x) { return std::isfinite(x); });
  }

  /// Orthogonal iteration with Q, or Q', from a random block. Orthonormalised seldom, or more often where that makes
  /// the columns dependent; false if they are dependent even so.
  template <typename Proceed>
  bool iterate(const Graph& graph, bool back, int sweeps, std::vector<T>& x, std::vector<T>& other,
               const Proceed& proceed) const {
    for (const int between : {12, 4, 1}) {
      start(back, x);
      bool independent = true;
      for (int s = 1; s <= sweeps && independent; ++s) {
        if (!proceed()) return false;
        advance(graph, back, x, other);
        if (s % between == 0) independent = orthonormalise(x, other);
      }
      if (independent) return true;
    }
    return false;
  }

  /// V = (Z - gamma Q Z) / (1 - gamma).
  void restart(const Graph& graph, double gamma) {
    double largest = 0, basis_norm = 0, solved_norm = 0;
#pragma omp parallel for num_threads(threads_) reduction(max : largest, basis_norm, solved_norm)
    for (std::int64_t p = 0; p < n_; ++p) {
      double basis_square = 0, solved_square = 0;
      for (std::int64_t a = 0; a < m_; ++a) {
        double sum = 0;
        for (std::int64_t r = 0; r < graph.k; ++r) sum += solved_[graph.out[p * graph.k + r] * m_ + a];
        const double z = solved_[p * m_ + a], v = (z - gamma * sum / graph.k) / (1 - gamma);
        basis_[p * m_ + a] = static_cast<T>(v);
        largest = std::max(largest, std::abs(z));
        basis_square += v * v;
        solved_square += z * z;
      }
      basis_norm = std::max(basis_norm, std::sqrt(basis_square));
      solved_norm = std::max(solved_norm, std::sqrt(solved_square));
    }
    basis_norm_ = 1.01 * basis_norm;
    solved_norm_ = 1.01 * solved_norm;
    basis_error_ = unit_roundoff<double> * 2 * (graph.k + 8) * largest / (1 - gamma);
  }

  /// A reproducible random block.
  static void start(std::uint64_t seed, std::vector<T>& x) {
    std::uint64_t state = seed;
    for (T& entry : x) {
      std::uint64_t z = state += 0x9e3779b97f4a7c15u;  // splitmix64
      z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
      z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
      entry = static_cast<T>(static_cast<double>((z ^ (z >> 31)) >> 40) * 0x1p-23 - 1);
    }
  }

  /// x <- Q x, or Q' x; `other` is room for the result.
  void advance(const Graph& graph, bool back, std::vector<T>& x, std::vector<T>& other) const {
    const Line<T> share = fill(T(1) / static_cast<T>(graph.k));
    const std::int64_t lines = m_ / kWidth<T>;
#pragma omp parallel for num_threads(threads_) schedule(static)
    for (std::int64_t p = 0; p < n_; ++p) {
      const std::int32_t* at = back ? &graph.in[0] + graph.in_ptr[p] : &graph.out[p * graph.k];
      const std::int64_t count = back ? graph.in_degree(p) : graph.k;
      for (std::int64_t l = 0; l < lines; ++l) {
        Line<T> sum{};
        for (std::int64_t r = 0; r < count; ++r) sum += at_line(x, at[r], l);
        sum *= share;
        std::memcpy(&other[p * m_ + l * kWidth<T>], &sum, sizeof sum);
      }
    }
    x.swap(other);
  }

  Line<T> at_line(const std::vector<T>& x, std::int64_t p, std::int64_t l) const {
    Line<T> v;
    std::memcpy(&v, &x[p * m_ + l * kWidth<T>], sizeof v);
    return v;
  }

  /// product = x' y, (m, m), in pieces that stay in cache.
  void multiply_transposed(const std::vector<T>& x, const std::vector<T>& y, std::vector<T>& product) const {
    constexpr std::int64_t piece = 256;
    std::fill(product.begin(), product.end(), T(0));
    for (std::int64_t p = 0; p < n_; p += piece)
      gemm<T>(m_, m_, std::min(piece, n_ - p), {&x[p * m_], 1, m_}, &y[p * m_], product.data(), true, threads_);
  }

  /// product = x y for an (m, m) y.
  void multiply(const std::vector<T>& x, const std::vector<T>& y, std::vector<T>& product) const {
    gemm<T>(n_, m_, m_, {x.data(), m_, 1}, y.data(), product.data(), false, threads_);
  }

  /// The matrix R^-1 that makes the columns of x R^-1 orthonormal, by Cholesky; false if they are dependent.
  bool triangular_inverse(const std::vector<T>& x, std::vector<double>& r) const {
    std::vector<T> gram(m_ * m_);
    multiply_transposed(x, x, gram);
    r.assign(gram.begin(), gram.end());
    for (std::int64_t a = 0; a < m_; ++a) {  // upper factor, row by row
      const double before = r[a * m_ + a];
      for (std::int64_t b = 0; b < a; ++b) {
        const double f = r[b * m_ + a];
        for (std::int64_t c = a; c < m_; ++c) r[a * m_ + c] -= f * r[b * m_ + c];
      }
      const double pivot = r[a * m_ + a];
      if (!(pivot > before * 64 * unit_roundoff<T>) || !std::isfinite(pivot)) return false;
      const double scale = 1 / std::sqrt(pivot);
      for (std::int64_t c = a; c < m_; ++c) r[a * m_ + c] *= scale;
      for (std::int64_t c = 0; c < a; ++c) r[a * m_ + c] = 0;
    }
    return invert(r);
  }

  bool orthonormalise(std::vector<T>& x, std::vector<T>& other) const {
    std::vector<double> inverse(m_ * m_);
    if (!triangular_inverse(x, inverse)) return false;
    multiply(x, {inverse.begin(), inverse.end()}, other);
    x.swap(other);
    return true;
  }

  /// Gauss-Jordan with partial pivoting, in place; false if singular.
  bool invert(std::vector<double>& a) const {
    const std::int64_t m = m_;
    std::vector<std::int64_t> pivots(m);
    for (std::int64_t q = 0; q < m; ++q) {
      std::int64_t best = q;
      for (std::int64_t i = q; i < m; ++i)
        if (std::abs(a[i * m + q]) > std::abs(a[best * m + q])) best = i;
      const double pivot = a[best * m + q];
      if (pivot == 0 || !std::isfinite(pivot)) return false;
      pivots[q] = best;
      std::swap_ranges(&a[q * m], &a[q * m] + m, &a[best * m]);
      a[q * m + q] = 1;
      for (std::int64_t c = 0; c < m; ++c) a[q * m + c] /= pivot;
      for (std::int64_t i = 0; i < m; ++i) {
        if (i == q) continue;
        const double f = std::exchange(a[i * m + q], 0.0);
        if (f != 0)
          for (std::int64_t c = 0; c < m; ++c) a[i * m + c] -= f * a[q * m + c];
      }
    }
    for (std::int64_t q = m; q-- > 0;)
      if (pivots[q] != q)
        for (std::int64_t i = 0; i < m; ++i) std::swap(a[i * m + q], a[i * m + pivots[q]]);
    return true;
  }

  std::int64_t n_, m_;
  int sweeps_, threads_;
  std::vector<T> solved_, basis_, coefficients_;  // (n, m) each: Z, V, and c of every column
  double basis_norm_ = 0, solved_norm_ = 0;       // largest Euclidean norm of a row
  double basis_error_ = 0;                        // of an entry of V before its rounding to T
};

}  // namespace ssdml::walk
