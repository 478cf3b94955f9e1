#include "angular_loss.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "check.h"
#include "gemm.h"
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

/// m of one triplet in numbers that squares do not leave.
template <typename T>
double wide_margin(const Rows<const T>& y, std::int64_t l, double four_t) {
  double aa = 0, bb = 0;
  for (std::int64_t p = 0; p < l; ++p) {
    const double anchor = y.anchor[p], positive = y.positive[p];
    const double a = anchor - positive, b = y.negative[p] - (anchor + positive) / 2;
    aa += a * a;
    bb += b * b;
  }
  return aa - four_t * bb;
}

/// m of one triplet, as the sum of the lanes.
template <typename T>
inline Vec<T> margin(const Rows<const T>& y, std::int64_t l, T four_t) {
  Vec<T> aa{}, bb{};
  const auto add = [&](Vec<T> anchor, Vec<T> positive, Vec<T> negative) {
    const Vec<T> a = anchor - positive, b = negative - (anchor + positive) / 2;
    aa = multiply_add<T>(a, a, aa);
    bb = multiply_add<T>(b, b, bb);
  };
  std::int64_t p = 0;
  for (; p + lanes<T> <= l; p += lanes<T>) add(load(y.anchor + p), load(y.positive + p), load(y.negative + p));
  if (p < l)
    add(load_first(y.anchor + p, l - p, T(0)), load_first(y.positive + p, l - p, T(0)),
        load_first(y.negative + p, l - p, T(0)));
  return multiply_add<T>(broadcast(-four_t), bb, aa);
}

/// Loss and slope = d loss / d m of at most lanes<T> triplets; weight, losses and slope may be null.
template <typename T>
void loss_and_slope(const T* y, std::int64_t l, const std::int64_t* triplets, std::int64_t count, double four_t,
                    const T* weight, T* losses, T* slope) {
  Vec<T> margins[lanes<T>] = {};
  for (std::int64_t t = 0; t < count; ++t)
    margins[t] = margin(Rows<const T>(y, l, triplets + 3 * t), l, static_cast<T>(four_t));
  Vec<T> m = sum_each<T>(margins);
  if (!(sum<T>(m * 0) == 0))  // not all finite
    for (std::int64_t t = 0; t < count; ++t)
      if (!std::isfinite(m[t])) m[t] = static_cast<T>(wide_margin(Rows<const T>(y, l, triplets + 3 * t), l, four_t));
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

/// Threads for a product of that many multiplications.
int threads_for_product(std::int64_t multiplications, int num_threads) {
  return threads_for(multiplications / 32, num_threads);
}

}  // namespace

template <typename T>
bool project(const T* z, std::int64_t n, std::int64_t d, const T* L, std::int64_t l, T* y, int num_threads) {
  gemm(n, l, d, Strided<T>{z, d, 1}, L, y, false, threads_for_product(n * d * l, num_threads));
  constexpr std::int64_t piece = 1 << 14;
  bool finite = true;
  num_threads = threads_for(n * l / 8, num_threads);
#pragma omp parallel for num_threads(num_threads) schedule(static) reduction(&& : finite) if (num_threads > 1)
  for (std::int64_t first = 0; first < n * l; first += piece)
    finite = finite && std::isfinite(largest_magnitude(y + first, std::min(piece, n * l - first)));
  return finite;
}

template <typename T>
void project_backward(const T* z, std::int64_t n, std::int64_t d, const T* L, std::int64_t l, const T* grad_y, T scale,
                      T* grad_z, T* grad_L, int num_threads) {
  num_threads = threads_for_product(n * d * l, num_threads);
  if (grad_z) {
    constexpr std::int64_t width = 192;  // a multiple of gemm's tiles; so many rows of L, transposed, stay in cache
    std::vector<T> transposed(l * std::min(width, d));
    for (std::int64_t first = 0; first < d; first += width) {
      const std::int64_t count = std::min(width, d - first);
      for (std::int64_t q = 0; q < l; ++q)
        for (std::int64_t i = 0; i < count; ++i) transposed[q * count + i] = scale * L[(first + i) * l + q];
      gemm(n, count, l, Strided<T>{grad_y, l, 1}, transposed.data(), count, grad_z + first, d, false, num_threads);
    }
  }
  if (grad_L) {
    gemm(d, l, n, Strided<T>{z, 1, d}, grad_y, grad_L, false, num_threads);
    for (std::int64_t i = 0; i < d * l; ++i) grad_L[i] *= scale;
  }
}

