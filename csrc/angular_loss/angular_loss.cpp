#include "angular_loss/angular_loss.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "common/buffer.h"
#include "common/check.h"
#include "common/gemm.h"
#include "common/parallel.h"
#include "common/simd.h"
#include "common/softplus.h"

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
    const Vec<T> a = anchor - positive, b = multiply_add<T>(broadcast(T(-0.5)), anchor + positive, negative);
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
    const Vec<T> a = anchor - positive;
    const Vec<T> b = on_b * multiply_add<T>(broadcast(T(-0.5)), anchor + positive, load(y.negative + p));
    store(grad.anchor + p, multiply_add<T>(broadcast(on_a), a, load(grad.anchor + p) + b));
    store(grad.positive + p, multiply_add<T>(broadcast(-on_a), a, load(grad.positive + p) + b));
    store(grad.negative + p, multiply_add<T>(broadcast(T(-2)), b, load(grad.negative + p)));
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

/// Whether all entries are finite.
template <typename T>
bool is_finite(const T* x, std::int64_t count, int num_threads) {
  constexpr std::int64_t piece = 1 << 14;
  std::atomic<bool> finite{true};
  in_shares((count + piece - 1) / piece, threads_for(count / 8, num_threads),
            [&](std::int64_t begin, std::int64_t end, int) {
              for (std::int64_t first = begin * piece; first < std::min(end * piece, count) && finite; first += piece)
                if (!std::isfinite(largest_magnitude(x + first, std::min(piece, count - first)))) finite = false;
            });
  return finite;
}

/// Rows 0 .. used - 1 of x (n, d) move to rows[0] < rows[1] < ..., the last first; the others are cleared.
template <typename T>
void spread(T* x, std::int64_t n, std::int64_t d, const std::int64_t* rows, std::int64_t used) {
  std::int64_t after = n;
  for (std::int64_t i = used; i-- > 0; after = rows[i]) {
    T* const row = x + rows[i] * d;
    if (rows[i] != i) std::copy_n(x + i * d, d, row);
    std::fill(row + d, x + after * d, T(0));
  }
  std::fill(x, x + after * d, T(0));
}

/// Sum of w loss, w = 1 where weight is null.
template <typename T>
double sum_of_losses(const T* losses, const T* weight, std::int64_t count) {
  constexpr std::int64_t chains = 8;  // independent sums, to hide the latency of an addition
  double sums[chains] = {};
  const auto add = [&](std::int64_t t, std::int64_t chain) {
    sums[chain] += static_cast<double>(weight ? weight[t] : T(1)) * static_cast<double>(losses[t]);
  };
  std::int64_t t = 0;
  for (; t + chains <= count; t += chains)
    for (std::int64_t c = 0; c < chains; ++c) add(t + c, c);
  for (; t < count; ++t) add(t, 0);
  return std::accumulate(sums, sums + chains, 0.0);
}

}  // namespace

std::int64_t used_rows(const std::int64_t* triplets, std::int64_t n_triplets, std::int64_t n, std::int64_t* rows,
                       std::int64_t* positions) {
  std::vector<std::int64_t> position(n, -1);
  for (std::int64_t e = 0; e < 3 * n_triplets; ++e) position[triplets[e]] = 0;
  std::int64_t used = 0;
  for (std::int64_t i = 0; i < n; ++i)
    if (position[i] == 0) {
      rows[used] = i;
      position[i] = used++;
    }
  for (std::int64_t e = 0; e < 3 * n_triplets; ++e) positions[e] = position[triplets[e]];
  return used;
}

template <typename T>
AngularLossReport angular_loss(const T* z, std::int64_t n, std::int64_t d, const T* L, std::int64_t l,
                               const std::int64_t* triplets, std::int64_t n_triplets, double tan2_alpha,
                               const T* weight, T* losses, T* grad_y, T* x, std::int64_t* rows, int num_threads) {
  AngularLossReport report{0, n, all_indices(triplets, 3 * n_triplets, n), true};
  if (!report.in_range) return report;
  std::vector<std::int64_t> positions;
  if (rows) {
    report.is_finite = is_finite(z, n * d, num_threads) && is_finite(L, d * l, 1);
    positions.resize(3 * n_triplets);
    report.used = used_rows(triplets, n_triplets, n, rows, positions.data());
    for (std::int64_t i = 0; i < report.used; ++i) std::copy_n(z + rows[i] * d, d, x + i * d);
    z = x;
    triplets = positions.data();
  }
  const Buffer<T> y = make_scratch<T>(report.used * l);
  std::unique_ptr<T[]> unwanted;
  if (!losses) losses = (unwanted = std::make_unique_for_overwrite<T[]>(n_triplets)).get();
  gemm(report.used, l, d, Strided<T>{z, d, 1}, L, y.get(), false,
       threads_for_product(report.used * d * l, num_threads));
  report.is_finite = report.is_finite && is_finite(y.get(), report.used * l, num_threads);
  if (report.is_finite)
    report.loss =
        projected_loss(y.get(), report.used, l, triplets, n_triplets, tan2_alpha, weight, losses, grad_y, num_threads);
  return report;
}

