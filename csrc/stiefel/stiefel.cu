#include "common/orthonormal.h"
#include "cuda/launch.h"
#include "stiefel/stiefel.h"

namespace ssdml::cuda {
namespace {

// Products with L and G are computed in T. What is l x l, and small beside them, is computed in float64, so that a long
// step, in which large numbers cancel, needs no other way than a short one.

constexpr int kTile = 16;   // a block computes kTile x kTile entries of a product, one per thread,
constexpr int kDepth = 64;  // from slices of kDepth columns of its left factor
constexpr int kThreads = kTile * kTile;

/// A batch of matrices: entry (i, q) of matrix b is data[b * batch + i * row + q * column].
template <typename T>
struct Matrices {
  T* data;
  std::int64_t row, column, batch;

  __device__ T& operator()(std::int64_t b, std::int64_t i, std::int64_t q) const {
    return data[b * batch + i * row + q * column];
  }
  Matrices transposed() const { return {data, column, row, batch}; }
  /// The block that begins at entry (i, q).
  Matrices from(std::int64_t i, std::int64_t q) const { return {data + i * row + q * column, row, column, batch}; }
};

/// Row-major matrices without padding.
template <typename T>
Matrices<T> row_major(T* data, std::int64_t rows, std::int64_t columns) {
  return {data, columns, 1, rows * columns};
}

/// tile[q][i] = entry (i0 + i, q0 + q) of a rows x columns matrix, or 0 beyond its edges.
template <typename S, typename T>
__device__ void load_tile(S (&tile)[kDepth][kTile + 1], Matrices<T> from, std::int64_t b, std::int64_t i0,
                          std::int64_t rows, std::int64_t q0, std::int64_t columns) {
  const bool along_rows = from.row == 1;  // neighbouring threads read neighbouring addresses
  for (int e = threadIdx.x; e < kTile * kDepth; e += kThreads) {
    const int i = along_rows ? e % kTile : e / kDepth, q = along_rows ? e / kTile : e % kDepth;
    tile[q][i] = i0 + i < rows && q0 + q < columns ? static_cast<S>(from(b, i0 + i, q0 + q)) : S(0);
  }
}

/// c = a b for batches of a (m, p), b (p, n) and c (m, n). b is described by its transpose.
template <typename A, typename B, typename C>
struct Product {
  Matrices<A> a;
  Matrices<B> b_transposed;
  Matrices<C> c;
};

/// Several products of one shape.
template <typename P, int count>
struct Products {
  P each[count];
};

/// c = alpha a b, added to c where `add` is set, in arithmetic of type S.
template <typename S, int count, typename A, typename B, typename C>
__global__ void __launch_bounds__(kThreads)
    multiply(Products<Product<A, B, C>, count> products, std::int64_t batch, std::int64_t m, std::int64_t n,
             std::int64_t p, S alpha, bool add) {
  __shared__ S left[kDepth][kTile + 1], right[kDepth][kTile + 1];
  const int i = threadIdx.x / kTile, j = threadIdx.x % kTile;
  const std::int64_t down = ceil_div(m, kTile), across = ceil_div(n, kTile), tiles = batch * down * across;
  for (std::int64_t t = blockIdx.x; t < count * tiles; t += gridDim.x) {
    const Product<A, B, C> product = products.each[t / tiles];
    const std::int64_t b = t % tiles / (down * across), i0 = t / across % down * kTile, j0 = t % across * kTile;
    S sum = 0;
    for (std::int64_t q0 = 0; q0 < p; q0 += kDepth) {
      load_tile(left, product.a, b, i0, m, q0, p);
      load_tile(right, product.b_transposed, b, j0, n, q0, p);
      __syncthreads();
#pragma unroll 16
      for (int q = 0; q < kDepth; ++q) sum = fma(left[q][i], right[q][j], sum);
      __syncthreads();
    }
    if (i0 + i < m && j0 + j < n) {
      C& out = product.c(b, i0 + i, j0 + j);
      out = static_cast<C>(add ? fma(alpha, sum, static_cast<S>(out)) : alpha * sum);
    }
  }
}

/// Launches products of batches of (m, p) by (p, n).
template <typename S, typename P, int count>
void launch_products(cudaStream_t stream, const P (&products)[count], std::int64_t batch, std::int64_t m,
                     std::int64_t n, std::int64_t p, S alpha, bool add) {
  Products<P, count> argument;
  std::copy(products, products + count, argument.each);
  const Grid tiles{count * batch * ceil_div(m, kTile) * ceil_div(n, kTile), kThreads};
  const auto start = [&]<typename A, typename B, typename C>(const Products<Product<A, B, C>, count>& each) {
    launch("cayley_update: multiply", stream, tiles, multiply<S, count, A, B, C>, each, batch, m, n, p, alpha, add);
  };
  start(argument);
}

/// Replaces the Gram matrices G = L'L by (3 I - G) / 2 and records the largest |G - I|.
__global__ void newton_schulz(std::int64_t batch, std::int64_t l, double* gram, double* drift) {
  double largest = 0;
  for (std::int64_t e = thread_id(); e < batch * l * l; e += thread_count()) {
    const double identity = e / l % l == e % l ? 1 : 0;
    largest = fmax(largest, off_identity(gram[e], identity));
    gram[e] = (3 * identity - gram[e]) / 2;
  }
  raise_to(drift, largest);
}

/// With B = L'G, a = tau/2, N = a (G'G - B'B) - B' and K = I + a (B + N): L(tau) = L (I - tau N K^-1) - tau G K^-1.
/// From gg = G'G and bb = B'B: k = K, bb becomes N, and x is set to I.
__global__ void assemble(std::int64_t batch, std::int64_t l, double a, const double* b, const double* gg, double* bb,
                         double* k, double* x) {
  for (std::int64_t e = thread_id(); e < batch * l * l; e += thread_count()) {
    const std::int64_t i = e / l % l, j = e % l;
    const double identity = i == j ? 1 : 0, n = a * (gg[e] - bb[e]) - b[e - i * l - j + j * l + i];
    k[e] = identity + a * (b[e] + n);
    bb[e] = n;
    x[e] = identity;
  }
}

// ---- inverses -------------------------------------------------------------------------------------------------------

constexpr int kBase = 64;  // matrices up to this size are inverted in the registers of one block,
constexpr int kStripes = kThreads / kBase, kHeld = kBase / kStripes;  // each thread with kHeld entries of a column

/// Replaces each n x n matrix, n <= kBase, by its inverse: Gauss-Jordan without pivoting, see invert() in invert.h.
/// One block per matrix. The pivot's row and column pass through shared memory, in one of two places by turns, so that
/// one barrier per pivot is enough.
__global__ void __launch_bounds__(kThreads) invert_small(std::int64_t batch, int n, Matrices<double> k) {
  __shared__ double rows[2][kBase], columns[2][kBase];
  const int j = threadIdx.x % kBase, stripe = threadIdx.x / kBase;
  for (std::int64_t b = blockIdx.x; b < batch; b += gridDim.x) {
    double held[kHeld];  // rows stripe, stripe + kStripes, ... of column j
#pragma unroll
    for (int h = 0; h < kHeld; ++h) {
      const int i = stripe + h * kStripes;
      held[h] = i < n && j < n ? k(b, i, j) : 0;
    }
    for (int pivot = 0; pivot < n; ++pivot) {
      double *const row = rows[pivot % 2], *const column = columns[pivot % 2];
#pragma unroll
      for (int h = 0; h < kHeld; ++h) {
        const int i = stripe + h * kStripes;
        if (i == pivot) row[j] = held[h];
        if (j == pivot) column[i] = held[h];
      }
      __syncthreads();
      const double inverse = 1 / row[pivot], scaled = j == pivot ? inverse : row[j] * inverse;
#pragma unroll
      for (int h = 0; h < kHeld; ++h) {
        const int i = stripe + h * kStripes;
        held[h] = i == pivot ? scaled : (j == pivot ? 0 : held[h]) - column[i] * scaled;
      }
    }
#pragma unroll
    for (int h = 0; h < kHeld; ++h) {
      const int i = stripe + h * kStripes;
      if (i < n && j < n) k(b, i, j) = held[h];
    }
    __syncthreads();  // the next matrix begins with the first place again
  }
}

/// Replaces each n x n matrix by its inverse, larger ones by halves as invert() in invert.h does. scratch: n^2
/// entries for each, batches k.batch entries apart.
void invert_each(cudaStream_t stream, std::int64_t batch, std::int64_t n, Matrices<double> k, double* scratch) {
  if (n <= kBase)
    return launch("cayley_update: invert_small", stream, Grid{batch, kThreads}, invert_small, batch, n, k);
  const std::int64_t h = ceil_div(n / 2, kBase) * kBase, m = n - h;
  const Matrices<double> A = k, B = k.from(0, h), C = k.from(h, 0), D = k.from(h, h), P{scratch, m, 1, k.batch},
                         Q{scratch + h * m, h, 1, k.batch};
  double* const rest = scratch + 2 * h * m;
  const auto product = [&](std::int64_t rows, std::int64_t columns, std::int64_t inner, double alpha,
                           Matrices<double> a, Matrices<double> b, bool add, Matrices<double> c) {
    launch_products(stream, {Product<double, double, double>{a, b.transposed(), c}}, batch, rows, columns, inner, alpha,
                    add);
  };
  invert_each(stream, batch, h, A, rest);
  product(h, m, h, -1, A, B, false, P);
  product(m, m, h, 1, C, P, true, D);
  invert_each(stream, batch, m, D, rest);
  product(m, h, h, -1, C, A, false, Q);
  product(h, m, m, 1, P, D, false, B);
  product(m, h, m, 1, D, Q, false, C);
  product(h, h, m, 1, P, C, true, A);
}

// ---- long steps -----------------------------------------------------------------------------------------------------

constexpr int kPolishThreads = 1024, kPolishWarps = kPolishThreads / kWarp;

/// Newton-Schulz steps for matrices that moved so far that rounding was amplified, as in update_one() of stiefel.cpp.
/// One block per matrix: most have nothing to do. lines: kPolishWarps * l entries for each matrix.
template <typename T>
__global__ void __launch_bounds__(kPolishThreads)
    polish(std::int64_t batch, std::int64_t d, std::int64_t l, double a, const double* square, T* updated, double* r,
           T* lines, double* drift) {
  __shared__ double largest_of[kPolishWarps];
  const int warp = threadIdx.x / kWarp, lane = lane_id();
  for (std::int64_t b = blockIdx.x; b < batch; b += gridDim.x) {
    double far = 0;  // the same in all threads
    for (std::int64_t i = lane; i < l; i += kWarp)
      far = fmax(far, off_identity(a * a * square[(b * l + i) * l + i], 0));
    if (largest_of_warp(far) < 1) continue;
    T *const matrix = updated + b * d * l, *const line = lines + (b * kPolishWarps + warp) * l;
    double *const factor = r + b * l * l, off = 0;
    for (int round = 0; round < 4; ++round) {
      double largest = 0;
      for (std::int64_t e = threadIdx.x; e < l * l; e += kPolishThreads) {
        const std::int64_t i = e / l, j = e % l;
        double sum = 0;
        for (std::int64_t q = 0; q < d; ++q)
          sum = fma(static_cast<double>(matrix[q * l + i]), static_cast<double>(matrix[q * l + j]), sum);
        const double identity = i == j ? 1 : 0;
        largest = fmax(largest, off_identity(sum, identity));
        factor[e] = (3 * identity - sum) / 2;
      }
      largest = largest_of_warp(largest);
      if (lane == 0) largest_of[warp] = largest;
      __syncthreads();
      off = largest_of_warp(largest_of[lane]);
      if (!(off > 2 * kOrthonormal<T> && off < 0.5)) break;
      for (std::int64_t i = warp; i < d; i += kPolishWarps) {
        for (std::int64_t j = lane; j < l; j += kWarp) line[j] = matrix[i * l + j];
        __syncwarp();
        for (std::int64_t j = lane; j < l; j += kWarp) {
          double sum = 0;
          for (std::int64_t q = 0; q < l; ++q) sum = fma(static_cast<double>(line[q]), factor[q * l + j], sum);
          matrix[i * l + j] = static_cast<T>(sum);
        }
        __syncwarp();
      }
      __syncthreads();  // before the next Gram matrix
    }
    __syncthreads();  // before the next matrix
    if (warp == 0) raise_to(drift, off);
  }
}

// ---- host -----------------------------------------------------------------------------------------------------------

template <typename T>
struct CayleyWork {
  double *r, *b_raw, *b, *square, *n, *k, *x, *on_l;  // (batch, l, l) each
  T* lines;

