// Slow modes of the relaxation, and how a panel is freed of them.
//
// Q has few eigenvalues near 1, one for every weakly connected cluster, and as many modes are slow to relax; what else
// a residual contains dies out within some sweeps. An oblique projection takes the slow modes out of v = Q^t e_j: with
// any matrix Z and V = P^-1 Z,
//
//   P v = P (v - V c) + Z c        whatever c is,
//
// so how well Z spans the slow modes decides the speed, never the correctness. Z and the left modes U come from
// orthogonal iteration with the relaxation's own sweep and its transpose; c = (U' V)^-1 U' Q^t e_j is row j of one
// (n, modes) matrix for all columns.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <utility>
#include <vector>

#include "affinity/parameters.h"
#include "affinity/relax.h"
#include "common/gemm.h"
#include "common/parallel.h"
#include "common/simd.h"
#include "common/small_matrix.h"
#include "walk/graph.h"

namespace ssdml::walk {

template <typename T>
class Modes {
 public:
  /// `wanted` modes, a multiple of kWidth<float>, to be taken out after `sweeps` sweeps. There are none (count() == 0)
  /// where the iteration breaks down, or where `proceed`, called between sweeps, says false.
  template <typename Proceed>
  Modes(const Graph& graph, std::int64_t wanted, const Relaxation& relaxation, int sweeps, int num_threads,
        const Proceed& proceed)
      : n_(graph.n), m_(wanted), sweeps_(sweeps), threads_(num_threads), relaxation_(relaxation) {
    if (m_ == 0 || !find(graph, proceed)) {
      m_ = 0;
      solved_.clear(), basis_.clear(), coefficients_.clear();
    }
  }

  /// The same modes in another precision.
  template <typename S>
  Modes(const Graph& graph, const Modes<S>& modes)
      : n_(modes.n_),
        m_(modes.m_),
        sweeps_(modes.sweeps_),
        threads_(modes.threads_),
        relaxation_(modes.relaxation_),
        solved_(modes.solved_.begin(), modes.solved_.end()),
        basis_(modes.basis_.size()),
        coefficients_(modes.coefficients_.begin(), modes.coefficients_.end()) {
    restart(graph);
  }

  std::int64_t count() const { return m_; }
  int sweeps() const { return sweeps_; }
  const Relaxation& relaxation() const { return relaxation_; }
  /// c of the column that starts at place p.
  const T* coefficients(std::int64_t p) const { return &coefficients_[p * m_]; }
  /// Row p of Z.
  const T* solved(std::int64_t p) const { return &solved_[p * m_]; }
  double solved_norm() const { return solved_norm_; }

  /// v <- v - V c for a panel, c as (count(), kWidth<P>). Returns the range. Summed in Sum, the type of c, which may
  /// have to be float64: the entries of V c cancel where the slow modes of a popular point overlap.
  template <typename Sum, typename P>
  Range<P> remove(const Sum* c, Line<P>* v) const {
    constexpr std::int64_t kRows = vector_registers == 32 ? 8 : 4;
    constexpr int kVectors = kWidth<P> / lanes<Sum>, kTogether = kVectors % 2 == 0 ? 2 : 1;
    Range<P> range = empty_range<P>();
    for (std::int64_t p = 0; p < n_; p += kRows) {
      const auto row = [&](std::int64_t i) { return &basis_[std::min(p + i, n_ - 1) * m_]; };
      alignas(64) Sum total[kRows][kWidth<P>] = {};
      for (std::int64_t first = 0; first < m_; first += kChunk) {
        Sum entry[kRows][kChunk];
        for (std::int64_t i = 0; i < kRows; ++i) {
          std::copy_n(row(i) + first, kChunk, entry[i]);
          __builtin_prefetch(row(kRows + i) + first);  // V is too large for the caches
        }
        for (int q = 0; q < kVectors; q += kTogether) {
          Vec<Sum> sum[kRows][kTogether] = {};
          for (std::int64_t a = 0; a < kChunk; ++a) {
            const Sum* const factor = c + (first + a) * kWidth<P> + q * lanes<Sum>;
#pragma GCC unroll 8
            for (std::int64_t i = 0; i < kRows; ++i)
#pragma GCC unroll 2
              for (int t = 0; t < kTogether; ++t)
                sum[i][t] = multiply_add<Sum>(broadcast(entry[i][a]), load(factor + t * lanes<Sum>), sum[i][t]);
          }
#pragma GCC unroll 8
          for (std::int64_t i = 0; i < kRows; ++i)
#pragma GCC unroll 2
            for (int t = 0; t < kTogether; ++t) {
              Sum* to = &total[i][(q + t) * lanes<Sum>];
              store(to, load(to) + sum[i][t]);
            }
        }
      }
      for (std::int64_t i = 0; i < std::min(kRows, n_ - p); ++i) {
        for (int w = 0; w < kWidth<P>; ++w) v[p + i][w] = static_cast<P>(v[p + i][w] - total[i][w]);
        range.add(v[p + i]);
      }
    }
    return range;
  }

