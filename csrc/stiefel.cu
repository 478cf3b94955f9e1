#include "cuda.h"
#include "stiefel.h"

namespace ssdml::cuda {
namespace {

constexpr int kTile = 16;   // a block computes kTile x kTile entries of a product, one per thread,
constexpr int kDepth = 64;  // from slices of kDepth columns of its left factor
constexpr int kThreads = kTile * kTile;

/// A batch of matrices: entry (i, q) of matrix b is data[b * batch + i * row + q * column].
template <typename T>
struct Matrices {
  const T* data;
  std::int64_t row, column, batch;

  Matrices transposed() const { return {data, column, row, batch}; }
};

/// A batch of row-major matrices without padding.
template <typename T>
Matrices<T> row_major(const T* data, std::int64_t rows, std::int64_t columns) {
  return {data, columns, 1, rows * columns};
}

/// tile[q][i] = entry (i0 + i, q0 + q) of a rows x columns matrix, or 0 beyond its edges.
template <typename T>
__device__ void load_tile(T (&tile)[kDepth][kTile + 1], Matrices<T> from, std::int64_t b, std::int64_t i0,
                          std::int64_t rows, std::int64_t q0, std::int64_t columns) {
  const bool along_rows = from.row == 1;  // neighbouring threads read neighbouring addresses
  for (int e = threadIdx.x; e < kTile * kDepth; e += kThreads) {
    const int i = along_rows ? e % kTile : e / kDepth, q = along_rows ? e / kTile : e % kDepth;
    const bool inside = i0 + i < rows && q0 + q < columns;
    tile[q][i] = inside ? from.data[b * from.batch + (i0 + i) * from.row + (q0 + q) * from.column] : T(0);
  }
}

/// c = alpha a b, added to c where `add` is set, for batches of a (m, p), b (p, n) and row-major c (m, n).
/// `b_transposed` describes b by its transpose.
template <typename T>
__global__ void __launch_bounds__(kThreads) multiply(std::int64_t batch, std::int64_t m, std::int64_t n, std::int64_t p,
                                                     T alpha, Matrices<T> a, Matrices<T> b_transposed, bool add, T* c) {
  __shared__ T left[kDepth][kTile + 1], right[kDepth][kTile + 1];
  const int i = threadIdx.x / kTile, j = threadIdx.x % kTile;
  const std::int64_t down = ceil_div(m, kTile), across = ceil_div(n, kTile);
  for (std::int64_t t = blockIdx.x; t < batch * down * across; t += gridDim.x) {
    const std::int64_t b = t / (down * across), i0 = t / across % down * kTile, j0 = t % across * kTile;
    T sum = 0;
    for (std::int64_t q0 = 0; q0 < p; q0 += kDepth) {
      load_tile(left, a, b, i0, m, q0, p);
      load_tile(right, b_transposed, b, j0, n, q0, p);
      __syncthreads();
#pragma unroll 16
      for (int q = 0; q < kDepth; ++q) sum = fma(left[q][i], right[q][j], sum);
      __syncthreads();
    }
    if (i0 + i < m && j0 + j < n) {
      T& out = c[(b * m + i0 + i) * n + j0 + j];
      out = add ? fma(alpha, sum, out) : alpha * sum;
    }
  }
}

/// Replaces the Gram matrices G = L'L by (3 I - G) / 2 and records the largest |G - I|.
template <typename T>
__global__ void newton_schulz(std::int64_t batch, std::int64_t l, T* gram, double* drift) {
  double largest = 0;
  for (std::int64_t e = thread_id(); e < batch * l * l; e += thread_count()) {
    const T identity = e / l % l == e % l ? 1 : 0, entry = gram[e];
    const double off = fabs(static_cast<double>(entry - identity));
    largest = fmax(largest, off >= 0 ? off : INFINITY);  // fmax would pass over a NaN
    gram[e] = (3 * identity - entry) / 2;
  }
  raise_to(drift, largest);
}

/// With B, gg = G'G and bb = B'B: k = K, gg becomes M - B', and x is set to I. See stiefel.cpp.
template <typename T>
__global__ void assemble(std::int64_t batch, std::int64_t l, T a, const T* b, T* gg, const T* bb, T* k, T* x) {
  for (std::int64_t e = thread_id(); e < batch * l * l; e += thread_count()) {
    const std::int64_t i = e / l % l, j = e % l, transposed = e - i * l - j + j * l + i;
    const T identity = i == j ? 1 : 0, m = a * (gg[e] - bb[e]);
    k[e] = identity + a * ((b[e] - b[transposed]) + m);
    gg[e] = m - b[transposed];
    x[e] = identity;
  }
}

/// Replaces each l x l matrix by its inverse, one block per matrix, as invert() of stiefel.cpp does; in shared memory
/// where `in_shared` says that it fits.
template <typename T>
__global__ void invert(std::int64_t batch, std::int64_t l, bool in_shared, T* matrices) {
  const int warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp, lane = lane_id();
  for (std::int64_t b = blockIdx.x; b < batch; b += gridDim.x) {
    T* const out = matrices + b * l * l;
    T* const k = in_shared ? reinterpret_cast<T*>(shared_memory) : out;
    if (in_shared)
      for (std::int64_t e = threadIdx.x; e < l * l; e += blockDim.x) k[e] = out[e];
    __syncthreads();
    for (std::int64_t pivot = 0; pivot < l; ++pivot) {
      T* const pivot_row = k + pivot * l;
      const T inverse = 1 / pivot_row[pivot];
      for (std::int64_t j = threadIdx.x; j < l; j += blockDim.x)
        if (j != pivot) pivot_row[j] *= inverse;
      __syncthreads();
      // The pivot's column holds the factors that all other entries need, so it changes last.
      for (std::int64_t i = warp; i < l; i += warps) {
        if (i == pivot) continue;
        const T factor = k[i * l + pivot];
        for (std::int64_t j = lane; j < l; j += kWarp)
          if (j != pivot) k[i * l + j] -= factor * pivot_row[j];
      }
      __syncthreads();
      for (std::int64_t i = threadIdx.x; i < l; i += blockDim.x)
        k[i * l + pivot] = i == pivot ? inverse : -k[i * l + pivot] * inverse;
      __syncthreads();
    }
    if (in_shared)
      for (std::int64_t e = threadIdx.x; e < l * l; e += blockDim.x) out[e] = k[e];
    __syncthreads();  // before the next matrix takes its place
  }
}

/// Lets a kernel use `bytes` of shared memory; false if a block cannot have that much.
bool admit_shared(const char* name, const void* kernel, std::int64_t bytes) {
  int device, most;
  check(cudaGetDevice(&device), name);
  check(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), name);
  if (bytes > most) return false;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)), name);
  return true;
}

