// Runs every CUDA kernel on the CPU (cuda_on_cpu/) under the sanitizers, over awkward shapes (CMake preset "sanitize"):
// answers must equal the CPU kernels', whichever order threads and blocks run in and however few blocks there are.
// Buffers are exactly as long as the contracts say and hold NaNs before they are written.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "affinity/affinity.h"
#include "angular_loss/angular_loss.h"
#include "cuda_on_cpu/block.h"
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

Peers alone;

/// Counts how often it is told that more is done than before.
struct Counting : Progress {
  bool update(double share) override {
    rises = share > last && share <= 1 ? rises + 1 : -1000;
    last = share;
    return rises != stop_at;
  }
  double last = 0;
  int rises = 0, stop_at = -1;
};

std::mt19937 generator(0);
int failures = 0;

/// `count` entries, all bits set: NaN or -1.
template <typename T>
std::vector<T> unwritten(std::int64_t count) {
  std::vector<T> buffer(count);
  if (count > 0) std::memset(static_cast<void*>(buffer.data()), 0xff, count * sizeof(T));
  return buffer;
}

/// Memory as the contracts ask for it.
class Workspace {
 public:
  explicit Workspace(std::int64_t bytes) : memory_(bytes > 0 ? std::aligned_alloc(256, bytes) : nullptr) {
    if (memory_) std::memset(memory_.get(), 0xff, bytes);
  }
  void* get() { return memory_.get(); }

 private:
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  std::unique_ptr<void, Free> memory_;
};

template <typename T>
T normal() {
  static std::normal_distribution<double> distribution;
  return static_cast<T>(distribution(generator));
}
template <>
float16 normal() {
  return {static_cast<std::uint16_t>(generator() & 0xbfff)};  // any finite number below 2
}
template <>
bfloat16 normal() {
  return {static_cast<std::uint16_t>((generator() & 0x81ff) | 0x3e00)};  // 0.125 to 2, either sign
}

std::int64_t below(std::int64_t n) { return static_cast<std::int64_t>(generator() % n); }

/// Calls f once for each way of running a launch.
template <typename F>
void in_every_way(F f) {
  for (const bool descending : {false, true}) {
    cuda_on_cpu::descending = descending;
    f();
  }
  cuda_on_cpu::most_blocks = 2;
  f();
  cuda_on_cpu::most_blocks = 0x7fffffff;
}

/// Compares found with right to `tolerance`, absolute and relative to the largest right entry; NaN is never right.
template <typename T>
void expect(const char* what, const std::vector<T>& found, const std::vector<T>& right, double tolerance) {
  double largest = 1;
  for (const T& value : right) largest = std::max(largest, std::abs(static_cast<double>(value)));
  for (std::size_t e = 0; e < right.size(); ++e) {
    const auto a = static_cast<double>(found[e]), b = static_cast<double>(right[e]);
    if (tolerance == 0 ? found[e] == right[e] : std::abs(a - b) <= tolerance * largest) continue;
    std::printf("%s: found %.17g for %.17g at entry %zu of %zu\n", what, a, b, e, right.size());
    ++failures;
    return;
  }
}

constexpr Metric kMetrics[] = {Metric::sqeuclidean, Metric::euclidean, Metric::cosine, Metric::inner_product};

/// Points among which are duplicates, a zero and, in float64, some so small that their squares underflow. Every other
/// run of 64 is far from the rest.
template <typename X>
std::vector<X> points(std::int64_t n, std::int64_t d) {
  std::vector<X> x(n * d);
  for (X& value : x) value = normal<X>();
  if constexpr (std::is_floating_point_v<X>)
    for (std::int64_t e = 0; e < n * d; ++e) x[e] += static_cast<X>(e / d / 64 % 2 * 100);
  for (std::int64_t p = 0; p < d && n > 5; ++p) {
    x[p] = x[3 * d + p];
    x[4 * d + p] = X{};
    if constexpr (std::is_same_v<X, double>) {
      x[d + p] *= 1e-170;
      x[5 * d + p] *= 1e-170;
    }
  }
  return x;
}

