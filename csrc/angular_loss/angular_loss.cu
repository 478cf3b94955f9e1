#include "angular_loss/angular_loss.h"
#include "angular_loss/cuda_shared.h"
#include "cuda/launch.h"

namespace ssdml::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / kWarp;
constexpr int kBatch = 64;  // parts of a row that are added up at a time

/// Few triplets are searched by every row for its own parts, which is sooner done than sorting them. How few is
/// reasoned, not measured: benchmarks/bench_gpu.py would.
bool are_few(std::int64_t n, std::int64_t n_triplets) { return n_triplets <= 1024 && n <= 4096; }

__global__ void count_up(std::int64_t n, std::int64_t* out) {
  for (std::int64_t i = thread_id(); i < n; i += thread_count()) out[i] = i;
}

/// One warp per triplet: its loss.
template <typename T>
__global__ void loss_alone(const T* y, std::int64_t l, const std::int64_t* triplets, std::int64_t n_triplets,
                           double four_t, T* losses) {
  for (std::int64_t t = warp_id(); t < n_triplets; t += warp_count()) {
    const double m = Triplet<T>(y, l, triplets + 3 * t).margin(l, four_t);
    if (lane_id() == 0) losses[t] = static_cast<T>(scalar_softplus(m));
  }
}

/// The first of `n` ascending entries that is not below `value`; n if there is none. All lanes must call it.
__device__ std::int64_t lower_bound(const std::int64_t* sorted, std::int64_t n, std::int64_t value) {
  std::int64_t low = 0, high = n;
  while (low < high) {  // each lane looks at one of 32 places
    const std::int64_t step = ceil_div(high - low, kWarp), place = low + lane_id() * step;
    const int below = __popc(__ballot_sync(kAllLanes, place < high && sorted[place] < value));
    if (below == 0) return low;
    high = low + below * step < high ? low + below * step : high;
    low += (below - 1) * step + 1;
  }
  return low;
}

/// Adds the parts of one row of y to its gradient; a block works on it.
template <typename T>
class RowGradient {
 public:
  /// What a block keeps in shared memory of the parts at hand.
  struct Shared {
    std::int64_t entry[kBatch + kThreads];
    const T *anchor[kBatch + kThreads], *positive[kBatch + kThreads], *negative[kBatch + kThreads];
    double margin[kBatch + kThreads];
    T on_a[kBatch + kThreads], on_b[kBatch + kThreads];
  };

  const T* y;
  std::int64_t l;
  const std::int64_t* triplets;
  double four_t;
  const T* weight;
  T* losses;

  /// Adds parts shared.entry[0 .. count - 1], in that order, to `grad`, and writes the losses of the triplets whose
  /// anchors are among them. All threads must call it, and find the shared memory free when it returns.
  __device__ void add(Shared& shared, int count, T* grad) const {
    __syncthreads();  // all entries are there
    for (int q = threadIdx.x / kWarp; q < count; q += kWarps) {
      const Triplet<T> triplet(y, l, triplets + shared.entry[q] / 3 * 3);
      const double m = triplet.margin(l, four_t);
      if (lane_id() != 0) continue;
      shared.margin[q] = m;
      shared.anchor[q] = triplet.anchor;
      shared.positive[q] = triplet.positive;
      shared.negative[q] = triplet.negative;
    }
    __syncthreads();
    for (int q = threadIdx.x; q < count; q += kThreads) {  // exponentials in float64: one thread each, not one warp
      const std::int64_t t = shared.entry[q] / 3, role = shared.entry[q] % 3;
      const double m = shared.margin[q], slope = (weight ? static_cast<double>(weight[t]) : 1.0) * sigmoid(m);
      shared.on_a[q] = on_a<T>(role, slope);
      shared.on_b[q] = on_b<T>(role, slope, four_t);
      if (role == 0 && losses) losses[t] = static_cast<T>(scalar_softplus(m));
    }
    __syncthreads();
    for (std::int64_t p = threadIdx.x; p < l; p += kThreads) {
      T sum = grad[p];
#pragma unroll 4
      for (int q = 0; q < count; ++q)
        sum += gradient_term(shared.anchor[q][p], shared.positive[q][p], shared.negative[q][p], shared.on_a[q],
                             shared.on_b[q]);
      grad[p] = sum;
    }
    __syncthreads();
  }
};

