// Stands in for CUDA's header of that name: copies to shared memory, which take place as late as they may, when they
// are waited for.
#pragma once

#include <cstddef>
#include <cstring>
#include <deque>
#include <map>
#include <vector>

#include "block.h"

namespace cuda_on_cpu {

struct Copy {
  void* to;
  const void* from;
  std::size_t bytes;
};

/// The copies of each thread of the block: batches that it has committed, and the one that it is at.
inline std::map<unsigned, std::deque<std::vector<Copy>>> copies;
inline std::deque<std::vector<Copy>>& own_copies() {
  auto& own = copies[thread_index.x];
  if (own.empty()) own.emplace_back();
  return own;
}

}  // namespace cuda_on_cpu

inline void __pipeline_memcpy_async(void* to, const void* from, std::size_t bytes) {
  cuda_on_cpu::own_copies().back().push_back({to, from, bytes});
}
inline void __pipeline_commit() { cuda_on_cpu::own_copies().emplace_back(); }
inline void __pipeline_wait_prior(std::size_t batches) {
  auto& own = cuda_on_cpu::own_copies();
  for (; own.size() > batches + 1; own.pop_front())
    for (const cuda_on_cpu::Copy& copy : own.front()) std::memcpy(copy.to, copy.from, copy.bytes);
}