template <typename X>
void graph(const Indices& ptr, std::int64_t d, std::int64_t k) {
  const std::int64_t n = ptr.back(), segments = static_cast<std::int64_t>(ptr.size()) - 1;
  const std::vector<X> x = points<X>(n, d);
  std::int64_t largest = 0;
  for (std::int64_t s = 0; s < segments; ++s) largest = std::max(largest, ptr[s + 1] - ptr[s]);
  for (const Metric metric : kMetrics) {
    Indices right(n * k);
    std::vector<Distance<X>> distances(n * k);
    knn_graph(x.data(), n, d, k, metric, ptr.data(), segments, right.data(), distances.data(), 1, 1 << 28, silent);
    in_every_way([&] {
      auto indices = unwritten<std::int64_t>(n * k);
      auto found = unwritten<Distance<X>>(n * k);
      Workspace workspace(cuda::knn_graph_workspace(n, d, k, metric, largest));
      cuda::knn_graph(x.data(), n, d, k, metric, ptr.data(), segments, largest, indices.data(), found.data(), nullptr,
                      workspace.get(), nullptr);
      expect("knn_graph indices", indices, right, 0);
      expect("knn_graph distances", found, distances, 0);
    });
    if (metric != Metric::sqeuclidean) continue;
    // Watched, it gives the same answer, in parts of which each may be the last.
    auto indices = unwritten<std::int64_t>(n * k);
    auto found = unwritten<Distance<X>>(n * k);
    Workspace workspace(cuda::knn_graph_workspace(n, d, k, metric, largest));
    const auto watched = [&](Counting& progress) {
      return cuda::knn_graph(x.data(), n, d, k, metric, ptr.data(), segments, largest, indices.data(), found.data(),
                             &progress, workspace.get(), nullptr);
    };
    Counting all;
    bool is_right = watched(all) == SearchOutcome::complete && (n == 0 || (all.rises > 0 && all.last == 1));
    expect("knn_graph indices, watched", indices, right, 0);
    expect("knn_graph distances, watched", found, distances, 0);
    for (const int stop_at : {1, all.rises - 1}) {
      Counting some;
      some.stop_at = stop_at;
      if (0 < stop_at && stop_at < all.rises)
        is_right = is_right && watched(some) == SearchOutcome::stopped && some.rises == stop_at;
    }
    if (!is_right) {
      std::printf("knn_graph told progress of %d parts, up to %g, or could not be stopped\n", all.rises, all.last);
      ++failures;
    }
  }
}

template <typename X>
void search(std::int64_t n_queries, std::int64_t n_base, std::int64_t d, std::int64_t k) {
  const std::vector<X> queries = points<X>(n_queries, d), base = points<X>(n_base, d);
  for (const Metric metric : kMetrics) {
    Indices right(n_queries * k);
    std::vector<Distance<X>> distances(n_queries * k);
    knn_search(queries.data(), n_queries, base.data(), n_base, d, k, metric, right.data(), distances.data(), 1, 1 << 28,
               silent);
    in_every_way([&] {
      auto indices = unwritten<std::int64_t>(n_queries * k);
      auto found = unwritten<Distance<X>>(n_queries * k);
      Workspace workspace(cuda::knn_search_workspace(n_queries, n_base, d, k, metric));
      cuda::knn_search(queries.data(), n_queries, base.data(), n_base, d, k, metric, indices.data(), found.data(),
                       metric == Metric::euclidean ? &silent : nullptr, workspace.get(), nullptr);
      expect("knn_search indices", indices, right, 0);
      expect("knn_search distances", found, distances, 0);
    });
  }
}

/// Random distinct neighbours within each segment.
Indices neighbours(const Indices& ptr, std::int64_t k) {
  Indices indices;
  for (std::size_t s = 0; s + 1 < ptr.size(); ++s)
    for (std::int64_t i = ptr[s]; i < ptr[s + 1]; ++i) {
      Indices others;
      for (std::int64_t j = ptr[s]; j < ptr[s + 1]; ++j)
        if (j != i) others.push_back(j);
      std::shuffle(others.begin(), others.end(), generator);
      indices.insert(indices.end(), others.begin(), others.begin() + k);
    }
  return indices;
}