  /// Bounds the error of `remove` in the largest entry, where |v| was and is at most `size` and |c| = norm: rounding of
  /// the result, of the sums, and of V.
  template <typename Sum, typename P>
  double remove_rounding(double size, double norm) const {
    const double sums = unit_roundoff<Sum> * static_cast<double>(kChunk + m_ / kChunk + 3);
    return 1.01 * (unit_roundoff<P> * size + sums * (size + basis_norm_ * norm) +
                   unit_roundoff<T> * basis_norm_ * norm + basis_error_ * std::sqrt(static_cast<double>(m_)) * norm);
  }

 private:
  template <typename S>
  friend class Modes;

  static constexpr std::int64_t kChunk = kWidth<float>;  // modes summed at once: sums of sums round less

  template <typename Proceed>
  bool find(const Graph& graph, const Proceed& proceed) {
    std::vector<T> right(n_ * m_), left(n_ * m_), other(n_ * m_);
    double rate = 0;
    if (!iterate(graph, false, kSweepsForZ, right, other, rate, proceed)) return false;
    if (relaxation_.adapt(rate) && !iterate(graph, false, kSweepsForZ, right, other, rate, proceed)) return false;
    if (!iterate(graph, true, kSweepsForU, left, other, rate, proceed)) return false;
    // Z such that V is nearly orthonormal: no cancellation in V c. What V is, is known in float64.
    solved_ = std::move(right);
    basis_.resize(n_ * m_);
    restart(graph);
    std::vector<double> factor(m_ * m_);
    if (!triangular_inverse(basis_, factor)) return false;
    multiply(solved_, {factor.begin(), factor.end()}, other);
    solved_.swap(other);
    restart(graph);

    // Coefficients: rows of (Q')^t U, times the inverse of V' U.
    std::vector<T> product(m_ * m_);
    multiply_transposed(basis_, left, product);
    std::vector<double> inverse(product.begin(), product.end());
    if (!invert_pivoted(inverse, m_, kLeastOverlap)) return false;
    by_panels(left, [&](Lines<T>& x, Lines<T>& swept) {
      const Line<T> same = fill(T(1) / static_cast<T>(graph.k));
      for (int s = 0; s < sweeps_; ++s) {
        by_weights(graph, [&](auto weighted) {
          for (std::int64_t p = 0; p < n_; ++p) swept[p] = gather<T, weighted()>(graph.edges_in(p), same, x.data());
        });
        x.swap(swept);
      }
    });
    coefficients_.resize(n_ * m_);
    multiply(left, {inverse.begin(), inverse.end()}, coefficients_);
    return std::all_of(coefficients_.begin(), coefficients_.end(), [](T x) { return std::isfinite(x); });
  }

  /// Orthogonal iteration with the sweep, or its transpose, from a random block. Orthonormalised seldom, or more often
  /// where that makes the columns dependent; false if they are dependent even so. `rate` is what the fastest modes of
  /// the block shrink by in a sweep.
  template <typename Proceed>
  bool iterate(const Graph& graph, bool back, int sweeps, std::vector<T>& x, std::vector<T>& other, double& rate,
               const Proceed& proceed) const {
    for (const int between : kSweepsBetween) {
      random_entries(back, x.data(), n_ * m_);
      bool independent = true;
      for (int s = 0; s < sweeps && independent; s += between) {
        if (!proceed()) return false;
        by_panels(x, [&](Lines<T>& panel, Lines<T>&) {
          for (int b = 0; b < between; ++b) relaxation_.sweep<T>(graph, panel.data(), back);
        });
        double shrunk = 0;
        independent = orthonormalise(x, other, shrunk);
        rate = std::pow(shrunk, 1.0 / between);
      }
      if (independent) return true;
    }
    return false;
  }

