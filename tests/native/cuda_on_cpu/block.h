// Runs the threads of a CUDA block on one CPU thread, so that kernels can be tested without a device.
//
// Each thread has a stack of its own and runs until it meets a barrier or returns. In between, threads run one after
// the other, in ascending or descending order: a kernel whose answer depends on the order lacks a barrier or races.
// What CUDA leaves undefined, such as a shuffle that a lane of its mask never reaches, ends the program with a message.
// One stack's switch to another is x86-64 code (block.cpp).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>

namespace cuda_on_cpu {

struct Index {
  unsigned x = 1, y = 1, z = 1;

  Index() = default;
  Index(unsigned x_) : x(x_) {}  // NOLINT: implicit, as dim3 is
};

/// Where the running thread stands.
inline Index thread_index, block_index, block_size, grid_size;

/// How launches run: in which order, and with how many blocks at most (which makes kernels stride).
inline bool descending = false;
inline unsigned most_blocks = 0x7fffffff;

/// Whether launches fail, by themselves or because a kernel before has crashed.
inline bool refuses = false, has_crashed = false;

/// Dynamic shared memory of a block: what the device has (cuda_on_cpu_set_shared changes it from outside), what any
/// kernel gets, and what kernels were admitted to.
inline constexpr std::size_t kMostShared = 227 << 10, kSharedByDefault = 48 << 10;
inline std::size_t device_shared = kMostShared;
inline std::map<const void*, std::size_t> admitted_shared;

/// Runs `kernel` once per thread of each block, all blocks at once if `together`. Dynamic shared memory holds NaNs at
/// first; blocks that run together share it, and all shared variables, and may use them one block at a time.
void launch(unsigned blocks, unsigned threads, std::size_t shared_bytes, bool together,
            const std::function<void()>& kernel);

/// Waits for the other threads of the block, or of the grid.
void block_barrier();
void grid_barrier();

enum class Collective { barrier, shuffle, ballot };

/// Waits for the lanes of `mask` to make the same call; returns their values, by lane.
const std::uint64_t* exchange(Collective collective, unsigned mask, std::uint64_t value);

/// Ends the program on behalf of the running thread.
[[noreturn]] void fail(const char* reason);

}  // namespace cuda_on_cpu
