#include "angular_loss.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "parallel.h"
#include "simd.h"
#include "softplus.h"

namespace ssdml {
namespace {

/// Rows of a triplet in a matrix of l columns.
template <typename T>
struct Rows {
  T *anchor, *positive, *negative;

  Rows(T* matrix, std::int64_t l, const std::int64_t* t)
      : anchor(matrix + t[0] * l), positive(matrix + t[1] * l), negative(matrix + t[2] * l) {}
};

/// m of one triplet, summed in numbers of type S.
template <typename S, typename T>
double margin_by_entry(const Rows<const T>& y, std::int64_t begin, std::int64_t end, double four_t) {
  S aa = 0, bb = 0;
  for (std::int64_t p = begin; p < end; ++p) {
    const S a = static_cast<S>(y.anchor[p]) - y.positive[p];
    const S b = y.negative[p] - (static_cast<S>(y.anchor[p]) + y.positive[p]) / 2;
    aa += a * a;
    bb += b * b;
  }
  return static_cast<double>(aa) - four_t * static_cast<double>(bb);
}

template <typename T>
double margin(const Rows<const T>& y, std::int64_t l, double four_t) {
  Vec<T> aa{}, bb{};
  std::int64_t p = 0;
  for (; p + lanes<T> <= l; p += lanes<T>) {
    const Vec<T> anchor = load(y.anchor + p), positive = load(y.positive + p);
    const Vec<T> a = anchor - positive, b = load(y.negative + p) - (anchor + positive) / 2;
    aa = multiply_add<T>(a, a, aa);
    bb = multiply_add<T>(b, b, bb);
  }
  const double m =
      static_cast<double>(sum<T>(aa)) - four_t * static_cast<double>(sum<T>(bb)) + margin_by_entry<T>(y, p, l, four_t);
  return std::isfinite(m) ? m : margin_by_entry<double>(y, 0, l, four_t);
}

/// Loss and slope = d loss / d m of at most lanes<T> triplets; weight, losses and slope may be null.
template <typename T>
void loss_and_slope(const T* y, std::int64_t l, const std::int64_t* triplets, std::int64_t count, double four_t,
                    const T* weight, T* losses, T* slope) {
  Vec<T> m{};
  for (std::int64_t t = 0; t < count; ++t)
    m[t] = static_cast<T>(margin(Rows<const T>(y, l, triplets + 3 * t), l, four_t));
  const Softplus<T> loss = softplus<T>(m);
  for (std::int64_t t = 0; t < count; ++t) {
    if (losses) losses[t] = loss.value[t];
    if (slope) slope[t] = weight ? weight[t] * loss.slope[t] : loss.slope[t];
  }
}

/// Adds the gradient of one triplet, d loss / d m = s, to columns begin .. end - 1 of its rows. Rows may coincide.
template <typename T>
void add_gradient(const Rows<const T>& y, const Rows<T>& grad, std::int64_t begin, std::int64_t end, T s, T four_t) {
  const T on_a = 2 * s, on_b = s * four_t;
  std::int64_t p = begin;
  for (; p + lanes<T> <= end; p += lanes<T>) {
    const Vec<T> anchor = load(y.anchor + p), positive = load(y.positive + p);
    const Vec<T> a = on_a * (anchor - positive), b = on_b * (load(y.negative + p) - (anchor + positive) / 2);
    store(grad.anchor + p, load(grad.anchor + p) + (b + a));
    store(grad.positive + p, load(grad.positive + p) + (b - a));
    store(grad.negative + p, load(grad.negative + p) - 2 * b);
  }
  for (; p < end; ++p) {
    const T a = on_a * (y.anchor[p] - y.positive[p]), b = on_b * (y.negative[p] - (y.anchor[p] + y.positive[p]) / 2);
    grad.anchor[p] += b + a;
    grad.positive[p] += b - a;
    grad.negative[p] -= 2 * b;
  }
}

}  // namespace

template <typename T>
void angular_loss(const T* y, std::int64_t n, std::int64_t l, const std::int64_t* triplets, std::int64_t n_triplets,
                  double tan2_alpha, const T* weight, T* losses, T* grad_y, int num_threads) {
  const double four_t = 4 * tan2_alpha;
  num_threads = threads_for(n_triplets * l / 4, num_threads);
  // One thread takes triplets in blocks whose rows stay in the first-level cache between the two steps. Several share
  // the triplets in the first step and the columns of grad_y in the second, where each therefore adds the parts of a
  // row in the order of the triplets, as one thread does.
  const std::int64_t block = num_threads == 1 ? 16 : n_triplets;
  std::vector<T> slope(grad_y ? block : 0);  // d loss / d m
#pragma omp parallel num_threads(num_threads)
  {
    constexpr std::int64_t line = 64 / sizeof(T);  // threads write to cache lines of their own
    const std::int64_t lines = (l + line - 1) / line, thread = thread_index(), team = team_size();
    const std::int64_t begin = lines * thread / team * line;
    const std::int64_t end = std::min(lines * (thread + 1) / team * line, l);
    if (grad_y)
      for (std::int64_t i = 0; i < n; ++i) std::fill(grad_y + i * l + begin, grad_y + i * l + end, T(0));
    for (std::int64_t first = 0; first < n_triplets; first += block) {
      const std::int64_t last = std::min(first + block, n_triplets);
#pragma omp for
      for (std::int64_t t = first; t < last; t += lanes<T>)
        loss_and_slope(y, l, triplets + 3 * t, std::min<std::int64_t>(lanes<T>, last - t), four_t,
                       weight ? weight + t : nullptr, losses ? losses + t : nullptr,
                       grad_y ? slope.data() + (t - first) : nullptr);
      if (grad_y)
        for (std::int64_t t = first; t < last; ++t)
          add_gradient(Rows<const T>(y, l, triplets + 3 * t), Rows<T>(grad_y, l, triplets + 3 * t), begin, end,
                       slope[t - first], static_cast<T>(four_t));
    }
  }
}

template void angular_loss(const float*, std::int64_t, std::int64_t, const std::int64_t*, std::int64_t, double,
                           const float*, float*, float*, int);
template void angular_loss(const double*, std::int64_t, std::int64_t, const std::int64_t*, std::int64_t, double,
                           const double*, double*, double*, int);

}  // namespace ssdml