/// One block per row of y: the gradient there, and the losses of the triplets that it is the anchor of. The parts of a
/// row are listed in row and part, see SortedParts, or searched for if these are null.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    loss_and_gradient(RowGradient<T> of, std::int64_t n, std::int64_t n_triplets, const std::int64_t* row,
                      const std::int64_t* part, T* grad_y) {
  __shared__ typename RowGradient<T>::Shared shared;
  __shared__ int found[kWarps];
  const int warp = threadIdx.x / kWarp, lane = lane_id();
  const std::int64_t entries = 3 * n_triplets;
  for (std::int64_t i = blockIdx.x; i < n; i += gridDim.x) {
    T* const grad = grad_y + i * of.l;
    for (std::int64_t p = threadIdx.x; p < of.l; p += kThreads) grad[p] = 0;
    if (part) {
      const std::int64_t begin = lower_bound(row, entries, i), end = lower_bound(row, entries, i + 1);
      for (std::int64_t q = begin; q < end; q += kBatch) {
        const int count = static_cast<int>(end - q < kBatch ? end - q : kBatch);
        if (static_cast<int>(threadIdx.x) < count) shared.entry[threadIdx.x] = part[q + threadIdx.x];
        of.add(shared, count, grad);
      }
      continue;
    }
    int held = 0;
    for (std::int64_t e0 = 0; e0 < entries; e0 += kThreads) {
      const std::int64_t e = e0 + threadIdx.x;
      const bool is_own = e < entries && of.triplets[e] == i;
      const unsigned votes = __ballot_sync(kAllLanes, is_own);
      if (lane == 0) found[warp] = __popc(votes);
      __syncthreads();
      int place = held + __popc(votes & ((1u << lane) - 1));
      for (int w = 0; w < kWarps; ++w) {
        if (w < warp) place += found[w];
        held += found[w];
      }
      if (is_own) shared.entry[place] = e;
      __syncthreads();  // before more are found
      if (held < kBatch) continue;
      of.add(shared, held, grad);
      held = 0;
    }
    of.add(shared, held, grad);
  }
}

}  // namespace

// ---- parts ----------------------------------------------------------------------------------------------------------

SortedParts::SortedParts(Workspace& workspace, std::int64_t n, std::int64_t n_triplets)
    : unsorted(workspace.take<std::int64_t>(3 * n_triplets)),
      part(workspace.take<std::int64_t>(3 * n_triplets)),
      row(workspace.take<std::int64_t>(3 * n_triplets)),
      by_row(workspace, 3 * n_triplets, n) {}

void SortedParts::sort(const std::int64_t* triplets, std::int64_t n_triplets, cudaStream_t stream) const {
  if (n_triplets == 0) return;
  launch("angular_loss: count_up", stream, grid_of_threads(3 * n_triplets), count_up, 3 * n_triplets, unsorted);
  by_row.run("angular_loss: sort", triplets, row, unsorted, part, stream);
}

// ---- host -----------------------------------------------------------------------------------------------------------

std::int64_t projected_loss_workspace(std::int64_t n, std::int64_t n_triplets) {
  Workspace workspace(nullptr);
  if (!are_few(n, n_triplets)) SortedParts(workspace, n, n_triplets);
  return workspace.bytes();
}

template <typename T>
void projected_loss(const T* y, std::int64_t n, std::int64_t l, const std::int64_t* triplets, std::int64_t n_triplets,
                    double tan2_alpha, const T* weight, T* losses, T* grad_y, void* workspace, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  const double four_t = 4 * tan2_alpha;
  if (!grad_y) {
    if (!losses) return;
    return launch("angular_loss: loss_alone", on, grid_of_warps(n_triplets), loss_alone<T>, y, l, triplets, n_triplets,
                  four_t, losses);
  }
  const auto run = [&](const std::int64_t* row, const std::int64_t* part) {
    launch("angular_loss: loss_and_gradient", on, Grid{n, kThreads}, loss_and_gradient<T>,
           RowGradient<T>{y, l, triplets, four_t, weight, losses}, n, n_triplets, row, part, grad_y);
  };
  if (are_few(n, n_triplets)) return run(nullptr, nullptr);
  Workspace memory(workspace);
  const SortedParts parts(memory, n, n_triplets);
  parts.sort(triplets, n_triplets, on);
  run(parts.row, parts.part);
}

template void projected_loss(const float*, std::int64_t, std::int64_t, const std::int64_t*, std::int64_t, double,
                             const float*, float*, float*, void*, void*);
template void projected_loss(const double*, std::int64_t, std::int64_t, const std::int64_t*, std::int64_t, double,
                             const double*, double*, double*, void*, void*);

}  // namespace ssdml::cuda
