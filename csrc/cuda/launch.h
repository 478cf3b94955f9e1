// What the CUDA kernels share: launches, errors and the division of a workspace. Only .cu files include it.
//
// Kernels run on the caller's stream and on the current device, and allocate nothing. A grid may be smaller than its
// work, so every kernel strides over it.
#pragma once

#include <cooperative_groups.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

namespace ssdml::cuda {

inline constexpr int kWarp = 32;
inline constexpr unsigned kAllLanes = 0xffffffffu;

/// Whether an error is one of a kernel that runs, which is told to whoever calls next.
inline bool is_late(cudaError_t status) {
  for (const cudaError_t late : {cudaErrorIllegalAddress, cudaErrorLaunchTimeout, cudaErrorAssert,
                                 cudaErrorHardwareStackError, cudaErrorIllegalInstruction, cudaErrorMisalignedAddress,
                                 cudaErrorInvalidAddressSpace, cudaErrorInvalidPc, cudaErrorLaunchFailure})
    if (status == late) return true;
  return false;
}

inline void check(cudaError_t status, const char* kernel) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // so that the next call is not blamed for it
  std::string message = std::string("CUDA kernel ") + kernel + " failed: " + cudaGetErrorString(status);
  if (is_late(status))
    message += " (or what ran on the device before it: CUDA_LAUNCH_BLOCKING=1 in the environment tells)";
  throw std::runtime_error(message);
}

__host__ __device__ inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// ---- launches -------------------------------------------------------------------------------------------------------

struct Grid {
  std::int64_t blocks;
  int threads;
  std::int64_t shared_bytes = 0;
};

/// Blocks that give each of `count` items a thread, or a warp, of its own.
inline Grid grid_of_threads(std::int64_t count, int threads = 256) { return {ceil_div(count, threads), threads}; }
inline Grid grid_of_warps(std::int64_t count, int threads = 256) { return {ceil_div(count, threads / kWarp), threads}; }

/// Starts a kernel, cut to the largest grid; an empty grid starts nothing.
template <typename... Parameters, typename... Arguments>
void launch(const char* name, cudaStream_t stream, Grid grid, void (*kernel)(Parameters...), Arguments... arguments) {
  if (grid.blocks == 0) return;
  cudaLaunchConfig_t config{};
  config.gridDim = static_cast<unsigned>(std::min<std::int64_t>(grid.blocks, 0x7fffffff));
  config.blockDim = static_cast<unsigned>(grid.threads);
  config.dynamicSmemBytes = static_cast<std::size_t>(grid.shared_bytes);
  config.stream = stream;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), name);
}

/// Lets a kernel be launched with more dynamic shared memory than any kernel may. As this holds for launches by other
/// threads too, a kernel is admitted to the same number of bytes whatever the call.
template <typename Kernel>
void admit_shared(const char* name, Kernel kernel, std::int64_t bytes) {
  check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(bytes)),
        name);
}

/// Starts a kernel whose threads may meet at grid_barrier(): no more blocks than run at once on the current device, and
/// one less per processor where it has room for several, so that small kernels of other streams do not keep it waiting.
template <typename... Parameters, typename... Arguments>
void launch_together(const char* name, cudaStream_t stream, Grid grid, void (*kernel)(Parameters...),
                     Arguments... arguments) {
  int device, processors, blocks;
  check(cudaGetDevice(&device), name);
  check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device), name);
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, grid.threads, 0), name);
  const std::int64_t most = std::int64_t{processors} * std::max(blocks - 1, 1);
  cudaLaunchAttribute together{};
  together.id = cudaLaunchAttributeCooperative;
  together.val.cooperative = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = static_cast<unsigned>(std::clamp<std::int64_t>(grid.blocks, 1, most));
  config.blockDim = static_cast<unsigned>(grid.threads);
  config.stream = stream;
  config.attrs = &together;
  config.numAttrs = 1;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), name);
}

/// All threads of the grid wait for each other, and see what the others have written.
__device__ inline void grid_barrier() { cooperative_groups::this_grid().sync(); }

/// Where a thread stands in the whole grid, and how far it strides. Blocks hold whole warps.
__device__ inline std::int64_t thread_id() { return static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ inline std::int64_t thread_count() { return static_cast<std::int64_t>(gridDim.x) * blockDim.x; }
__device__ inline std::int64_t warp_id() { return thread_id() / kWarp; }
__device__ inline std::int64_t warp_count() { return thread_count() / kWarp; }
__device__ inline int lane_id() { return static_cast<int>(threadIdx.x) % kWarp; }

/// The shared memory that a launch asks for.
extern __shared__ __align__(16) unsigned char shared_memory[];

/// Brings `count` entries to the host once the stream has computed them.
template <typename T>
std::vector<T> read(const char* name, const T* device, std::int64_t count, cudaStream_t stream) {
  std::vector<T> values(count);
  if (count == 0) return values;
  check(cudaMemcpyAsync(values.data(), device, count * sizeof(T), cudaMemcpyDeviceToHost, stream), name);
  check(cudaStreamSynchronize(stream), name);
  return values;
}

// ---- numbers --------------------------------------------------------------------------------------------------------

inline constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// A double as an integer of the same order, for atomicMax. Nonnegative ones keep their bits, so that a number which is
/// never negative holds the largest that was written to it.
__device__ inline long long to_ordered(double value) {
  const long long bits = __double_as_longlong(value);
  return bits >= 0 ? bits : bits ^ 0x7fffffffffffffffLL;
}

/// The sum and the largest of the values of a warp, the same in all lanes, which must all call it.
__device__ inline double sum_of_warp(double value) {
  for (int half = kWarp / 2; half > 0; half /= 2) value += __shfl_xor_sync(kAllLanes, value, half);
  return value;
}
__device__ inline double largest_of_warp(double value) {
  for (int half = kWarp / 2; half > 0; half /= 2) value = fmax(value, __shfl_xor_sync(kAllLanes, value, half));
  return value;
}

/// |entry - entry of I|, infinite for NaN, which fmax would pass over.
__device__ inline double off_identity(double entry, double identity) {
  const double off = fabs(entry - identity);
  return off >= 0 ? off : kInfinity;
}

/// Raises a nonnegative number to the largest `value` of the warp, if that is larger. All lanes must call it.
__device__ inline void raise_to(double* number, double value) {
  value = largest_of_warp(value);
  if (lane_id() == 0) atomicMax(reinterpret_cast<long long*>(number), to_ordered(value));
}

// ---- workspace ------------------------------------------------------------------------------------------------------

/// Hands out pieces of the caller's memory, each aligned to 256 bytes as the memory itself must be. Over a null pointer
/// it only counts, so that one description of a layout serves both to measure it and to lay it out.
class Workspace {
 public:
  explicit Workspace(void* memory) : base_(reinterpret_cast<std::uintptr_t>(memory)) {}

  template <typename T>
  T* take(std::int64_t count) {
    T* piece = reinterpret_cast<T*>(base_ + static_cast<std::uintptr_t>(bytes_));
    bytes_ += ceil_div(count * static_cast<std::int64_t>(sizeof(T)), 256) * 256;
    return piece;
  }

  std::int64_t bytes() const { return bytes_; }

 private:
  std::uintptr_t base_;
  std::int64_t bytes_ = 0;
};

}  // namespace ssdml::cuda
