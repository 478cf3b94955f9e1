// Slow modes of one component (modes.h) on the device: sweeps, products and Z, V and c in float64 there, what is done
// with (m, m) matrices on the host. Only affinity.cu includes it.
#pragma once

#include <cmath>
#include <vector>

#include "affinity/cuda_panel.h"
#include "common/random.h"
#include "common/small_matrix.h"

namespace ssdml::cuda::walk {

constexpr int kTile = 16;             // a block multiplies tiles of so many rows and columns, one entry per thread
constexpr std::int64_t kPieces = 32;  // of the rows of x' y, summed apart

__global__ void fill_random(std::uint64_t seed, std::int64_t count, double* x) {
  const Random random{seed, 0};
  for (std::int64_t e = thread_id(); e < count; e += thread_count()) x[e] = random.symmetric(e);
}

/// piece[q] = x' y over the q-th piece of the rows, for (n, m) x and y.
__global__ void multiply_transposed(std::int64_t n, std::int64_t m, const double* x, const double* y, double* piece) {
  __shared__ double left[kTile][kTile + 1], right[kTile][kTile + 1];
  const int i = static_cast<int>(threadIdx.x) / kTile, j = static_cast<int>(threadIdx.x) % kTile;
  const std::int64_t tiles = m / kTile, length = ceil_div(n, kPieces);
  for (std::int64_t b = blockIdx.x; b < kPieces * tiles * tiles; b += gridDim.x) {
    const std::int64_t q = b / (tiles * tiles), i0 = b / tiles % tiles * kTile, j0 = b % tiles * kTile;
    const std::int64_t end = (q + 1) * length < n ? (q + 1) * length : n;
    double sum = 0;
    for (std::int64_t p0 = q * length; p0 < end; p0 += kTile) {
      const bool inside = p0 + i < end;
      left[i][j] = inside ? x[(p0 + i) * m + i0 + j] : 0;
      right[i][j] = inside ? y[(p0 + i) * m + j0 + j] : 0;
      __syncthreads();
      for (int p = 0; p < kTile; ++p) sum = fma(left[p][i], right[p][j], sum);
      __syncthreads();
    }
    piece[q * m * m + (i0 + i) * m + j0 + j] = sum;
  }
}

__global__ void sum_pieces(std::int64_t count, const double* piece, double* product) {
  for (std::int64_t e = thread_id(); e < count; e += thread_count()) {
    double sum = 0;
    for (std::int64_t q = 0; q < kPieces; ++q) sum += piece[q * count + e];
    product[e] = sum;
  }
}

/// product = x y for an (n, m) x and an (m, m) y.
__global__ void multiply_by_square(std::int64_t n, std::int64_t m, const double* x, const double* y, double* product) {
  for (std::int64_t e = thread_id(); e < n * m; e += thread_count()) {
    const double* row = x + e / m * m;
    double sum = 0;
    for (std::int64_t b = 0; b < m; ++b) sum = fma(row[b], y[b * m + e % m], sum);
    product[e] = sum;
  }
}

/// V = (Z - gamma Q Z) / (1 - gamma), with the largest |Z|, and the largest norms of a row of V and of Z. One warp per
/// row.
__global__ void restart(Graph graph, std::int64_t begin, std::int64_t n, std::int64_t m, double gamma,
                        const double* solved, double* basis, double* largest) {
  double most = 0, basis_norm = 0, solved_norm = 0;
  for (std::int64_t p = warp_id(); p < n; p += warp_count()) {
    const Edges edges = graph.edges_out(begin + p);
    double basis_square = 0, solved_square = 0;
    for (std::int64_t a = lane_id(); a < m; a += kWarp) {
      double sum = 0;
      for (std::int64_t r = 0; r < edges.count; ++r)
        sum += (edges.share ? edges.share[r] : 1.0 / static_cast<double>(graph.k)) * solved[edges.at[r] * m + a];
      const double z = solved[p * m + a], v = (z - gamma * sum) / (1 - gamma);
      basis[p * m + a] = v;
      most = fmax(most, fabs(z));
      basis_square += v * v;
      solved_square += z * z;
    }
    for (int apart = kWarp / 2; apart > 0; apart /= 2) {
      basis_square += __shfl_xor_sync(kAllLanes, basis_square, apart);
      solved_square += __shfl_xor_sync(kAllLanes, solved_square, apart);
    }
    basis_norm = fmax(basis_norm, sqrt(basis_square));
    solved_norm = fmax(solved_norm, sqrt(solved_square));
  }
  raise_to(&largest[0], most);
  raise_to(&largest[1], basis_norm);
  raise_to(&largest[2], solved_norm);
}

__global__ void transpose(std::int64_t n, std::int64_t m, const double* x, double* transposed) {
  for (std::int64_t e = thread_id(); e < n * m; e += thread_count()) transposed[e] = x[e % n * m + e / n];
}

/// `sweeps` sweeps of relaxation for all columns of an (n, m) x, or as many steps of x <- Q' x; one block per panel.
template <typename P, int kLanes, int kParts>
__global__ void __launch_bounds__(kMostThreads)
    sweep_all(Graph graph, std::int64_t begin, std::int64_t m, Sor relaxation, int sweeps, bool back, bool steps,
              bool in_shared, P* room, P* x) {
  using PanelHere = Panel<P, kLanes, kParts>;
  __shared__ typename PanelHere::SharedHere shared;
  const std::int64_t entries = graph.size[begin] * PanelHere::kWidth;
  P* const own = room + blockIdx.x * entries * (in_shared ? 1 : 2);
  for (std::int64_t column = blockIdx.x * PanelHere::kWidth; column < m; column += gridDim.x * PanelHere::kWidth) {
    PanelHere panel(graph, begin, in_shared, in_shared ? reinterpret_cast<P*>(shared_memory) : own + entries, own,
                    nullptr, shared);
    panel.load(x, m, column);
    for (int s = 0; s < sweeps; ++s)
      if (steps)
        panel.step(back);
      else
        panel.sweep(relaxation, back);
    panel.save(x, m, column);
  }
}

}  // namespace ssdml::cuda::walk