template <typename T>
void propagate(const Indices& ptr, std::int64_t k, std::int64_t classes, double labelled, bool weighted, double gamma,
               double tol) {
  const std::int64_t n = ptr.back(), segments = static_cast<std::int64_t>(ptr.size()) - 1;
  const Indices indices = neighbours(ptr, k);
  Indices labels(n);
  for (std::int64_t& label : labels) label = below(1000) < 1000 * labelled ? below(classes) : -1;
  std::vector<double> weight(n * k);
  for (double& entry : weight) entry = static_cast<double>(1 + below(4));
  const double* const weights = weighted ? weight.data() : nullptr;
  const auto within = [&](const char* what, const WalkReport& report) {
    if (report.finished && report.error_bound <= tol + 1e-7) return;
    std::printf("%s: bound %g for a tolerance of %g\n", what, report.error_bound, tol);
    ++failures;
  };

  std::vector<T> right(n * k), right_mass(n * classes);
  const WalkReport exact = propagate_affinity(indices.data(), weights, n, k, labels.data(), classes, gamma, 1e-9,
                                              right.data(), right_mass.data(), 1, silent, alone);
  in_every_way([&] {
    auto values = unwritten<T>(n * k), mass = unwritten<T>(n * classes);
    Workspace workspace(cuda::propagate_affinity_workspace(n, k, weighted, classes));
    const WalkReport report =
        cuda::propagate_affinity(indices.data(), weights, n, k, labels.data(), classes, gamma, tol, values.data(),
                                 mass.data(), silent, alone, workspace.get(), nullptr);
    const double bound = report.error_bound + exact.error_bound;
    expect("affinity values", values, right, bound);
    expect("affinity class mass", mass, right_mass, bound);
    within("affinity", report);
  });

  std::vector<T> posteriors(n * classes);
  const WalkReport known = propagate_labels(indices.data(), weights, n, k, ptr.data(), segments, labels.data(), classes,
                                            gamma, 1e-9, posteriors.data(), 1, silent, alone);
  in_every_way([&] {
    auto found = unwritten<T>(n * classes);
    Workspace workspace(cuda::propagate_labels_workspace(n, k, weighted, segments, classes));
    const WalkReport report =
        cuda::propagate_labels(indices.data(), weights, n, k, ptr.data(), segments, labels.data(), classes, gamma, tol,
                               found.data(), silent, alone, workspace.get(), nullptr);
    expect("posteriors", found, posteriors, report.error_bound + known.error_bound);
    within("posteriors", report);
  });
}

template <typename T>
void mine(std::int64_t n, std::int64_t k, std::int64_t levels, bool with_distances) {
  const Indices indices = neighbours({0, n}, k);
  std::vector<T> values(n * k), distances(n * k);
  for (T& value : values) value = static_cast<T>(below(levels)) / 4;  // with ties
  for (T& distance : distances) distance = static_cast<T>(below(levels));
  Indices anchors(n / 2 + 3);
  for (std::int64_t& anchor : anchors) anchor = below(n);
  const auto count = static_cast<std::int64_t>(anchors.size());
  const T* const lengths = with_distances ? distances.data() : nullptr;
  Indices right(count * (k / 2) * 3);
  mine_triplets(indices.data(), lengths, values.data(), k, anchors.data(), count, right.data(), 1);
  in_every_way([&] {
    auto triplets = unwritten<std::int64_t>(count * (k / 2) * 3);
    cuda::mine_triplets(indices.data(), lengths, values.data(), k, anchors.data(), count, triplets.data(), nullptr);
    expect("mine_triplets", triplets, right, 0);
  });
}