template <typename T>
void angular_loss_backward(const T* x, std::int64_t used, std::int64_t d, const T* L, std::int64_t l, const T* grad_y,
                           T scale, const std::int64_t* rows, std::int64_t n, T* grad_z, T* grad_L, int num_threads) {
  num_threads = threads_for_product(used * d * l, num_threads);
  if (grad_z) {
    constexpr std::int64_t width = 192;  // a multiple of gemm's tiles; so many rows of L, transposed, stay in cache
    std::vector<T> transposed(l * std::min(width, d));
    for (std::int64_t first = 0; first < d; first += width) {
      const std::int64_t count = std::min(width, d - first);
      for (std::int64_t q = 0; q < l; ++q)
        for (std::int64_t i = 0; i < count; ++i) transposed[q * count + i] = scale * L[(first + i) * l + q];
      gemm(used, count, l, Strided<T>{grad_y, l, 1}, transposed.data(), count, grad_z + first, d, false, num_threads);
    }
    if (rows) spread(grad_z, n, d, rows, used);
  }
  if (grad_L) {
    gemm(d, l, used, Strided<T>{x, 1, d}, grad_y, grad_L, false, num_threads);
    for (std::int64_t i = 0; i < d * l; ++i) grad_L[i] *= scale;
  }
}

template <typename T>
double projected_loss(const T* y, std::int64_t n, std::int64_t l, const std::int64_t* triplets, std::int64_t n_triplets,
                      double tan2_alpha, const T* weight, T* losses, T* grad_y, int num_threads) {
  const double four_t = 4 * tan2_alpha;
  num_threads = threads_for(n_triplets * l / 4, num_threads);
  // One thread takes triplets in blocks whose rows stay in the first-level cache between the two steps. Several share
  // the triplets in the first step and the columns of grad_y in the second, where each therefore adds the parts of a
  // row in the order of the triplets, as one thread does.
  const std::int64_t block = num_threads == 1 ? lanes<T> : n_triplets;
  std::vector<T> slopes(grad_y ? block : 0);  // d loss / d m of the triplets of a block
  const auto clear = [&](std::int64_t begin, std::int64_t end) {
    if (end - begin == l) return std::fill(grad_y, grad_y + n * l, T(0));
    for (std::int64_t i = 0; i < n; ++i) std::fill(grad_y + i * l + begin, grad_y + i * l + end, T(0));
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
  if (num_threads == 1) {
    if (grad_y) clear(0, l);
    for (std::int64_t first = 0; first < n_triplets; first += block) {
      const std::int64_t last = std::min(first + block, n_triplets);
      find_losses(first, last, slopes.data());
      add_gradients(first, last, slopes.data(), 0, l);
    }
    return losses ? sum_of_losses(losses, weight, n_triplets) : 0;
  }
  constexpr std::int64_t line = 64 / sizeof(T);  // threads write to cache lines of their own
  const auto lines = [](std::int64_t count) { return (count + line - 1) / line; };
  in_shares(lines(n_triplets), num_threads, [&](std::int64_t begin, std::int64_t end, int) {
    const std::int64_t first = begin * line;
    find_losses(first, std::min(end * line, n_triplets), grad_y ? slopes.data() + first : nullptr);
  });
  if (grad_y)
    in_shares(lines(l), num_threads, [&](std::int64_t begin, std::int64_t end, int) {
      const std::int64_t first = begin * line, last = std::min(end * line, l);
      clear(first, last);
      add_gradients(0, n_triplets, slopes.data(), first, last);
    });
  return losses ? sum_of_losses(losses, weight, n_triplets) : 0;
}

#define SSDML_INSTANTIATE(T)                                                                                      \
  template double projected_loss(const T*, std::int64_t, std::int64_t, const std::int64_t*, std::int64_t, double, \
                                 const T*, T*, T*, int);                                                          \
  template AngularLossReport angular_loss(const T*, std::int64_t, std::int64_t, const T*, std::int64_t,           \
                                          const std::int64_t*, std::int64_t, double, const T*, T*, T*, T*,        \
                                          std::int64_t*, int);                                                    \
  template void angular_loss_backward(const T*, std::int64_t, std::int64_t, const T*, std::int64_t, const T*, T,  \
                                      const std::int64_t*, std::int64_t, T*, T*, int);
SSDML_INSTANTIATE(float)
SSDML_INSTANTIATE(double)

}  // namespace ssdml
