#include "riemannian_cg.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "angular_loss.h"
#include "cholesky_qr.h"
#include "gemm.h"

namespace ssdml {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

template <typename T>
double dot(const std::vector<T>& u, const std::vector<T>& v) {
  constexpr std::int64_t chains = 4;  // independent sums, to hide the latency of an addition
  const auto size = static_cast<std::int64_t>(u.size());
  Vec<T> sums[chains] = {};
  std::int64_t e = 0;
  for (; e + chains * lanes<T> <= size; e += chains * lanes<T>)
#pragma GCC unroll 4
    for (std::int64_t c = 0; c < chains; ++c)
      sums[c] = multiply_add<T>(load(&u[e + c * lanes<T>]), load(&v[e + c * lanes<T>]), sums[c]);
  double total = static_cast<double>(sum<T>((sums[0] + sums[1]) + (sums[2] + sums[3])));
  for (; e < size; ++e) total += static_cast<double>(u[e]) * v[e];
  return total;
}

/// The loss at L, from the points that take part in triplets only: a mini-batch may index few rows of z.
template <typename T>
class Objective {
 public:
  Objective(const T* z, std::int64_t n, std::int64_t d, std::int64_t l, const std::int64_t* triplets,
            std::int64_t n_triplets, double tan2_alpha, const T* weight, int num_threads)
      : d_(d), l_(l), tan2_alpha_(tan2_alpha), weight_(weight), triplets_(3 * n_triplets), losses_(n_triplets) {
    std::vector<std::int64_t> row(n, -1);
    for (std::int64_t e = 0; e < 3 * n_triplets; ++e) {
      std::int64_t& r = row[triplets[e]];
      if (r < 0) {
        r = rows_++;
        z_.insert(z_.end(), z + triplets[e] * d, z + (triplets[e] + 1) * d);
      }
      triplets_[e] = r;
    }
    y_.resize(rows_ * l);
    grad_y_.resize(rows_ * l);
    num_threads_ = threads_for(rows_ * d * l / 16, num_threads);
  }

  double cost(const std::vector<T>& L) {
    gemm(rows_, l_, d_, Strided<T>{z_.data(), d_, 1}, L.data(), y_.data(), false, num_threads_);
    const auto count = static_cast<std::int64_t>(losses_.size());
    angular_loss(y_.data(), rows_, l_, triplets_.data(), count, tan2_alpha_, weight_, losses_.data(), grad_y_.data(),
                 num_threads_);
    double total = 0;
    for (std::int64_t t = 0; t < count; ++t) total += static_cast<double>(weight_ ? weight_[t] : T(1)) * losses_[t];
    return total;
  }

  /// Euclidean gradient where cost() was last called.
  void gradient(std::vector<T>& grad) const {
    gemm(d_, l_, rows_, Strided<T>{z_.data(), 1, d_}, grad_y_.data(), grad.data(), false, num_threads_);
  }

 private:
  std::int64_t d_, l_, rows_ = 0;
  double tan2_alpha_;
  const T* weight_;
  std::vector<std::int64_t> triplets_;
  std::vector<T> z_, y_, grad_y_, losses_;
  int num_threads_;
};

/// Tangent spaces of the matrices (d, l) with orthonormal columns, and steps along them.
template <typename T>
class Stiefel {
 public:
  Stiefel(std::int64_t d, std::int64_t l) : d_(d), l_(l), qr_(d, l), gram_(l * l), moved_(d * l) {}

  /// The largest |L'L - I|.
  double drift(const std::vector<T>& L) { return orthonormality_error(L.data(), d_, l_, gram_.data(), 1); }

  /// U becomes tangent at L: U - L sym(L'U).
  void project(const std::vector<T>& L, std::vector<T>& U) {
    gemm(l_, l_, d_, Strided<T>{L.data(), 1, l_}, U.data(), gram_.data(), false, 1);
    for (std::int64_t i = 0; i < l_; ++i)
      for (std::int64_t j = 0; j <= i; ++j)
        gram_[i * l_ + j] = gram_[j * l_ + i] = -(gram_[i * l_ + j] + gram_[j * l_ + i]) / 2;
    gemm(d_, l_, l_, Strided<T>{L.data(), l_, 1}, gram_.data(), U.data(), true, 1);
  }

