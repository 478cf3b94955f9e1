// Components of few points: the whole of P = (1 - gamma) M^-1, M = I - gamma Q, in float64.
//
// M is a row diagonally dominant M-matrix, as are its Schur complements: elimination needs no pivoting. How close the
// inverse came to P is known afterwards, however it was rounded: with X in its place and R = (1 - gamma) I - M X,
//
//   P - X = M^-1 R = P R / (1 - gamma),
//
// and P is row-stochastic, so no entry of P - X exceeds the largest of |R| / (1 - gamma), and no sum of |P - X| over
// some columns that of |R| / (1 - gamma). M has k + 1 entries in a row, so that R costs little beside the inverse.
//
// Time O(n^3 + n^2 k), memory O(n^2): an n x n matrix and a half.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "common/buffer.h"
#include "common/invert.h"
#include "walk/graph.h"

namespace ssdml::walk {

/// What all components of a graph have in common; see propagate_affinity (affinity.h).
struct Problem {
  const std::int64_t* indices;  // (N, k)
  const double* weights;        // (N, k) or null
  std::int64_t k;
  const std::int64_t* labels;  // (N)
  std::int64_t classes;
  double gamma;
};

/// Room for one component, one per thread. Allocates nothing once it is made.
class DirectSolver {
 public:
  /// For components of up to `most` points.
  DirectSolver(const Problem& problem, std::int64_t most)
      : problem_(problem),
        x_(make_scratch<double>(most * lines_for(most) * kWidth<double>)),
        scratch_(make_scratch<double>(most * most / 2 + 1)),
        out_(most * problem.k),
        step_(most * problem.k),
        residual_(lines_for(most)),
        is_labelled_(lines_for(most)),
        mass_(problem.classes) {
    labelled_.reserve(most);
  }

  /// Solves the component of `members`, point `members[p]` at place p, `place` being the inverse of that. Returns a
  /// bound on the error of all entries and class masses.
  double solve(std::span<const std::int64_t> members, const std::vector<std::int32_t>& place) {
    members_ = members;
    n_ = static_cast<std::int64_t>(members.size());
    lines_ = lines_for(n_);
    read(place);
    invert(n_, x_.get(), row(1) - row(0), scratch_.get());
    const double size = scale();
    return bound(size);
  }

  /// Once, after solve(): W*[i, j] and W*[j, i] of every edge i -> j, (N, k) both, and class_mass (N, classes).
  template <typename T>
  void write(double* forward, double* backward, T* class_mass) {
    const std::int64_t k = problem_.k;
    if (!labelled_.empty()) sum_classes(class_mass);
    for (std::int64_t p = 0; p < n_; ++p)
      for (std::int64_t r = 0; r < k; ++r) {
        const std::int64_t q = out_[p * k + r] / lines_, edge = members_[p] * k + r;
        forward[edge] = row(p)[q];
        backward[edge] = row(q)[p];
      }
  }

 private:
  /// Lines of a row: an odd number, lest the rows of a tile compete for the same sets of a cache.
  static std::int64_t lines_for(std::int64_t n) { return (n + kWidth<double> - 1) / kWidth<double> | 1; }

  double* row(std::int64_t p) const { return x_.get() + p * lines_ * kWidth<double>; }
  Line<double>* line(std::int64_t p) const { return reinterpret_cast<Line<double>*>(row(p)); }

  /// gamma Q, M, and which columns are labelled.
  void read(const std::vector<std::int32_t>& place) {
    const std::int64_t k = problem_.k;
    std::fill(row(0), row(n_), 0.0);
    std::fill(is_labelled_.begin(), is_labelled_.end(), Line<double>{});
    labelled_.clear();
    for (std::int64_t p = 0; p < n_; ++p) {
      const std::int64_t i = members_[p], label = problem_.labels[i];
      double* const step = &step_[p * k];
      if (problem_.weights)
        shares(problem_.weights + i * k, k, step);
      else
        std::fill_n(step, k, 1 / static_cast<double>(k));
      row(p)[p] = 1;
      for (std::int64_t r = 0; r < k; ++r) {
        const std::int32_t q = place[problem_.indices[i * k + r]];
        row(p)[q] -= step[r] *= problem_.gamma;
        out_[p * k + r] = q * static_cast<std::int32_t>(lines_);
      }
      if (label < 0) continue;
      labelled_.push_back({static_cast<std::int32_t>(p), label});
      is_labelled_[p / kWidth<double>][p % kWidth<double>] = 1;
    }
  }