template <typename T>
struct Work {
  T *r, *b_raw, *b, *m, *bb, *k, *x, *on_l;  // (batch, l, l) each

  Work(Workspace& workspace, std::int64_t batch, std::int64_t l) {
    for (T** each : {&r, &b_raw, &b, &m, &bb, &k, &x, &on_l}) *each = workspace.take<T>(batch * l * l);
  }
};

}  // namespace

template <typename T>
std::int64_t cayley_update_workspace(std::int64_t batch, std::int64_t l) {
  Workspace workspace(nullptr);
  Work<T>(workspace, batch, l);
  return workspace.bytes();
}

template <typename T>
void cayley_update(const T* L, const T* grad, std::int64_t batch, std::int64_t d, std::int64_t l, double step,
                   T* updated, double* drift, void* workspace, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  const T tau = static_cast<T>(step);
  const std::int64_t entries = batch * l * l;
  Workspace memory(workspace);
  const Work<T> work(memory, batch, l);
  const Matrices<T> tall = row_major(L, d, l), slope = row_major(grad, d, l);
  const auto small = [&](const T* data) { return row_major(data, l, l); };
  const auto product = [&](std::int64_t m, std::int64_t p, T alpha, Matrices<T> a, Matrices<T> b, bool add, T* c) {
    const Grid tiles{batch * ceil_div(m, kTile) * ceil_div(l, kTile), kThreads};
    launch("cayley_update: multiply", on, tiles, multiply<T>, batch, m, l, p, alpha, a, b.transposed(), add, c);
  };

  check(cudaMemsetAsync(drift, 0, 2 * sizeof *drift, on), "cayley_update: newton_schulz");
  product(l, d, 1, tall.transposed(), tall, false, work.r);
  launch("cayley_update: newton_schulz", on, threads_for(entries), newton_schulz<T>, batch, l, work.r, drift);
  product(l, d, 1, tall.transposed(), slope, false, work.b_raw);
  product(l, l, 1, small(work.r), small(work.b_raw), false, work.b);  // R is symmetric
  product(l, d, 1, slope.transposed(), slope, false, work.m);
  product(l, l, 1, small(work.b).transposed(), small(work.b), false, work.bb);
  launch("cayley_update: assemble", on, threads_for(entries), assemble<T>, batch, l, tau / 2, work.b, work.m, work.bb,
         work.k, work.x);

  const std::int64_t bytes = l * l * static_cast<std::int64_t>(sizeof(T));
  const bool in_shared = admit_shared("cayley_update: invert", reinterpret_cast<const void*>(invert<T>), bytes);
  launch("cayley_update: invert", on, Grid{batch, 1024, in_shared ? bytes : 0}, invert<T>, batch, l, in_shared, work.k);

  // updated = L R (I - tau (M - B') K^-1) - tau G K^-1
  product(l, l, -tau, small(work.m), small(work.k), true, work.x);
  product(l, l, 1, small(work.r), small(work.x), false, work.on_l);
  product(d, l, 1, tall, small(work.on_l), false, updated);
  product(d, l, -tau, slope, small(work.k), true, updated);

  const Matrices<T> result = row_major(static_cast<const T*>(updated), d, l);
  product(l, d, 1, result.transposed(), result, false, work.r);
  launch("cayley_update: newton_schulz", on, threads_for(entries), newton_schulz<T>, batch, l, work.r, drift + 1);
}

template std::int64_t cayley_update_workspace<float>(std::int64_t, std::int64_t);
template std::int64_t cayley_update_workspace<double>(std::int64_t, std::int64_t);
template void cayley_update(const float*, const float*, std::int64_t, std::int64_t, std::int64_t, double, float*,
                            double*, void*, void*);
template void cayley_update(const double*, const double*, std::int64_t, std::int64_t, std::int64_t, double, double*,
                            double*, void*, void*);

}  // namespace ssdml::cuda
