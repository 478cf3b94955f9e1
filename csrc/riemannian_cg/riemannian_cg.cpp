#include "riemannian_cg/riemannian_cg.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "angular_loss/angular_loss.h"
#include "common/buffer.h"
#include "common/cholesky_qr.h"
#include "common/gemm.h"
#include "common/orthonormal.h"
#include "riemannian_cg/parameters.h"

namespace ssdml {
namespace {

template <typename T>
using Vector = std::vector<T, OnCacheLine<T>>;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// The loss as a function of the projected points y = X L, and its gradient in L. The rows of X are the points that
/// take part in triplets, each once; or, where those are more, for each triplet its positive and its negative as seen
/// from its anchor, which does not change the loss: all anchors then lie at the origin, the one row of y beyond those
/// of X.
template <typename T>
class Objective {
 public:
  Objective(const T* z, std::int64_t n, std::int64_t d, std::int64_t l, const std::int64_t* triplets,
            std::int64_t n_triplets, double tan2_alpha, const T* weight, int num_threads)
      : d_(d), l_(l), tan2_alpha_(tan2_alpha), weight_(weight), triplets_(3 * n_triplets), losses_(n_triplets) {
    std::vector<std::int64_t> rows(std::min(n, 3 * n_triplets));
    rows_ = used_rows(triplets, n_triplets, n, rows.data(), triplets_.data());
    const bool is_centred = rows_ > 2 * n_triplets;
    if (is_centred) rows_ = 2 * n_triplets;
    x_.resize(rows_ * d);
    if (is_centred) {
      for (std::int64_t t = 0; t < n_triplets; ++t) {
        triplets_[3 * t] = rows_;
        for (std::int64_t other = 1; other <= 2; ++other) {
          const std::int64_t r = triplets_[3 * t + other] = 2 * t + other - 1;
          const T *const from = z + triplets[3 * t] * d, *const to = z + triplets[3 * t + other] * d;
          for (std::int64_t p = 0; p < d; ++p) x_[r * d + p] = to[p] - from[p];
        }
      }
    } else {
      for (std::int64_t r = 0; r < rows_; ++r) std::copy_n(z + rows[r] * d, d, &x_[r * d]);
    }
    grad_y_.resize((rows_ + 1) * l);
    num_threads_ = threads_for(rows_ * d * l / 16, num_threads);
  }

  /// Room for projected points, all at the origin.
  Vector<T> points() const { return Vector<T>((rows_ + 1) * l_); }

  /// y = X V for V (d, l).
  void project(const Vector<T>& V, Vector<T>& y) const {
    gemm(rows_, l_, d_, Strided<T>{x_.data(), d_, 1}, V.data(), y.data(), false, num_threads_);
  }

  /// result = y b for an upper triangular b.
  void transform(const Vector<T>& y, const Vector<T>& b, Vector<T>& result) const {
    gemm_triangular(rows_, l_, y.data(), l_, b.data(), l_, result.data(), l_, num_threads_);
  }

  double cost(const Vector<T>& y) {
    const auto count = static_cast<std::int64_t>(losses_.size());
    return projected_loss(y.data(), rows_ + 1, l_, triplets_.data(), count, tan2_alpha_, weight_, losses_.data(),
                          grad_y_.data(), num_threads_);
  }

  /// Euclidean gradient where cost() was last called.
  void gradient(Vector<T>& grad) const {
    gemm(d_, l_, rows_, Strided<T>{x_.data(), 1, d_}, grad_y_.data(), grad.data(), false, num_threads_);
  }

 private:
  std::int64_t d_, l_, rows_ = 0;
  double tan2_alpha_;
  const T* weight_;
  std::vector<std::int64_t> triplets_;
  Vector<T> x_, grad_y_, losses_;
  int num_threads_;
};

template <typename T>
double inner(const Vector<T>& u, const Vector<T>& v) {
  return dot(u.data(), v.data(), static_cast<std::int64_t>(u.size()));
}

struct GradientNorms {
  double square;  // of the Riemannian gradient
  double normal;  // norm of the part of the Euclidean one that is normal to the manifold
};

/// Tangent spaces of the matrices (d, l) with orthonormal columns, and retraction along a line.
template <typename T>
class Stiefel {
 public:
  Stiefel(std::int64_t d, std::int64_t l)
      : d_(d), l_(l), along_(l * l), gram_(l * l), foreseen_(l * l), inverse_(l * l) {}

