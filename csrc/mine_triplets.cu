#include "cuda.h"
#include "mine_triplets.h"

namespace ssdml::cuda {
namespace {

/// One warp per anchor. A neighbour's rank is the number of neighbours before it, so neither sorting nor memory is
/// needed, whatever k. Equal entries, which a valid graph does not have, keep their order.
template <typename T>
__global__ void mine(const std::int64_t* indices, const T* distances, const T* affinity, std::int64_t k,
                     const std::int64_t* anchors, std::int64_t n_anchors, std::int64_t* triplets) {
  const std::int64_t half = k / 2;
  for (std::int64_t t = warp_id(); t < n_anchors; t += warp_count()) {
    const std::int64_t anchor = anchors ? anchors[t] : t, row = anchor * k;
    std::int64_t* out = triplets + t * half * 3;
    for (std::int64_t r = lane_id(); r < k; r += kWarp) {
      const T own = affinity[row + r], distance = distances ? distances[row + r] : T(0);
      const std::int64_t index = indices[row + r];
      std::int64_t rank = 0;
      for (std::int64_t q = 0; q < k; ++q) {
        const T other = affinity[row + q], other_distance = distances ? distances[row + q] : T(0);
        const std::int64_t other_index = indices[row + q];
        bool before = q < r;
        if (other != own) {
          before = other > own;
        } else if (other_distance != distance) {
          before = other_distance < distance;
        } else if (other_index != index) {
          before = other_index < index;
        }
        rank += before;
      }
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
  launch("mine_triplets", static_cast<cudaStream_t>(stream), warps_for(n_anchors), mine<T>, indices, distances,
         affinity, k, anchors, n_anchors, triplets);
}

template void mine_triplets(const std::int64_t*, const float*, const float*, std::int64_t, const std::int64_t*,
                            std::int64_t, std::int64_t*, void*);
template void mine_triplets(const std::int64_t*, const double*, const double*, std::int64_t, const std::int64_t*,
                            std::int64_t, std::int64_t*, void*);

}  // namespace ssdml::cuda