  /// From M^-1 to X, within [0, 1] as P is, even where the inverse is no number; returns its largest entry.
  double scale() {
    const Line<double> factor = fill(1 - problem_.gamma), zero{}, one = fill(1.0);
    Line<double> largest{};
    for (Line<double>* x = line(0); x != line(n_); ++x) {
      const Line<double> scaled = *x * factor;
      *x = smaller<double>(scaled > zero ? scaled : zero, one);
      largest = larger<double>(largest, *x);
    }
    return largest_of(largest);
  }

  /// Bounds the error of the entries and of their sums over any labelled columns, `size` being the largest of X.
  double bound(double size) {
    Line<double> worst{};               // of |R|
    double worst_sum = 0, largest = 0;  // of |R|, and of X, over the labelled columns
    for (std::int64_t p = 0; p < n_; ++p) {
      const Edges edges{&out_[p * problem_.k], &step_[p * problem_.k], problem_.k};
      for (std::int64_t c = 0; c < lines_; ++c)
        residual_[c] = gather<double, true>(edges, Line<double>{}, line(0) + c) - line(p)[c];
      residual_[p / kWidth<double>][p % kWidth<double>] += 1 - problem_.gamma;
      Line<double> sum{}, mass{};
      for (std::int64_t c = 0; c < lines_; ++c) {
        const Line<double> size = larger<double>(residual_[c], -residual_[c]);
        worst = larger<double>(worst, size);
        sum += size * is_labelled_[c];
        mass += line(p)[c] * is_labelled_[c];
      }
      worst_sum = std::max(worst_sum, sum_of(sum));
      largest = std::max(largest, sum_of(mass));
    }
    // R itself is rounded: gamma Q X, then three operations on numbers that are no larger than those of X and 1 -
    // gamma, which X has on its diagonal.
    const double rounding = gather_rounding(0x1p-53, static_cast<double>(problem_.k), problem_.weights) + 6 * 0x1p-53;
    const double by_sum = 0x1p-53 * static_cast<double>(3 * labelled_.size() + 4) * largest;  // 2 mass - total
    return 1.01 *
               (std::max(largest_of(worst) + rounding * size, worst_sum + rounding * largest) / (1 - problem_.gamma)) +
           by_sum;
  }

  /// Class mass, and from X to W*.
  template <typename T>
  void sum_classes(T* class_mass) {
    for (std::int64_t p = 0; p < n_; ++p) {
      double* const x = row(p);
      std::fill(mass_.begin(), mass_.end(), 0.0);
      double total = 0;
      for (const auto& [q, c] : labelled_) mass_[c] += x[q], total += x[q];
      for (const auto& [q, c] : labelled_) x[q] = 2 * mass_[c] - total;
      std::transform(mass_.begin(), mass_.end(), class_mass + members_[p] * problem_.classes,
                     [](double mass) { return static_cast<T>(mass); });
    }
  }

  static double largest_of(const Line<double>& x) {
    double largest = x[0];
    for (int c = 1; c < kWidth<double>; ++c) largest = std::max(largest, x[c]);
    return largest;
  }
  static double sum_of(const Line<double>& x) {
    double sum = 0;
    for (int c = 0; c < kWidth<double>; ++c) sum += x[c];
    return sum;
  }

  const Problem& problem_;
  std::span<const std::int64_t> members_;
  std::int64_t n_ = 0, lines_ = 0;
  Buffer<double> x_, scratch_;                                   // (n, lines): M, its inverse, X, W*
  std::vector<std::int32_t> out_;                                // (n, k) first lines of the rows of neighbours
  std::vector<double> step_;                                     // (n, k) of gamma Q
  Lines<double> residual_, is_labelled_;                         // one row of R; 1 at labelled places
  std::vector<std::pair<std::int32_t, std::int64_t>> labelled_;  // their places and classes
  std::vector<double> mass_;                                     // (classes) of one point
};

}  // namespace ssdml::walk