template <typename T>
void angular_loss(const T* y, std::int64_t n, std::int64_t l, const std::int64_t* triplets, std::int64_t n_triplets,
                  double tan2_alpha, const T* weight, T* losses, T* grad_y, int num_threads) {
  const double four_t = 4 * tan2_alpha;
  num_threads = threads_for(n_triplets * l / 4, num_threads);
  // One thread takes triplets in blocks whose rows stay in the first-level cache between the two steps. Several share
  // the triplets in the first step and the columns of grad_y in the second, where each therefore adds the parts of a
  // row in the order of the triplets, as one thread does.
  const std::int64_t block = num_threads == 1 ? lanes<T> : n_triplets;
  std::vector<T> slopes(grad_y ? block : 0);  // d loss / d m of the triplets of a block
  const auto clear = [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = 0; i < n && grad_y; ++i) std::fill(grad_y + i * l + begin, grad_y + i * l + end, T(0));
  };
  const auto find_losses = [&](std::int64_t first, std::int64_t last, T* slope) {
    for (std::int64_t t = first; t < last; t += lanes<T>)
      loss_and_slope(y, l, triplets + 3 * t, std::min<std::int64_t>(lanes<T>, last - t), four_t,
                     weight ? weight + t : nullptr, losses ? losses + t : nullptr,
                     grad_y ? slope + (t - first) : nullptr);
  };
  const auto add_gradients = [&](std::int64_t first, std::int64_t last, const T* slope, std::int64_t begin,
                                 std::int64_t end) {
    for (std::int64_t t = first; t < last && grad_y; ++t)
      add_gradient(Rows<const T>(y, l, triplets + 3 * t), Rows<T>(grad_y, l, triplets + 3 * t), begin, end,
                   slope[t - first], static_cast<T>(four_t));
  };
  if (num_threads == 1) {  // without OpenMP, whose every barrier would be a call of the system
    clear(0, l);
    for (std::int64_t first = 0; first < n_triplets; first += block) {
      const std::int64_t last = std::min(first + block, n_triplets);
      find_losses(first, last, slopes.data());
      add_gradients(first, last, slopes.data(), 0, l);
    }
    return;
  }
#pragma omp parallel num_threads(num_threads)
  {
    constexpr std::int64_t line = 64 / sizeof(T);  // threads write to cache lines of their own
    const auto share = [thread = thread_index(), team = team_size()](std::int64_t count, std::int64_t piece) {
      const std::int64_t pieces = (count + piece - 1) / piece;
      return std::pair(pieces * thread / team * piece, std::min(pieces * (thread + 1) / team * piece, count));
    };
    const auto [begin, end] = share(l, line);
    const auto [first, last] = share(n_triplets, line);
    clear(begin, end);
    find_losses(first, last, slopes.data() + first);
#pragma omp barrier
    add_gradients(0, n_triplets, slopes.data(), begin, end);
  }
}

#define SSDML_INSTANTIATE(T)                                                                                        \
  template bool project(const T*, std::int64_t, std::int64_t, const T*, std::int64_t, T*, int);                     \
  template void project_backward(const T*, std::int64_t, std::int64_t, const T*, std::int64_t, const T*, T, T*, T*, \
                                 int);                                                                              \
  template void angular_loss(const T*, std::int64_t, std::int64_t, const std::int64_t*, std::int64_t, double,       \
                             const T*, T*, T*, int);
SSDML_INSTANTIATE(float)
SSDML_INSTANTIATE(double)

}  // namespace ssdml