  /// The largest |L'L - I|.
  double drift(const Vector<T>& L) { return orthonormality_error(L.data(), d_, l_, gram_.data(), 1); }

  /// U becomes tangent at L: U - L sym(L'U).
  void project(const Vector<T>& L, Vector<T>& U) {
    gemm(l_, l_, d_, Strided<T>{L.data(), 1, l_}, U.data(), gram_.data(), false, 1);
    for (std::int64_t i = 0; i < l_; ++i)
      for (std::int64_t j = 0; j <= i; ++j)
        gram_[i * l_ + j] = gram_[j * l_ + i] = -(gram_[i * l_ + j] + gram_[j * l_ + i]) / 2;
    gemm(d_, l_, l_, Strided<T>{L.data(), l_, 1}, gram_.data(), U.data(), true, 1);
  }

  /// The same for the gradient of a function of L L', for which L'U is symmetric.
  GradientNorms project_gradient(const Vector<T>& L, Vector<T>& U) {
    gemm_symmetric(l_, d_, L.data(), U.data(), gram_.data(), 1);
    for (T& entry : gram_) entry = -entry;
    gemm(d_, l_, l_, Strided<T>{L.data(), l_, 1}, gram_.data(), U.data(), true, 1);
    GradientNorms norms{inner(U, U), std::sqrt(inner(gram_, gram_))};
    if (norms.square < 0x1p-12 * norms.normal * norms.normal) {  // so little that rounding may point off the tangents
      project(L, U);
      norms.square = inner(U, U);
    }
    return norms;
  }

  /// Prepares for steps along D.
  void set_direction(const Vector<T>& D) { gemm_symmetric(l_, d_, D.data(), D.data(), along_.data(), 1); }

  /// R^-1 of L + step D = QR as it is where D is tangent, so that the Gram matrix is I + step^2 D'D; null where the
  /// step is too long for that to be accurate.
  const Vector<T>* foresee(T step) {
    for (std::size_t e = 0; e < gram_.size(); ++e) gram_[e] = step * step * along_[e];
    for (std::int64_t i = 0; i < l_; ++i) gram_[i * l_ + i] += 1;
    return invert_cholesky(l_, gram_.data(), foreseen_.data()) <= kTrustedCondition ? &foreseen_ : nullptr;
  }

  /// Q of moved = QR, which is overwritten. Its own Gram matrix keeps rounding from adding up in the columns of Q.
  /// False, and Q unspecified, where they would not be orthonormal.
  bool retract(Vector<T>& moved, Vector<T>& Q) {
    if (orthonormalise(moved, Q) <= kTrustedCondition) return true;
    std::swap(moved, Q);
    return orthonormalise(moved, Q) <= kTrustedCondition;
  }

  /// Whether R^-1 was what foresee() had found. It is not where rounding has left D far from tangent.
  bool is_foreseen() {
    for (std::size_t e = 0; e < gram_.size(); ++e) gram_[e] = inverse_[e] - foreseen_[e];
    return largest_magnitude(gram_.data(), l_ * l_) <= 64 * std::numeric_limits<T>::epsilon();
  }

 private:
  /// Q = Y R^-1 for Y'Y = R'R. Returns the condition of Y'Y.
  double orthonormalise(const Vector<T>& Y, Vector<T>& Q) {
    gemm_symmetric(l_, d_, Y.data(), Y.data(), gram_.data(), 1);
    const double condition = invert_cholesky(l_, gram_.data(), inverse_.data());
    gemm_triangular(d_, l_, Y.data(), l_, inverse_.data(), l_, Q.data(), l_, 1);
    return condition;
  }

