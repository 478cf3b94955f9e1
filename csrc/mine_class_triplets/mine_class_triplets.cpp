#include "mine_class_triplets/mine_class_triplets.h"

namespace ssdml {

void mine_class_triplets(ClassTriplets source, std::int64_t n_triplets, std::int64_t* triplets,
                         [[maybe_unused]] int num_threads) {
#pragma omp parallel for num_threads(num_threads) firstprivate(source)
  for (std::int64_t t = 0; t < n_triplets; ++t) source.draw(t, triplets + t * 3);
}

}  // namespace ssdml