void draw(const Indices& sizes, std::int64_t width) {
  Indices starts{0};
  std::int64_t n_anchor_groups = 0;
  for (const std::int64_t size : sizes) {
    starts.push_back(starts.back() + size);
    n_anchor_groups += size > 1;
  }
  const std::int64_t* const at_random = nullptr;
  Indices members(starts.back()), nearest(starts[n_anchor_groups] * width), right(1000 * 3);
  for (std::int64_t& member : members) member = below(1000);
  for (std::int64_t& negative : nearest) negative = below(1000);
  for (const bool balanced : {false, true})
    for (const std::int64_t* negatives : {at_random, std::as_const(nearest).data()}) {
      const auto n_groups = static_cast<std::int64_t>(sizes.size());
      const ClassTriplets source{members.data(), starts.data(), n_groups, n_anchor_groups,
                                 negatives,      width,         7,        balanced};
      mine_class_triplets(source, 1000, right.data(), 1);
      in_every_way([&] {
        auto triplets = unwritten<std::int64_t>(1000 * 3);
        cuda::mine_class_triplets(source, 1000, triplets.data(), nullptr);
        expect("mine_class_triplets", triplets, right, 0);
      });
    }
}

template <typename T>
void loss(std::int64_t n, std::int64_t l, std::int64_t count) {
  std::vector<T> y(n * l), weights(count);
  for (T& value : y) value = normal<T>();
  for (T& weight : weights) weight = normal<T>();
  Indices triplets(3 * count);
  for (std::int64_t& index : triplets) index = below(n);
  const double tolerance = sizeof(T) == 4 ? 1e-5 : 1e-13;
  for (const T* weight : {static_cast<const T*>(nullptr), static_cast<const T*>(weights.data())}) {
    std::vector<T> right(count), right_grad(n * l);
    projected_loss(y.data(), n, l, triplets.data(), count, 0.7, weight, right.data(), right_grad.data(), 1);
    in_every_way([&] {
      auto losses = unwritten<T>(count), alone = unwritten<T>(count), grad = unwritten<T>(n * l);
      Workspace workspace(cuda::projected_loss_workspace(n, count));
      cuda::projected_loss(y.data(), n, l, triplets.data(), count, 0.7, weight, losses.data(), grad.data(),
                           workspace.get(), nullptr);
      cuda::projected_loss<T>(y.data(), n, l, triplets.data(), count, 0.7, weight, alone.data(), nullptr, nullptr,
                              nullptr);
      expect("projected_loss", losses, right, tolerance);
      expect("projected_loss without a gradient", alone, losses, 0);
      expect("projected_loss gradient", grad, right_grad, tolerance);
    });
  }
}

/// A batch of matrices with orthonormal columns, up to `drift`: products of reflections.
template <typename T>
std::vector<T> stiefel(std::int64_t batch, std::int64_t d, std::int64_t l, double drift) {
  std::vector<T> L(batch * d * l);
  for (std::int64_t b = 0; b < batch; ++b) {
    std::vector<double> q(d * l, 0.0), v(d);
    for (std::int64_t j = 0; j < l; ++j) q[j * l + j] = 1;
    for (int reflection = 0; reflection < 3; ++reflection) {
      double square = 0;
      for (double& value : v) {
        value = normal<double>();
        square += value * value;
      }
      for (std::int64_t j = 0; j < l; ++j) {
        double product = 0;
        for (std::int64_t i = 0; i < d; ++i) product += v[i] * q[i * l + j];
        for (std::int64_t i = 0; i < d; ++i) q[i * l + j] -= 2 * product / square * v[i];
      }
    }
    for (std::int64_t e = 0; e < d * l; ++e) L[b * d * l + e] = static_cast<T>(q[e] * (1 + drift * normal<double>()));
  }
  return L;
}

template <typename T>
void update(std::int64_t batch, std::int64_t d, std::int64_t l, double step) {
  const std::vector<T> L = stiefel<T>(batch, d, l, sizeof(T) == 4 ? 1e-5 : 1e-7);
  std::vector<T> grad(L.size()), right(L.size());
  for (T& value : grad) value = normal<T>();
  const CayleyReport report = cayley_update(L.data(), grad.data(), batch, d, l, step, right.data(), 1);
  in_every_way([&] {
    auto updated = unwritten<T>(batch * d * l);
    auto drift = unwritten<double>(2);
    Workspace workspace(cuda::cayley_update_workspace<T>(batch, l));
    cuda::cayley_update(L.data(), grad.data(), batch, d, l, step, updated.data(), drift.data(), workspace.get(),
                        nullptr);
    const double tolerance = (sizeof(T) == 4 ? 5e-5 : 1e-11) * std::max(1.0, step / 30);  // long steps amplify rounding
    expect("cayley_update", updated, right, tolerance);
    expect("cayley_update drift", drift, std::vector{report.drift, report.updated_drift}, tolerance);
  });
}

