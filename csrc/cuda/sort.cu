#include <bit>
#include <cub/device/device_radix_sort.cuh>

#include "cuda/sort.h"

namespace ssdml::cuda {

PairSort::PairSort(Workspace& workspace, std::int64_t count, std::int64_t keys_below)
    : count_(count), bits_(std::bit_width(static_cast<std::uint64_t>(std::max<std::int64_t>(keys_below, 2) - 1))) {
  std::int64_t* const none = nullptr;  // without memory, CUB says how much it wants
  check(cub::DeviceRadixSort::SortPairs(nullptr, bytes_, none, none, none, none, count_, 0, bits_, nullptr), "sort");
  memory_ = workspace.take<unsigned char>(static_cast<std::int64_t>(bytes_));
}

void PairSort::run(const char* name, const std::int64_t* keys, std::int64_t* sorted_keys, const std::int64_t* values,
                   std::int64_t* sorted_values, cudaStream_t stream) const {
  std::size_t bytes = bytes_;
  check(cub::DeviceRadixSort::SortPairs(memory_, bytes, keys, sorted_keys, values, sorted_values, count_, 0, bits_,
                                        stream),
        name);
}

}  // namespace ssdml::cuda