  CayleyWork(Workspace& workspace, std::int64_t batch, std::int64_t l) {
    for (double** each : {&r, &b_raw, &b, &square, &n, &k, &x, &on_l}) *each = workspace.take<double>(batch * l * l);
    lines = workspace.take<T>(batch * kPolishWarps * l);
  }
};

}  // namespace

template <typename T>
std::int64_t cayley_update_workspace(std::int64_t batch, std::int64_t l) {
  Workspace workspace(nullptr);
  CayleyWork<T>(workspace, batch, l);
  return workspace.bytes();
}

template <typename T>
void cayley_update(const T* L, const T* grad, std::int64_t batch, std::int64_t d, std::int64_t l, double step,
                   T* updated, double* drift, void* workspace, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  const double a = step / 2;
  const std::int64_t entries = batch * l * l;
  Workspace memory(workspace);
  const CayleyWork<T> work(memory, batch, l);
  const Matrices<const T> tall = row_major(L, d, l), slope = row_major(grad, d, l);
  const auto small = [&](double* data) { return row_major(data, l, l); };
  const auto small_product = [&](double alpha, Matrices<double> left, Matrices<double> right, bool add, double* c) {
    launch_products(on, {Product<double, double, double>{left, right.transposed(), small(c)}}, batch, l, l, l, alpha,
                    add);
  };
  const auto add_product = [&](T alpha, Matrices<const T> left, double* right, bool add) {
    launch_products(on, {Product<const T, double, T>{left, small(right).transposed(), row_major(updated, d, l)}}, batch,
                    d, l, l, alpha, add);
  };
  const auto gram = [&](Matrices<const T> left, Matrices<const T> right, double* c) {
    return Product<const T, const T, double>{left.transposed(), right.transposed(), small(c)};
  };

  check(cudaMemsetAsync(drift, 0, 2 * sizeof *drift, on), "cayley_update: newton_schulz");
  launch_products(on, {gram(tall, tall, work.r), gram(tall, slope, work.b_raw), gram(slope, slope, work.square)}, batch,
                  l, l, d, T(1), false);
  launch("cayley_update: newton_schulz", on, grid_of_threads(entries), newton_schulz, batch, l, work.r, drift);
  small_product(1, small(work.r), small(work.b_raw), false, work.b);  // R is symmetric
  small_product(1, small(work.b).transposed(), small(work.b), false, work.n);
  launch("cayley_update: assemble", on, grid_of_threads(entries), assemble, batch, l, a, work.b, work.square, work.n,
         work.k, work.x);
  invert_each(on, batch, l, small(work.k), work.on_l);

  // updated = L R (I - 2 a N K^-1) - 2 a G K^-1
  small_product(-2 * a, small(work.n), small(work.k), true, work.x);
  small_product(1, small(work.r), small(work.x), false, work.on_l);
  add_product(1, tall, work.on_l, false);
  add_product(static_cast<T>(-2 * a), slope, work.k, true);
  launch("cayley_update: polish", on, Grid{batch, kPolishThreads}, polish<T>, batch, d, l, a, work.square, updated,
         work.r, work.lines, drift + 1);
}

template std::int64_t cayley_update_workspace<float>(std::int64_t, std::int64_t);
template std::int64_t cayley_update_workspace<double>(std::int64_t, std::int64_t);
template void cayley_update(const float*, const float*, std::int64_t, std::int64_t, std::int64_t, double, float*,
                            double*, void*, void*);
template void cayley_update(const double*, const double*, std::int64_t, std::int64_t, std::int64_t, double, double*,
                            double*, void*, void*);

}  // namespace ssdml::cuda
