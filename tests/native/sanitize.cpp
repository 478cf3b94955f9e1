// Drives every CPU kernel over awkward shapes under the sanitizers (CMake preset "sanitize"). Whether the answers are
// right is for the Python tests; here each kernel must only stay within its arrays and within defined behaviour.
// Buffers are exactly as long as the contracts say, so that one step too far is seen.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <utility>
#include <vector>

#include "affinity/affinity.h"
#include "angular_loss/angular_loss.h"
#include "knn_graph/knn_graph.h"
#include "mine_class_triplets/mine_class_triplets.h"
#include "mine_triplets/mine_triplets.h"
#include "propagate_labels/propagate_labels.h"
#include "riemannian_cg/riemannian_cg.h"
#include "stiefel/stiefel.h"

using namespace ssdml;
using Indices = std::vector<std::int64_t>;

namespace {

struct Silent : Progress {
  bool update(double) override { return true; }
} silent;

/// Asks to stop at the n-th poll.
struct Stopping : Progress {
  explicit Stopping(int n) : left(n) {}
  bool update(double) override { return --left > 0; }
  int left;
};

std::mt19937 generator(0);

template <typename T>
std::vector<T> points(std::int64_t n, std::int64_t d, int kind) {
  std::normal_distribution<double> normal;
  std::vector<T> x(n * d);
  for (T& value : x) value = static_cast<T>(normal(generator));
  if (kind == 1) std::fill(x.begin(), x.end(), T(3));  // one point, many times
  if (kind == 2)
    for (T& value : x) value = static_cast<T>(value * 1e-40);  // subnormal float32
  if (kind == 3)
    for (T& value : x) value = static_cast<T>(value + 1e6);  // far from the origin
  return x;
}

template <typename T>
void partition(std::int64_t n, std::int64_t d, std::int64_t k, const Indices& ptr, int kind, int threads) {
  const auto segments = static_cast<std::int64_t>(ptr.size()) - 1;
  const std::vector<T> x = points<T>(n, d, kind);
  Indices indices(n * k);
  std::vector<T> distances(n * k);
  for (const Metric metric : {Metric::sqeuclidean, Metric::euclidean, Metric::cosine, Metric::inner_product})
    for (const std::int64_t bytes : {std::int64_t{1}, std::int64_t{1} << 28})
      knn_graph(x.data(), n, d, k, metric, ptr.data(), segments, indices.data(), distances.data(), threads, bytes,
                silent);

  Indices labels(n);
  for (std::int64_t i = 0; i < n; ++i) labels[i] = i % 3 == 0 ? i % 2 : -1;
  std::vector<T> values(n * k), mass(n * 2), posteriors(n * 2);
  std::vector<double> weights(n * k);
  for (std::int64_t e = 0; e < n * k; ++e) weights[e] = static_cast<double>(1 + e % 3);
  for (const double* w : {static_cast<const double*>(nullptr), static_cast<const double*>(weights.data())})
    for (const auto& [rank, size] : std::vector<std::pair<int, int>>{{8, 9}, {1, 2}, {0, 2}, {0, 1}}) {
      Peers peers(rank, size);  // others' columns stay zero
      propagate_affinity(indices.data(), w, n, k, labels.data(), 2, 0.9, 1e-6, values.data(), mass.data(), threads,
                         silent, peers);
      propagate_labels(indices.data(), w, n, k, ptr.data(), segments, labels.data(), 2, 0.9, 1e-6, posteriors.data(),
                       threads, silent, peers);
    }

  Indices anchors(n), triplets(n * (k / 2) * 3);
  for (std::int64_t i = 0; i < n; ++i) anchors[i] = n - 1 - i;
  mine_triplets(indices.data(), distances.data(), values.data(), k, anchors.data(), n, triplets.data(), threads);

  const auto count = static_cast<std::int64_t>(triplets.size()) / 3;
  std::vector<T> losses(count), grad(n * d), grad_x(n * d), grad_metric(d * d);
  projected_loss<T>(x.data(), n, d, triplets.data(), count, 0.7, nullptr, losses.data(), grad.data(), threads);
  const std::vector<T> metric = points<T>(d, d, 1);
  Indices rows(n);
  std::vector<T> few(n * d);
  for (const bool is_sparse : {false, true}) {
    std::int64_t* const used_rows = is_sparse ? rows.data() : nullptr;
    const AngularLossReport report = angular_loss(
        x.data(), n, d, metric.data(), d, triplets.data(), is_sparse ? std::min<std::int64_t>(count, 1) : count, 0.7,
        static_cast<const T*>(nullptr), static_cast<T*>(nullptr), grad.data(), few.data(), used_rows, threads);
    if (!(report.in_range && report.is_finite)) std::abort();
    angular_loss_backward(is_sparse ? few.data() : x.data(), report.used, d, metric.data(), d, grad.data(), T(2),
                          used_rows, n, grad_x.data(), grad_metric.data(), threads);
  }
}

/// Two sets that seek in each other, with limits of which some let all pass, some none.
template <typename T>
void between(std::int64_t n_a, std::int64_t n_b, std::int64_t d, std::int64_t k, int threads) {
  const std::vector<T> a = points<T>(n_a, d, 0), b = points<T>(n_b, d, 0);
  std::vector<T> limits_a(n_a, T(1)), limits_b(n_b, std::numeric_limits<T>::infinity());
  limits_a[0] = -std::numeric_limits<T>::max();
  Indices of_a(n_a * k), of_b(n_b * k);
  std::vector<T> distances_a(n_a * k), distances_b(n_b * k);
  for (const Metric metric : {Metric::sqeuclidean, Metric::cosine, Metric::inner_product})
    for (const std::int64_t bytes : {std::int64_t{1}, std::int64_t{1} << 28})
      knn_between(a.data(), n_a, b.data(), n_b, d, k, metric, limits_a.data(), of_a.data(), distances_a.data(),
                  limits_b.data(), of_b.data(), distances_b.data(), threads, bytes, silent);
  Indices nearest(n_a * 2, 7);
  std::vector<T> distances(n_a * 2, T(1));
  merge_neighbors(n_a, 2, nearest.data(), distances.data(), k, of_a.data(), distances_a.data(), 5, threads);
}

/// Stops a search at every poll there is, and lets it refuse a point.
void stop(int threads) {
  std::vector<float> x = points<float>(1500, 40, 0);
  Indices indices(1500 * 3);
  std::vector<float> distances(1500 * 3);
  const Indices ptr{0, 100, 1500};
  const auto graph = [&](Progress& progress) {
    return knn_graph(x.data(), 1500, 40, 3, Metric::cosine, ptr.data(), 2, indices.data(), distances.data(), threads, 1,
                     progress);
  };
  const auto search = [&](Progress& progress) {
    return knn_search(x.data(), 700, x.data(), 1500, 40, 3, Metric::cosine, indices.data(), distances.data(), threads,
                      1, progress);
  };
  const std::vector<float> limits(1500, std::numeric_limits<float>::infinity());
  const auto both = [&](Progress& progress) {
    return knn_between(x.data(), 800, x.data() + 800 * 40, 700, 40, 3, Metric::cosine, limits.data(), indices.data(),
                       distances.data(), limits.data(), indices.data() + 800 * 3, distances.data() + 800 * 3, threads,
                       1, progress);
  };
  for (int polls = 1;; ++polls) {
    Stopping first(polls), second(polls), third(polls);
    if ((graph(first) == SearchOutcome::complete) + (search(second) == SearchOutcome::complete) +
            (both(third) == SearchOutcome::complete) ==
        3)
      break;
  }
  x[777] = std::numeric_limits<float>::quiet_NaN();
  for (const SearchOutcome outcome : {graph(silent), search(silent), both(silent)})
    if (outcome != SearchOutcome::refused) std::abort();
}

template <typename T>
void search(std::int64_t queries, std::int64_t base, std::int64_t d, std::int64_t k, int threads) {
  const std::vector<T> a = points<T>(queries, d, 0), b = points<T>(base, d, 0);
  Indices indices(queries * k);
  std::vector<T> distances(queries * k);
  for (const std::int64_t bytes : {std::int64_t{1}, std::int64_t{1} << 28})
    knn_search(a.data(), queries, b.data(), base, d, k, Metric::sqeuclidean, indices.data(), distances.data(), threads,
               bytes, silent);
}

template <typename T>
void update(std::int64_t batch, std::int64_t d, std::int64_t l, double step, int threads) {
  std::vector<T> L(batch * d * l, T(0)), updated(L.size());
  for (std::int64_t b = 0; b < batch; ++b)
    for (std::int64_t j = 0; j < l; ++j) L[(b * d + j) * l + j] = 1;
  const std::vector<T> grad = points<T>(batch * d, l, 0);
  cayley_update(L.data(), grad.data(), batch, d, l, step, updated.data(), threads);
  qr_retraction(L.data(), grad.data(), batch, d, l, updated.data(), threads);
}

/// Draws among groups of these sizes, those of one point last; with rows of `width` nearest for each possible anchor.
void draw(const Indices& sizes, std::int64_t width, std::uint64_t seed, int threads) {
  Indices starts{0};
  std::int64_t n_anchor_groups = 0;
  for (const std::int64_t size : sizes) {
    starts.push_back(starts.back() + size);
    n_anchor_groups += size > 1;
  }
  const Indices points(starts.back(), 7), nearest(starts[n_anchor_groups] * width, 7);
  const auto n_groups = static_cast<std::int64_t>(sizes.size());
  Indices triplets(1000 * 3);
  for (const bool balanced : {false, true})
    for (const std::int64_t* negatives : {static_cast<const std::int64_t*>(nullptr), nearest.data()})
      mine_class_triplets({points.data(), starts.data(), n_groups, n_anchor_groups, negatives, width, seed, balanced},
                          1000, triplets.data(), threads);
}

template <typename T>
void descend(std::int64_t n, std::int64_t d, std::int64_t l, std::int64_t count, int threads) {
  const std::vector<T> z = points<T>(n, d, 0);
  std::vector<T> L(d * l, T(0));
  for (std::int64_t j = 0; j < l; ++j) L[j * l + j] = 1;
  Indices triplets(3 * count);
  for (std::int64_t& index : triplets) index = static_cast<std::int64_t>(generator() % n);
  riemannian_cg<T>(z.data(), n, d, l, triplets.data(), count, 0.7, nullptr, 3, L.data(), threads, silent);
}

template <typename T>
void all(int threads) {
  partition<T>(0, 3, 2, {0}, 0, threads);
  partition<T>(2, 1, 1, {0, 2}, 0, threads);
  partition<T>(9, 3, 8, {0, 9}, 0, threads);
  partition<T>(60, 5, 3, {0, 0, 4, 30, 30, 60}, 0, threads);
  for (int kind = 0; kind < 4; ++kind) partition<T>(300, 7, 10, {0, 300}, kind, threads);
  partition<T>(1001, 33, 5, {0, 1001}, 0, threads);
  partition<T>(4500, 2, 5, {0, 4500}, 0, threads);
  partition<T>(250, 301, 249, {0, 250}, 0, threads);
  search<T>(1, 1, 1, 1, threads);
  search<T>(5, 700, 300, 20, threads);
  search<T>(700, 5, 3, 5, threads);
  between<T>(1, 1, 1, 2, threads);
  between<T>(500, 700, 30, 20, threads);
  between<T>(900, 5, 300, 9, threads);
  partition<T>(1200, 2, 1100, {0, 1200}, 0, threads);
  descend<T>(1, 1, 1, 0, threads);
  descend<T>(9, 5, 5, 7, threads);
  descend<T>(300, 70, 33, 100, threads);
  descend<T>(2000, 130, 64, 5000, threads);
  update<T>(1, 1, 1, 0.1, threads);
  update<T>(1, 130, 65, 0.1, threads);
  update<T>(3, 20, 20, 1e4, threads);
  update<T>(1, 300, 64, 1e300, threads);
}

}  // namespace

int main() {
  for (int threads : {1, 2}) {
    all<float>(threads);
    all<double>(threads);
    stop(threads);
    draw({2, 1}, 1, 0, threads);
    draw({2, 2}, 5, ~std::uint64_t{0}, threads);
    draw({300, 2, 7, 1, 1, 1}, 3, 1, threads);
  }
  std::puts("every kernel stayed within its arrays");
}
