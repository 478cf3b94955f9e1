#include "mine_triplets.h"

#include <algorithm>
#include <vector>

namespace ssdml {

template <typename T>
void mine_triplets(const std::int64_t* indices, const T* distances, const T* affinity, std::int64_t k,
                   const std::int64_t* anchors, std::int64_t n_anchors, std::int64_t* triplets,
                   [[maybe_unused]] int num_threads) {
  struct Neighbour {
    T affinity, distance;
    std::int64_t index;
    bool operator<(const Neighbour& other) const {
      if (affinity != other.affinity) return affinity > other.affinity;
      if (distance != other.distance) return distance < other.distance;
      return index < other.index;
    }
  };
  const std::int64_t half = k / 2;
#pragma omp parallel num_threads(num_threads)
  {
    std::vector<Neighbour> ranked(k);
#pragma omp for
    for (std::int64_t t = 0; t < n_anchors; ++t) {
      const std::int64_t row = anchors[t] * k;
      for (std::int64_t r = 0; r < k; ++r)
        ranked[r] = {affinity[row + r], distances ? distances[row + r] : T(0), indices[row + r]};
      std::sort(ranked.begin(), ranked.end());
      std::int64_t* out = triplets + t * half * 3;
      for (std::int64_t r = 0; r < half; ++r) {
        *out++ = anchors[t];
        *out++ = ranked[r].index;
        *out++ = ranked[k - half + r].index;
      }
    }
  }
}

template void mine_triplets(const std::int64_t*, const float*, const float*, std::int64_t, const std::int64_t*,
                            std::int64_t, std::int64_t*, int);
template void mine_triplets(const std::int64_t*, const double*, const double*, std::int64_t, const std::int64_t*,
                            std::int64_t, std::int64_t*, int);

}  // namespace ssdml