  std::int64_t d_, l_;
  Vector<T> along_, gram_, foreseen_, inverse_;
};

/// result = u + step v.
template <typename T>
void move(const Vector<T>& u, T step, const Vector<T>& v, Vector<T>& result) {
  for (std::size_t e = 0; e < u.size(); ++e) result[e] = u[e] + step * v[e];
}

}  // namespace

template <typename T>
CgReport riemannian_cg(const T* z, std::int64_t n, std::int64_t d, std::int64_t l, const std::int64_t* triplets,
                       std::int64_t n_triplets, double tan2_alpha, const T* weight, std::int64_t iterations, T* L,
                       int num_threads, Progress& progress) {
  using namespace line_search;
  constexpr std::int64_t refresh = 16;  // iterations after which y is computed anew, lest its rounding add up
  Objective<T> objective(z, n, d, l, triplets, n_triplets, tan2_alpha, weight, num_threads);
  Stiefel<T> stiefel(d, l);
  Vector<T> at(L, L + d * l), moved = at, next(d * l), grad(d * l), next_grad(d * l), direction(d * l);
  Vector<T> y = objective.points(), next_y = y, along_y = y, moved_y = y;

  CgReport report{0, 0, 0, 1, stiefel.drift(at)};
  if (report.drift > kOrthonormal<T> && stiefel.retract(moved, next)) std::swap(at, next);
  objective.project(at, y);
  report.loss = objective.cost(y);
  objective.gradient(grad);
  GradientNorms norms = stiefel.project_gradient(at, grad);
  for (std::int64_t e = 0; e < d * l; ++e) direction[e] = -grad[e];
  double first_step = 0, length = kInfinity;

  while (report.iterations < iterations && descends<T>(std::sqrt(norms.square), norms.normal) && length >= kLeastStep &&
         progress.update(static_cast<double>(report.iterations) / static_cast<double>(iterations))) {
    double slope = inner(grad, direction);
    if (!leads_down<T>(slope, std::sqrt(norms.square), norms.normal)) {  // start again from the gradient
      for (std::int64_t e = 0; e < d * l; ++e) direction[e] = -grad[e];
      slope = -norms.square;
    }

    objective.project(direction, along_y);
    stiefel.set_direction(direction);
    const double norm = std::sqrt(inner(direction, direction));
    double step = std::min(report.iterations == 0 ? 1 / norm : first_step, kLongestStep<T> / norm), loss;
    const auto retract = [&] {
      move(at, static_cast<T>(step), direction, moved);
      return stiefel.retract(moved, next);
    };
    const auto cost_at_next = [&] {
      objective.project(next, next_y);
      return objective.cost(next_y);
    };
    bool is_foreseen;
    int trials = 0;
    for (;; step *= kContraction) {
      ++trials;
      const Vector<T>* const inverse = stiefel.foresee(static_cast<T>(step));
      is_foreseen = inverse != nullptr;
      if (is_foreseen) {  // with L + step D = QR, y at Q is (X L + step X D) R^-1: a trial costs nothing in d
        move(y, static_cast<T>(step), along_y, moved_y);
        objective.transform(moved_y, *inverse, next_y);
        loss = objective.cost(next_y);
      } else {
        loss = retract() ? cost_at_next() : kInfinity;
      }
      if (loss <= report.loss + kSufficientDecrease * step * slope || trials == kMostTrials) break;
    }
    first_step = next_first_step(trials, step);
    report.evaluations += trials;
    if (!gains<T>(report.loss, loss)) break;
    if (is_foreseen) {
      if (!retract()) break;
      if (!stiefel.is_foreseen()) {
        loss = cost_at_next();
        if (!gains<T>(report.loss, loss)) break;
      }
    }
    length = step * norm;
    ++report.iterations;
    std::swap(at, next);
    if (report.iterations % refresh == 0)
      objective.project(at, y);
    else
      std::swap(y, next_y);

    // The old gradient is not transported: its products with tangent vectors are those of its projection.
    objective.gradient(next_grad);
    norms = stiefel.project_gradient(at, next_grad);
    stiefel.project(at, direction);
    const double change = norms.square - inner(next_grad, grad);
    const double along = inner(next_grad, direction) - inner(grad, direction);
    const double beta = along == 0 ? 1 : std::max(0.0, change / along);
    for (std::int64_t e = 0; e < d * l; ++e) direction[e] = static_cast<T>(beta) * direction[e] - next_grad[e];
    std::swap(grad, next_grad);
    report.loss = loss;
  }
  report.grad_norm = std::sqrt(norms.square);
  std::copy(at.begin(), at.end(), L);
  return report;
}

template CgReport riemannian_cg(const float*, std::int64_t, std::int64_t, std::int64_t, const std::int64_t*,
                                std::int64_t, double, const float*, std::int64_t, float*, int, Progress&);
template CgReport riemannian_cg(const double*, std::int64_t, std::int64_t, std::int64_t, const std::int64_t*,
                                std::int64_t, double, const double*, std::int64_t, double*, int, Progress&);

}  // namespace ssdml
