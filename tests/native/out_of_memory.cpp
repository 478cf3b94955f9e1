// Lets every CPU kernel run out of memory (CMake preset "sanitize"): with its first allocation, its second, and so on,
// and all that follow, failing. Whichever thread asked for the memory, the kernel must throw std::bad_alloc, lose
// nothing, and give the same answer as ever when there is memory again.
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <random>
#include <vector>

#include "affinity/affinity.h"
#include "angular_loss/angular_loss.h"
#include "knn_graph/knn_graph.h"
#include "mine_class_triplets/mine_class_triplets.h"
#include "mine_triplets/mine_triplets.h"
#include "propagate_labels/propagate_labels.h"
#include "riemannian_cg/riemannian_cg.h"
#include "stiefel/stiefel.h"

// ---- memory that runs out -------------------------------------------------------------------------------------------

namespace {

constexpr std::int64_t kPlenty = std::numeric_limits<std::int64_t>::max() / 2;
std::atomic<std::int64_t> left{kPlenty};  // allocations until there is no more memory
std::atomic<std::int64_t> refused{0};     // of which somebody must have been told

bool runs_out() { return left.fetch_sub(1) <= 0; }

void* allocate(std::size_t size, std::size_t alignment) {
  void* const p = runs_out() ? nullptr : std::aligned_alloc(alignment, (size / alignment + 1) * alignment);
  if (p != nullptr) return p;
  ++refused;
  throw std::bad_alloc();
}

[[gnu::noinline]] void release(void* p) { std::free(p); }  // so that compilers don't take delete for a mere free

}  // namespace