/// The CPU's steps, and the same bits however the kernel runs.
template <typename T>
void minimise(std::int64_t n, std::int64_t d, std::int64_t l, std::int64_t count, std::int64_t iterations) {
  const std::vector<T> start = stiefel<T>(1, d, l, 0);
  std::vector<T> z(n * d), weights(count), right = start, first;
  for (T& value : z) value = normal<T>() / static_cast<T>(std::sqrt(static_cast<double>(d)));
  for (T& weight : weights) weight = std::abs(normal<T>());
  Indices triplets(3 * count);
  for (std::int64_t& index : triplets) index = below(n);
  const T* const weight = count % 2 ? weights.data() : nullptr;
  const CgReport report =
      riemannian_cg(z.data(), n, d, l, triplets.data(), count, 0.7, weight, iterations, right.data(), 1, silent);
  const std::vector<double> expected{report.loss, report.grad_norm, static_cast<double>(report.iterations),
                                     static_cast<double>(report.evaluations), report.drift};
  in_every_way([&] {
    std::vector<T> L = start;
    auto found = unwritten<double>(5);
    Workspace workspace(cuda::riemannian_cg_workspace<T>(n, d, l, count));
    cuda::riemannian_cg(z.data(), n, d, l, triplets.data(), count, 0.7, weight, iterations, L.data(), found.data(),
                        workspace.get(), nullptr);
    expect("riemannian_cg", L, right, sizeof(T) == 4 ? 1e-4 : 1e-9);
    expect("riemannian_cg report", found, expected, sizeof(T) == 4 ? 1e-4 : 1e-9);
    if (first.empty()) first = L;
    expect("riemannian_cg run another way", L, first, 0);
  });
}

template <typename T>
void all() {
  graph<T>({0}, 3, 5);
  graph<T>({0, 2}, 1, 1);
  graph<T>({0, 81}, 33, 64);
  graph<T>({0, 0, 5, 5, 45, 62, 66, 66, 166, 199, 199}, 18, 3);
  graph<T>({0, 7, 7, 520, 700}, 65, 6);  // bounded on tensor cores
  search<T>(1, 1, 1, 1);
  search<T>(37, 150, 40, 33);
  search<T>(0, 3, 2, 3);
  search<T>(140, 515, 3, 2);
  search<T>(0, 515, 3, 2);

  for (const bool weighted : {false, true}) {
    propagate<T>({0}, 3, 2, 0.5, weighted, 0.9, 1e-6);
    propagate<T>({0, 2}, 1, 1, 0.5, weighted, 0.5, 1e-6);
    propagate<T>({0, 70}, 1, 1, 0.0, weighted, 0.9, 1e-6);
    propagate<T>({0, 0, 50, 50, 83, 90, 180, 180}, 4, 35, 0.3, weighted, 0.95, 1e-6);
  }
  for (const std::int64_t k : {1, 2, 3, 10, 33, 70})
    for (const bool with_distances : {false, true}) mine<T>(80, k, k % 3 == 0 ? 1000 : 3, with_distances);

  loss<T>(1, 1, 0);
  loss<T>(1, 33, 7);
  loss<T>(2, 31, 57);
  loss<T>(300, 64, 100);
  loss<T>(40, 70, 300);
  loss<T>(40, 33, 1100);  // so many that they are sorted

  update<T>(0, 7, 3, 0.1);
  update<T>(1, 1, 1, 0.1);
  update<T>(2, 16, 16, 1.0);
  update<T>(3, 70, 33, 0.1);
  update<T>(2, 140, 131, 0.1);  // inverted by halves, and a half by halves again
  update<T>(2, 40, 20, 30.0);   // long steps
  update<T>(1, 60, 60, 1000.0);

  minimise<T>(5, 3, 2, 0, 3);
  minimise<T>(9, 1, 1, 4, 3);
  minimise<T>(30, 12, 5, 7, 4);
  minimise<T>(300, 40, 36, 150, 2);
}