  /// The Q of L + step D = QR. For D tangent at L the Gram matrix is I + step^2 D'D, so that only overflow fails.
  bool retract(const std::vector<T>& L, T step, const std::vector<T>& D, std::vector<T>& Q) {
    for (std::size_t e = 0; e < moved_.size(); ++e) moved_[e] = L[e] + step * D[e];
    return std::isfinite(qr_(moved_.data(), Q.data(), 1));
  }

 private:
  std::int64_t d_, l_;
  CholeskyQr<T> qr_;
  std::vector<T> gram_, moved_;
};

}  // namespace

template <typename T>
CgReport riemannian_cg(const T* z, std::int64_t n, std::int64_t d, std::int64_t l, const std::int64_t* triplets,
                       std::int64_t n_triplets, double tan2_alpha, const T* weight, std::int64_t iterations, T* L,
                       int num_threads, Progress& progress) {
  constexpr double sufficient_decrease = 0.5, contraction = 0.5, least_grad_norm = 1e-6, least_step = 1e-10;
  constexpr int most_halvings = 10;
  Objective<T> objective(z, n, d, l, triplets, n_triplets, tan2_alpha, weight, num_threads);
  Stiefel<T> stiefel(d, l);
  std::vector<T> at(L, L + d * l), next(d * l), grad(d * l), next_grad(d * l), direction(d * l);

  CgReport report{objective.cost(at), 0, 0, 1, stiefel.drift(at)};
  objective.gradient(grad);
  stiefel.project(at, grad);
  for (std::int64_t e = 0; e < d * l; ++e) direction[e] = -grad[e];
  double square = dot(grad, grad), first_step = 0, length = kInfinity;

  while (report.iterations < iterations && std::sqrt(square) >= least_grad_norm && length >= least_step &&
         progress.update(static_cast<double>(report.iterations) / static_cast<double>(iterations))) {
    double slope = dot(grad, direction);
    if (!(slope < 0)) {  // no descent: start again from the gradient
      for (std::int64_t e = 0; e < d * l; ++e) direction[e] = -grad[e];
      slope = -square;
    }

    const double norm = std::sqrt(dot(direction, direction));
    double step = report.iterations == 0 ? 1 / norm : first_step, loss;
    int trials = 0;
    for (;; step *= contraction) {
      ++trials;
      loss = stiefel.retract(at, static_cast<T>(step), direction, next) ? objective.cost(next) : kInfinity;
      if (loss <= report.loss + sufficient_decrease * step * slope || trials > most_halvings) break;
    }
    first_step = trials == 2 ? step : 2 * step;
    report.evaluations += trials;
    if (!(loss <= report.loss)) break;  // no step helps any more
    length = step * norm;
    ++report.iterations;

    // The old gradient is not transported: its products with tangent vectors are those of its projection.
    objective.gradient(next_grad);
    stiefel.project(next, next_grad);
    stiefel.project(next, direction);
    const double next_square = dot(next_grad, next_grad);
    const double change = next_square - dot(next_grad, grad);
    const double along = dot(next_grad, direction) - dot(grad, direction);
    const double beta = along == 0 ? 1 : std::max(0.0, change / along);
    for (std::int64_t e = 0; e < d * l; ++e) direction[e] = static_cast<T>(beta) * direction[e] - next_grad[e];
    std::swap(at, next);
    std::swap(grad, next_grad);
    square = next_square;
    report.loss = loss;
  }
  report.grad_norm = std::sqrt(square);
  std::copy(at.begin(), at.end(), L);
  return report;
}

template CgReport riemannian_cg(const float*, std::int64_t, std::int64_t, std::int64_t, const std::int64_t*,
                                std::int64_t, double, const float*, std::int64_t, float*, int, Progress&);
template CgReport riemannian_cg(const double*, std::int64_t, std::int64_t, std::int64_t, const std::int64_t*,
                                std::int64_t, double, const double*, std::int64_t, double*, int, Progress&);

}  // namespace ssdml
