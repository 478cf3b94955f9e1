// Stands in for CUB's header of that name: a stable sort of the bits asked for, eight of them in a pass, in memory that
// depends on how many passes there are: with more than one of them, keys and values need another place.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <numeric>
#include <vector>

namespace cub {

struct DeviceRadixSort {
  template <typename Key, typename Value>
  static cudaError_t SortPairs(void* memory, std::size_t& bytes, const Key* keys, Key* sorted_keys, const Value* values,
                               Value* sorted_values, std::int64_t count, int begin_bit, int end_bit, cudaStream_t) {
    const std::size_t passes = (end_bit - begin_bit + 7) / 8;
    const std::size_t needed =
        1000 * passes + (passes > 1 ? static_cast<std::size_t>(count) * (sizeof(Key) + sizeof(Value)) : 0);
    if (!memory) {
      bytes = needed;
      return cudaSuccess;
    }
    if (bytes < needed) return cudaErrorInvalidValue;
    std::memset(memory, 0xff, needed);
    const std::uint64_t mask = ((std::uint64_t{1} << (end_bit - begin_bit)) - 1) << begin_bit;
    std::vector<std::int64_t> order(count);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
      return (static_cast<std::uint64_t>(keys[a]) & mask) < (static_cast<std::uint64_t>(keys[b]) & mask);
    });
    for (std::int64_t i = 0; i < count; ++i) {
      sorted_keys[i] = keys[order[i]];
      sorted_values[i] = values[order[i]];
    }
    return cudaSuccess;
  }
};

}  // namespace cub
