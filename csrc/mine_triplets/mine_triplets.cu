#include "cuda/launch.h"
#include "mine_triplets/mine_triplets.h"

namespace ssdml::cuda {
namespace {

/// Whether the neighbour at position q goes before the one at r where their affinities are equal. Equal entries, which
/// a valid graph does not have, keep their order.
template <typename T>
__device__ bool nearer(const std::int64_t* indices, const T* distances, std::int64_t q, std::int64_t r) {
  if (distances && distances[q] != distances[r]) return distances[q] < distances[r];
  return indices[q] != indices[r] ? indices[q] < indices[r] : q < r;
}

/// One warp per anchor, one lane per neighbour. Its rank is the number of neighbours before it, so neither sorting nor
/// memory is needed, whatever k. Each affinity is read by all lanes at once; distances and indices are looked at only
/// where affinities are equal.
template <typename T>
__global__ void mine(const std::int64_t* indices, const T* distances, const T* affinity, std::int64_t k,
                     const std::int64_t* anchors, std::int64_t n_anchors, std::int64_t* triplets) {
  const std::int64_t half = k / 2;
  for (std::int64_t t = warp_id(); t < n_anchors; t += warp_count()) {
    const std::int64_t anchor = anchors ? anchors[t] : t, row = anchor * k;
    std::int64_t* const out = triplets + t * half * 3;
    for (std::int64_t r = lane_id(); r < k; r += kWarp) {
      const T own = affinity[row + r];
      unsigned greater = 0, equal = 0;  // a row has fewer entries than 2^32
#pragma unroll 8
      for (std::int64_t q = 0; q < k; ++q) {
        const T other = affinity[row + q];
        greater += other > own;
        equal += other == own;
      }
      std::int64_t rank = greater;
      if (equal > 1)
        for (std::int64_t q = 0; q < k; ++q)
          rank += affinity[row + q] == own && nearer(indices + row, distances ? distances + row : nullptr, q, r);
      const std::int64_t index = indices[row + r];
      if (rank < half) {
        out[rank * 3] = anchor;
        out[rank * 3 + 1] = index;
      }
      if (rank >= k - half) out[(rank - (k - half)) * 3 + 2] = index;
    }
  }
}

}  // namespace

template <typename T>
void mine_triplets(const std::int64_t* indices, const T* distances, const T* affinity, std::int64_t k,
                   const std::int64_t* anchors, std::int64_t n_anchors, std::int64_t* triplets, void* stream) {
  launch("mine_triplets", static_cast<cudaStream_t>(stream), grid_of_warps(n_anchors), mine<T>, indices, distances,
         affinity, k, anchors, n_anchors, triplets);
}

template void mine_triplets(const std::int64_t*, const float*, const float*, std::int64_t, const std::int64_t*,
                            std::int64_t, std::int64_t*, void*);
template void mine_triplets(const std::int64_t*, const double*, const double*, std::int64_t, const std::int64_t*,
                            std::int64_t, std::int64_t*, void*);

}  // namespace ssdml::cuda
