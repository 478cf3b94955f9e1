#include "angular_loss.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace ssdml {
namespace {

/// One triplet's rows of y, and its terms at one coordinate.
template <typename T>
struct Triplet {
  const T *anchor, *positive, *negative;

  Triplet(const T* y, std::int64_t l, const std::int64_t* t)
      : anchor(y + t[0] * l), positive(y + t[1] * l), negative(y + t[2] * l) {}

  double a(std::int64_t p) const { return static_cast<double>(anchor[p]) - positive[p]; }
  double b(std::int64_t p) const { return negative[p] - (static_cast<double>(anchor[p]) + positive[p]) / 2; }
};

double softplus(double m) { return std::max(m, 0.0) + std::log1p(std::exp(-std::abs(m))); }
double sigmoid(double m) {
  const double e = std::exp(-std::abs(m));
  return (m >= 0 ? 1.0 : e) / (1 + e);
}

/// Which (triplet, role) pairs each row of y takes part in, in the order of the triplets: 3 t + role.
struct Parts {
  std::vector<std::int64_t> ptr, part;
};

Parts parts_of_rows(const std::int64_t* triplets, std::int64_t n_triplets, std::int64_t n) {
  Parts parts{std::vector<std::int64_t>(n + 1, 0), std::vector<std::int64_t>(3 * n_triplets)};
  for (std::int64_t e = 0; e < 3 * n_triplets; ++e) ++parts.ptr[triplets[e] + 1];
  for (std::int64_t i = 0; i < n; ++i) parts.ptr[i + 1] += parts.ptr[i];
  std::vector<std::int64_t> next(parts.ptr.begin(), parts.ptr.end() - 1);
  for (std::int64_t e = 0; e < 3 * n_triplets; ++e) parts.part[next[triplets[e]]++] = e;
  return parts;
}

}  // namespace

template <typename T>
void angular_loss(const T* y, std::int64_t n, std::int64_t l, const std::int64_t* triplets, std::int64_t n_triplets,
                  double tan2_alpha, const T* weight, T* losses, T* grad_y, [[maybe_unused]] int num_threads) {
  const double four_t = 4 * tan2_alpha;
  std::vector<double> scale(grad_y ? n_triplets : 0);  // d loss / d m
#pragma omp parallel for num_threads(num_threads)
  for (std::int64_t t = 0; t < n_triplets; ++t) {
    const Triplet<T> triplet(y, l, triplets + 3 * t);
    double aa = 0, bb = 0;
    for (std::int64_t p = 0; p < l; ++p) {
      aa += triplet.a(p) * triplet.a(p);
      bb += triplet.b(p) * triplet.b(p);
    }
    const double m = aa - four_t * bb, w = weight ? static_cast<double>(weight[t]) : 1.0;
    if (losses) losses[t] = static_cast<T>(w * softplus(m));
    if (grad_y) scale[t] = w * sigmoid(m);
  }
  if (!grad_y) return;

  // Each row gathers its own parts, so no two threads write to the same row and the order of summation is fixed.
  const Parts parts = parts_of_rows(triplets, n_triplets, n);
#pragma omp parallel num_threads(num_threads)
  {
    std::vector<double> sum(l);
#pragma omp for schedule(dynamic, 64)
    for (std::int64_t i = 0; i < n; ++i) {
      std::fill(sum.begin(), sum.end(), 0.0);
      for (std::int64_t e = parts.ptr[i]; e < parts.ptr[i + 1]; ++e) {
        const std::int64_t t = parts.part[e] / 3, role = parts.part[e] % 3;
        const Triplet<T> triplet(y, l, triplets + 3 * t);
        const double on_a = scale[t] * (role == 0 ? 2.0 : role == 1 ? -2.0 : 0.0);
        const double on_b = scale[t] * four_t * (role == 2 ? -2.0 : 1.0);
        for (std::int64_t p = 0; p < l; ++p) sum[p] += on_a * triplet.a(p) + on_b * triplet.b(p);
      }
      for (std::int64_t p = 0; p < l; ++p) grad_y[i * l + p] = static_cast<T>(sum[p]);
    }
  }
}

template void angular_loss(const float*, std::int64_t, std::int64_t, const std::int64_t*, std::int64_t, double,
                           const float*, float*, float*, int);
template void angular_loss(const double*, std::int64_t, std::int64_t, const std::int64_t*, std::int64_t, double,
                           const double*, double*, double*, int);

}  // namespace ssdml
