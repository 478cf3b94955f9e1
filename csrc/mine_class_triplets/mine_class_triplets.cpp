#include "mine_class_triplets/mine_class_triplets.h"

#include "common/parallel.h"

namespace ssdml {

void mine_class_triplets(ClassTriplets source, std::int64_t n_triplets, std::int64_t* triplets, int num_threads) {
  in_shares(n_triplets, num_threads, [&](std::int64_t first, std::int64_t last, int) {
    const ClassTriplets own = source;  // stays in registers: no write to `triplets` can change it
    for (std::int64_t t = first; t < last; ++t) own.draw(t, triplets + t * 3);
  });
}

}  // namespace ssdml
