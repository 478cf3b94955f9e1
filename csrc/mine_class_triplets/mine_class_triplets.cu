#include "cuda/launch.h"
#include "mine_class_triplets/mine_class_triplets.h"

namespace ssdml::cuda {
namespace {

/// One thread per triplet.
__global__ void draw_each(ClassTriplets source, std::int64_t n_triplets, std::int64_t* triplets) {
  for (std::int64_t t = thread_id(); t < n_triplets; t += thread_count()) source.draw(t, triplets + t * 3);
}

}  // namespace

void mine_class_triplets(ClassTriplets source, std::int64_t n_triplets, std::int64_t* triplets, void* stream) {
  launch("mine_class_triplets", static_cast<cudaStream_t>(stream), grid_of_threads(n_triplets), draw_each, source,
         n_triplets, triplets);
}

}  // namespace ssdml::cuda