  /// f(panel, room) for kWidth columns of x at a time, which stay in cache meanwhile.
  template <typename F>
  void by_panels(std::vector<T>& x, const F& f) const {
    const std::int64_t panels = m_ / kWidth<T>;
    std::atomic<std::int64_t> next{0};
    on_threads(static_cast<int>(std::min<std::int64_t>(threads_, panels)), [&](int, int) {
      Lines<T> panel(n_), room(n_);
      for (std::int64_t l; (l = next++) < panels;) {
        for (std::int64_t p = 0; p < n_; ++p) std::memcpy(&panel[p], &x[p * m_ + l * kWidth<T>], sizeof panel[p]);
        f(panel, room);
        for (std::int64_t p = 0; p < n_; ++p) std::memcpy(&x[p * m_ + l * kWidth<T>], &panel[p], sizeof panel[p]);
      }
    });
  }

  /// V = (Z - gamma Q Z) / (1 - gamma).
  void restart(const Graph& graph) {
    const double gamma = relaxation_.gamma;
    double largest = 0, basis_norm = 0, solved_norm = 0;
    std::mutex merging;
    in_shares(n_, threads_, [&](std::int64_t begin, std::int64_t end, int) {
      double most = 0, most_basis = 0, most_solved = 0;
      for (std::int64_t p = begin; p < end; ++p) {
        const Edges edges = graph.edges_out(p);
        const auto share = [&](std::int64_t r) { return edges.share ? edges.share[r] : 1.0 / graph.k; };
        double basis_square = 0, solved_square = 0;
        for (std::int64_t a = 0; a < m_; ++a) {
          double sum = 0;
          for (std::int64_t r = 0; r < graph.k; ++r) sum += share(r) * solved_[edges.at[r] * m_ + a];
          const double z = solved_[p * m_ + a], v = (z - gamma * sum) / (1 - gamma);
          basis_[p * m_ + a] = static_cast<T>(v);
          most = std::max(most, std::abs(z));
          basis_square += v * v;
          solved_square += z * z;
        }
        most_basis = std::max(most_basis, std::sqrt(basis_square));
        most_solved = std::max(most_solved, std::sqrt(solved_square));
      }
      const std::lock_guard guard(merging);
      largest = std::max(largest, most);
      basis_norm = std::max(basis_norm, most_basis);
      solved_norm = std::max(solved_norm, most_solved);
    });
    basis_norm_ = 1.01 * basis_norm;
    solved_norm_ = 1.01 * solved_norm;
    basis_error_ = unit_roundoff<double> * 2 * (graph.k + 8) * largest / (1 - gamma);
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
    return ssdml::triangular_inverse(r, m_, unit_roundoff<T>);
  }

  /// `shrunk` is the mean, by magnitude, of what the last quarter of the columns were long once orthogonal.
  bool orthonormalise(std::vector<T>& x, std::vector<T>& other, double& shrunk) const {
    std::vector<double> inverse(m_ * m_);
    if (!triangular_inverse(x, inverse)) return false;
    double logarithms = 0;
    for (std::int64_t a = m_ - m_ / 4; a < m_; ++a) logarithms -= std::log(inverse[a * m_ + a]);
    shrunk = std::exp(logarithms / static_cast<double>(m_ / 4));
    multiply(x, {inverse.begin(), inverse.end()}, other);
    x.swap(other);
    return true;
  }

  std::int64_t n_, m_;
  int sweeps_, threads_;
  Relaxation relaxation_;
  std::vector<T> solved_, basis_, coefficients_;  // (n, m) each: Z, V, and c of every column
  double basis_norm_ = 0, solved_norm_ = 0;       // largest Euclidean norm of a row
  double basis_error_ = 0;                        // of an entry of V before its rounding to T
};

}  // namespace ssdml::walk
