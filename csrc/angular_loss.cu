#include <bit>
#include <cub/device/device_radix_sort.cuh>

#include "angular_loss.h"
#include "cuda.h"

namespace ssdml::cuda {
namespace {

/// One triplet's rows of y, and its terms at one coordinate.
template <typename T>
struct Triplet {
  const T *anchor, *positive, *negative;

  __device__ Triplet(const T* y, std::int64_t l, const std::int64_t* t)
      : anchor(y + t[0] * l), positive(y + t[1] * l), negative(y + t[2] * l) {}

  __device__ double a(std::int64_t p) const { return static_cast<double>(anchor[p]) - positive[p]; }
  __device__ double b(std::int64_t p) const { return negative[p] - (static_cast<double>(anchor[p]) + positive[p]) / 2; }
};

__device__ double softplus(double m) { return fmax(m, 0.0) + log1p(exp(-fabs(m))); }
__device__ double sigmoid(double m) {
  const double e = exp(-fabs(m));
  return (m >= 0 ? 1.0 : e) / (1 + e);
}

/// One warp per triplet: its loss, and scale = d loss / d m. Either may be null.
template <typename T>
__global__ void forward(const T* y, std::int64_t l, const std::int64_t* triplets, std::int64_t n_triplets,
                        double four_t, const T* weight, T* losses, double* scale) {
  for (std::int64_t t = warp_id(); t < n_triplets; t += warp_count()) {
    const Triplet<T> triplet(y, l, triplets + 3 * t);
    double aa = 0, bb = 0;
    for (std::int64_t p = lane_id(); p < l; p += kWarp) {
      aa += triplet.a(p) * triplet.a(p);
      bb += triplet.b(p) * triplet.b(p);
    }
    for (int half = kWarp / 2; half > 0; half /= 2) {
      aa += __shfl_xor_sync(kAllLanes, aa, half);
      bb += __shfl_xor_sync(kAllLanes, bb, half);
    }
    if (lane_id() != 0) continue;
    const double m = aa - four_t * bb, w = weight ? static_cast<double>(weight[t]) : 1.0;
    if (losses) losses[t] = static_cast<T>(softplus(m));
    if (scale) scale[t] = w * sigmoid(m);
  }
}

// ---- gradient -------------------------------------------------------------------------------------------------------

// Entry e of the triplets, part e % 3 of triplet e / 3, contributes to the gradient of row triplets[e]. A stable sort
// of the entries by row lists the parts of each row in the order of the triplets; each row then gathers its own, so
// there are no atomics and the order of summation is fixed.

struct Parts {
  double* scale;
  std::int64_t *unsorted, *part, *row;  // unsorted: 0, 1, 2, ...; row[q] = triplets[part[q]], ascending
  char* sort_memory;
  std::size_t sort_bytes;

  /// Asks CUB how much memory it wants, which depends on the current device.
  Parts(Workspace& workspace, std::int64_t n, std::int64_t n_triplets)
      : scale(workspace.take<double>(n_triplets)),
        unsorted(workspace.take<std::int64_t>(3 * n_triplets)),
        part(workspace.take<std::int64_t>(3 * n_triplets)),
        row(workspace.take<std::int64_t>(3 * n_triplets)),
        sort_memory(nullptr),
        sort_bytes(0) {
    sort(nullptr, n, n_triplets, nullptr);
    sort_memory = workspace.take<char>(static_cast<std::int64_t>(sort_bytes));
  }

  void sort(const std::int64_t* triplets, std::int64_t n, std::int64_t n_triplets, cudaStream_t stream) {
    const int bits =
        std::max(1, static_cast<int>(std::bit_width(static_cast<std::uint64_t>(std::max<std::int64_t>(n - 1, 0)))));
    check(cub::DeviceRadixSort::SortPairs(sort_memory, sort_bytes, triplets, row, unsorted, part, 3 * n_triplets, 0,
                                          bits, stream),
          "angular_loss: sort");
  }
};

__global__ void count_up(std::int64_t n, std::int64_t* out) {
  for (std::int64_t i = thread_id(); i < n; i += thread_count()) out[i] = i;
}

/// The first of `n` ascending entries that is not below `value`; n if there is none.
__device__ std::int64_t lower_bound(const std::int64_t* sorted, std::int64_t n, std::int64_t value) {
  std::int64_t low = 0, high = n;
  while (low < high) {
    const std::int64_t middle = low + (high - low) / 2;
    if (sorted[middle] < value) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

/// One warp per row of y and 32 of its coordinates.
template <typename T>
__global__ void gather(const T* y, std::int64_t n, std::int64_t l, const std::int64_t* triplets,
                       std::int64_t n_triplets, double four_t, const double* scale, const std::int64_t* row,
                       const std::int64_t* part, T* grad_y) {
  const std::int64_t groups = ceil_div(l, kWarp);
  for (std::int64_t w = warp_id(); w < n * groups; w += warp_count()) {
    const std::int64_t i = w / groups, p = w % groups * kWarp + lane_id();
    if (p >= l) continue;
    const std::int64_t begin = lower_bound(row, 3 * n_triplets, i), end = lower_bound(row, 3 * n_triplets, i + 1);
    double sum = 0;
    for (std::int64_t q = begin; q < end; ++q) {
      const std::int64_t t = part[q] / 3, role = part[q] % 3;
      const Triplet<T> triplet(y, l, triplets + 3 * t);
      const double on_a = scale[t] * (role == 0 ? 2.0 : role == 1 ? -2.0 : 0.0);
      const double on_b = scale[t] * four_t * (role == 2 ? -2.0 : 1.0);
      sum += on_a * triplet.a(p) + on_b * triplet.b(p);
    }
    grad_y[i * l + p] = static_cast<T>(sum);
  }
}

}  // namespace

std::int64_t angular_loss_workspace(std::int64_t n, std::int64_t n_triplets) {
  Workspace workspace(nullptr);
  Parts(workspace, n, n_triplets);
  return workspace.bytes();
}

template <typename T>
void angular_loss(const T* y, std::int64_t n, std::int64_t l, const std::int64_t* triplets, std::int64_t n_triplets,
                  double tan2_alpha, const T* weight, T* losses, T* grad_y, void* workspace, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  const double four_t = 4 * tan2_alpha;
  const auto run_forward = [&](double* scale) {
    launch("angular_loss: forward", on, warps_for(n_triplets), forward<T>, y, l, triplets, n_triplets, four_t, weight,
           losses, scale);
  };
  if (!grad_y) return run_forward(nullptr);

  Workspace memory(workspace);
  Parts parts(memory, n, n_triplets);
  run_forward(parts.scale);
  launch("angular_loss: count_up", on, threads_for(3 * n_triplets), count_up, 3 * n_triplets, parts.unsorted);
  if (n_triplets > 0) parts.sort(triplets, n, n_triplets, on);
  launch("angular_loss: gather", on, warps_for(n * ceil_div(l, kWarp)), gather<T>, y, n, l, triplets, n_triplets,
         four_t, parts.scale, parts.row, parts.part, grad_y);
}

template void angular_loss(const float*, std::int64_t, std::int64_t, const std::int64_t*, std::int64_t, double,
                           const float*, float*, float*, void*, void*);
template void angular_loss(const double*, std::int64_t, std::int64_t, const std::int64_t*, std::int64_t, double,
                           const double*, double*, double*, void*, void*);

}  // namespace ssdml::cuda