void* operator new(std::size_t size) { return allocate(size, alignof(std::max_align_t)); }
void* operator new(std::size_t size, std::align_val_t alignment) {
  return allocate(size, static_cast<std::size_t>(alignment));
}
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  return runs_out() ? nullptr : std::malloc(size);
}
void operator delete(void* p) noexcept { release(p); }
void operator delete(void* p, std::size_t) noexcept { release(p); }
void operator delete(void* p, std::align_val_t) noexcept { release(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { release(p); }

extern "C" {
// The linker sends the kernels' calls of mmap to the former (--wrap=mmap), whose own go to the latter.
void* __wrap_mmap(void* p, std::size_t size, int protection, int flags, int file, off_t offset);
void* __real_mmap(void* p, std::size_t size, int protection, int flags, int file, off_t offset);

void* __wrap_mmap(void* p, std::size_t size, int protection, int flags, int file, off_t offset) {
  if (!runs_out()) return __real_mmap(p, size, protection, flags, file, offset);
  ++refused;
  return MAP_FAILED;
}
}

// ---- kernels --------------------------------------------------------------------------------------------------------

using namespace ssdml;
using Indices = std::vector<std::int64_t>;

namespace {

int failures = 0;

struct Silent : Progress {
  bool update(double) override { return true; }
} silent;

Peers alone;

template <typename T>
bool same(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

/// Runs a kernel that writes to `out` with room for 0, 1, 2, ... allocations, in larger and larger steps, until it has
/// room enough.
template <typename T, typename F>
void starve(const char* kernel, int threads, std::vector<T>& out, F run) {
  run();
  const std::vector<T> right = out;
  std::int64_t thrown = 0;
  for (std::int64_t room = 0;; room += 1 + room / 8) {
    bool has_thrown = false;
    refused = 0;
    left = room;
    try {
      run();
    } catch (const std::bad_alloc&) {
      has_thrown = true;
    }
    const bool has_run_out = left < 0;
    left = kPlenty;
    thrown += has_thrown;
    if (has_thrown != (refused > 0)) {
      std::printf("%s, %d threads: %d refusals, %s\n", kernel, threads, static_cast<int>(refused),
                  has_thrown ? "but an exception" : "but none was reported");
      ++failures;
    }
    if (!has_run_out) break;
  }
  if (thrown == 0 && std::strcmp(kernel, "mine_class_triplets") != 0) {
    std::printf("%s, %d threads: never ran out of memory\n", kernel, threads);
    ++failures;
  }
  if (!same(out, right)) {
    std::printf("%s, %d threads: another answer afterwards\n", kernel, threads);
    ++failures;
  }
}

std::mt19937 generator(0);

template <typename T>
std::vector<T> normal(std::int64_t count) {
  std::normal_distribution<double> distribution;
  std::vector<T> x(count);
  for (T& value : x) value = static_cast<T>(distribution(generator));
  return x;
}

Indices below(std::int64_t n, std::int64_t count) {
  Indices indices(count);
  for (std::int64_t& index : indices) index = static_cast<std::int64_t>(generator() % static_cast<std::uint64_t>(n));
  return indices;
}

/// Matrices (d, l) with orthonormal columns: the first of the identity.
template <typename T>
std::vector<T> orthonormal(std::int64_t batch, std::int64_t d, std::int64_t l) {
  std::vector<T> L(batch * d * l, T(0));
  for (std::int64_t b = 0; b < batch; ++b)
    for (std::int64_t j = 0; j < l; ++j) L[(b * d + j) * l + j] = 1;
  return L;
}

/// Searches in segments and in one, whose blocks are shared, and of few queries and many.
template <typename T>
void neighbours(std::int64_t n, std::int64_t d, std::int64_t k, int threads) {
  const std::vector<T> x = normal<T>(n * d);
  Indices indices(n * k);
  std::vector<T> distances(n * k);
  for (const Indices& ptr : {Indices{0, n}, Indices{0, n / 4, n / 2, n}})
    for (const Metric metric : {Metric::cosine, Metric::sqeuclidean})
      starve("knn_graph", threads, indices, [&] {
        knn_graph(x.data(), n, d, k, metric, ptr.data(), static_cast<std::int64_t>(ptr.size()) - 1, indices.data(),
                  distances.data(), threads, std::int64_t{1} << 20, silent);
      });
  for (const std::int64_t queries : {std::int64_t{3}, n}) {
    std::fill(indices.begin(), indices.end(), 0);
    starve("knn_search", threads, indices, [&] {
      knn_search(x.data(), queries, x.data(), n, d, k, Metric::euclidean, indices.data(), distances.data(), threads,
                 std::int64_t{1} << 28, silent);
    });
  }
}

/// Walks on rings of these sizes.
template <typename T>
void walks(const Indices& sizes, std::int64_t k, int threads) {
  Indices indices, ptr{0};
  for (const std::int64_t size : sizes) {
    for (std::int64_t i = 0; i < size; ++i)
      for (std::int64_t r = 1; r <= k; ++r) indices.push_back(ptr.back() + (i + r) % size);
    ptr.push_back(ptr.back() + size);
  }
  const std::int64_t n = ptr.back(), classes = 20;
  Indices labels = below(classes, n);
  for (std::int64_t i = 0; i < n; ++i)
    if (i % 5 != 0) labels[i] = -1;
  std::vector<T> values(n * k), mass(n * classes), posteriors(n * classes);
  starve("propagate_affinity", threads, values, [&] {
    propagate_affinity(indices.data(), nullptr, n, k, labels.data(), classes, 0.9, 1e-5, values.data(), mass.data(),
                       threads, silent, alone);
  });
  starve("propagate_labels", threads, posteriors, [&] {
    propagate_labels(indices.data(), nullptr, n, k, ptr.data(), static_cast<std::int64_t>(sizes.size()), labels.data(),
                     classes, 0.9, 1e-5, posteriors.data(), threads, silent, alone);
  });
}

void triplets(int threads) {
  const std::int64_t n = 20000, k = 10;
  const Indices indices = below(n, n * k);
  const std::vector<float> affinity = normal<float>(n * k);
  Indices mined(n * (k / 2) * 3), drawn(3 * n);
  starve("mine_triplets", threads, mined,
         [&] { mine_triplets<float>(indices.data(), nullptr, affinity.data(), k, nullptr, n, mined.data(), threads); });
  const Indices starts{0, n / 2, n};
  starve("mine_class_triplets", threads, drawn, [&] {
    mine_class_triplets({indices.data(), starts.data(), 2, 2, nullptr, 0, 1, true}, n, drawn.data(), threads);
  });
}

template <typename T>
void losses(std::int64_t n, std::int64_t d, std::int64_t l, std::int64_t count, int threads) {
  const std::vector<T> z = normal<T>(n * d), L = orthonormal<T>(1, d, l);
  const Indices of = below(n, 3 * count);
  std::vector<T> x(n * d), grad_y(n * l), grad_z(n * d), grad_L(d * l), metric = L;
  Indices rows(n);
  starve("angular_loss", threads, grad_y, [&] {
    const AngularLossReport report = angular_loss<T>(z.data(), n, d, L.data(), l, of.data(), count, 0.7, nullptr,
                                                     nullptr, grad_y.data(), x.data(), rows.data(), threads);
    angular_loss_backward<T>(x.data(), report.used, d, L.data(), l, grad_y.data(), 2, rows.data(), n, grad_z.data(),
                             grad_L.data(), threads);
  });
  starve("riemannian_cg", threads, metric, [&] {
    std::vector<T> start = L;
    riemannian_cg<T>(z.data(), n, d, l, of.data(), count, 0.7, nullptr, 2, start.data(), threads, silent);
    metric.swap(start);
  });
}

template <typename T>
void steps(std::int64_t batch, std::int64_t d, std::int64_t l, double step, int threads) {
  const std::vector<T> L = orthonormal<T>(batch, d, l), grad = normal<T>(batch * d * l);
  std::vector<T> updated(L.size());
  starve("cayley_update", threads, updated,
         [&] { cayley_update(L.data(), grad.data(), batch, d, l, step, updated.data(), threads); });
  starve("qr_retraction", threads, updated, [&] {
    std::fill(updated.begin(), updated.end(), T(0));
    qr_retraction(L.data(), grad.data(), batch, d, l, updated.data(), threads);
  });
}

}  // namespace

int main() {
  for (const int threads : {1, 3}) {
    neighbours<float>(2000, 20, 5, threads);
    neighbours<double>(600, 7, 3, threads);
    walks<float>({700, 60, 60, 60, 60, 60}, 4, threads);
    walks<double>({700, 60}, 4, threads);
    triplets(threads);
    losses<float>(2000, 40, 20, 4000, threads);
    steps<float>(40, 128, 32, 0.1, threads);
    steps<double>(1, 400, 70, 1e3, threads);
  }
  if (failures == 0) std::puts("every kernel said that it ran out of memory, and recovered");
  return failures != 0;
}