/// A launch that fails throws, and the message says whose it was or, of a crash, that it may be another's.
template <typename F>
void fails(const std::string& kernel, F f, bool& why = cuda_on_cpu::refuses) {
  why = true;
  std::string message;
  try {
    f();
  } catch (const std::runtime_error& error) {
    message = error.what();
  }
  why = false;
  const bool blames_others = message.find("what ran on the device before it") != std::string::npos;
  if (message.starts_with("CUDA kernel " + kernel) && blames_others == (&why == &cuda_on_cpu::has_crashed)) return;
  std::printf("%s: a launch that failed was reported as \"%s\"\n", kernel.c_str(), message.c_str());
  ++failures;
}

void failures_are_reported() {
  std::vector<float> x(400, 0.5f), out(400);
  Indices indices(400, 1), triplets(400);
  const Indices ptr{0, 20};
  std::vector<double> report(8);
  Workspace workspace(1 << 20);
  void* const memory = workspace.get();
  fails("knn", [&] {
    cuda::knn_graph(x.data(), 20, 4, 3, Metric::cosine, ptr.data(), 1, 20, indices.data(), out.data(), nullptr, memory,
                    nullptr);
  });
  fails("mine_triplets", [&] {
    cuda::mine_triplets<float>(indices.data(), nullptr, x.data(), 4, nullptr, 20, triplets.data(), nullptr);
  });
  fails(
      "mine_triplets",
      [&] { cuda::mine_triplets<float>(indices.data(), nullptr, x.data(), 4, nullptr, 20, triplets.data(), nullptr); },
      cuda_on_cpu::has_crashed);
  fails("angular_loss", [&] {
    cuda::projected_loss<float>(x.data(), 20, 4, indices.data(), 30, 0.7, nullptr, out.data(), out.data(), memory,
                                nullptr);
  });
  fails("cayley_update",
        [&] { cuda::cayley_update(x.data(), x.data(), 2, 8, 4, 0.1, out.data(), report.data(), memory, nullptr); });
  fails("riemannian_cg", [&] {
    cuda::riemannian_cg<float>(x.data(), 20, 4, 2, indices.data(), 0, 0.7, nullptr, 3, out.data(), report.data(),
                               memory, nullptr);
  });
}

}  // namespace

int main() {
  failures_are_reported();
  propagate<float>({0, 90}, 4, 2, 0.5, false, 0.9, 1e-4);
  const auto admitted = cuda_on_cpu::admitted_shared;
  propagate<float>({0, 20}, 4, 2, 0.5, false, 0.9, 1e-4);
  if (cuda_on_cpu::admitted_shared != admitted) {
    std::puts("kernels are admitted to shared memory by the size of a call, of which other threads may have others");
    ++failures;
  }
  all<float>();
  all<double>();
  // A component large enough to have modes, in shared memory and where a panel does not fit there.
  propagate<float>({0, 20, 1060}, 4, 2, 0.99, true, 0.99, 3e-7);
  for (const std::size_t shared : {10500, 9000}) {  // with room for the coefficients of modes, and without
    cuda_on_cpu::device_shared = shared;
    propagate<float>({0, 20, 1060}, 4, 2, 0.99, false, 0.99, 1e-6);
  }
  cuda_on_cpu::device_shared = cuda_on_cpu::kMostShared;
  graph<float16>({0, 7, 100}, 20, 5);
  graph<bfloat16>({0, 7, 100}, 20, 5);
  search<float16>(5, 90, 9, 5);
  search<bfloat16>(5, 90, 9, 5);
  draw({2, 1}, 1);
  draw({300, 2, 7, 1, 1, 1}, 3);
  if (failures == 0) std::puts("every CUDA kernel, run on the CPU, agreed with its twin for the CPU");
  return failures != 0;
}
