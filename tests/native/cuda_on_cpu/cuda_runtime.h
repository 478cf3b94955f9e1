// Stands in for CUDA's header of that name: what csrc/*.cu use of the language and the runtime, on the CPU (block.h).
// Streams have no meaning; a launch has run when it returns.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "block.h"

#define __global__
#define __device__
#define __host__
#define __shared__ thread_local  // static, within a function too
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))

// ---- within kernels -------------------------------------------------------------------------------------------------

inline const cuda_on_cpu::Index &threadIdx = cuda_on_cpu::thread_index, &blockIdx = cuda_on_cpu::block_index,
                                &blockDim = cuda_on_cpu::block_size, &gridDim = cuda_on_cpu::grid_size;

using std::fma, std::isnan, std::max, std::min;

inline void __syncthreads() { cuda_on_cpu::block_barrier(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) {
  cuda_on_cpu::exchange(cuda_on_cpu::Collective::barrier, mask, 0);
}

/// The value of another lane of the mask.
template <typename T>
T __shfl_sync(unsigned mask, T value, int lane) {
  static_assert(sizeof(T) <= 8);
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  const std::uint64_t* values = cuda_on_cpu::exchange(cuda_on_cpu::Collective::shuffle, mask, bits);
  if (!(mask >> (lane & 31) & 1)) cuda_on_cpu::fail("shuffles from a lane that is not in the mask");
  std::memcpy(&value, &values[lane & 31], sizeof value);
  return value;
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int bits) {
  return __shfl_sync(mask, value, static_cast<int>(threadIdx.x % 32) ^ bits);
}

inline unsigned __ballot_sync(unsigned mask, bool vote) {
  const std::uint64_t* votes = cuda_on_cpu::exchange(cuda_on_cpu::Collective::ballot, mask, vote);
  unsigned result = 0;
  for (unsigned q = 0; q < 32; ++q) result |= static_cast<unsigned>((mask >> q & 1) && votes[q]) << q;
  return result;
}

inline int __popc(unsigned bits) { return std::popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline long long __double_as_longlong(double value) { return std::bit_cast<long long>(value); }
inline double __longlong_as_double(long long bits) { return std::bit_cast<double>(bits); }

template <typename T>
T atomicMax(T* address, T value) {
  const T old = *address;
  *address = std::max(old, value);
  return old;
}
template <typename T>
T atomicOr(T* address, T value) {
  const T old = *address;
  *address |= value;
  return old;
}
template <typename T>
T atomicMin(T* address, T value) {
  const T old = *address;
  *address = std::min(old, value);
  return old;
}

template <typename T>
T atomicAdd(T* address, T value) {
  const T old = *address;
  *address += value;
  return old;
}
template <typename T>
T atomicCAS(T* address, T expected, T value) {
  const T old = *address;
  if (old == expected) *address = value;
  return old;
}

// ---- the runtime ----------------------------------------------------------------------------------------------------

enum cudaError_t {
  cudaSuccess,
  cudaErrorInvalidValue,
  cudaErrorIllegalAddress,
  cudaErrorLaunchTimeout,
  cudaErrorAssert,
  cudaErrorHardwareStackError,
  cudaErrorIllegalInstruction,
  cudaErrorMisalignedAddress,
  cudaErrorInvalidAddressSpace,
  cudaErrorInvalidPc,
  cudaErrorLaunchFailure
};
enum cudaMemcpyKind { cudaMemcpyDeviceToHost, cudaMemcpyHostToDevice };
enum cudaDeviceAttr { cudaDevAttrMaxSharedMemoryPerBlockOptin, cudaDevAttrMultiProcessorCount };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
using cudaStream_t = struct CUstream_st*;

enum cudaLaunchAttributeID { cudaLaunchAttributeCooperative };
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    int cooperative;
  } val;
};
struct cudaLaunchConfig_t {
  cuda_on_cpu::Index gridDim, blockDim;
  std::size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
  cudaLaunchAttribute* attrs = nullptr;
  unsigned numAttrs = 0;
};

template <typename... Parameters>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               std::type_identity_t<Parameters>... arguments) {
  if (cuda_on_cpu::has_crashed) return cudaErrorIllegalAddress;
  const std::size_t bytes = config->dynamicSmemBytes;
  const auto address = reinterpret_cast<const void*>(kernel);
  if (cuda_on_cpu::refuses || config->gridDim.x == 0 ||
      bytes > std::max(cuda_on_cpu::kSharedByDefault, cuda_on_cpu::admitted_shared[address]))
    return cudaErrorInvalidValue;
  const bool together = config->numAttrs > 0 && config->attrs->val.cooperative;
  cuda_on_cpu::launch(config->gridDim.x, config->blockDim.x, bytes, together, [&] { kernel(arguments...); });
  return cudaSuccess;
}

inline cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int bytes) {
  if (static_cast<std::size_t>(bytes) > cuda_on_cpu::device_shared) return cudaErrorInvalidValue;
  cuda_on_cpu::admitted_shared[kernel] = bytes;
  return cudaSuccess;
}

inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMultiProcessorCount ? 3 : static_cast<int>(cuda_on_cpu::device_shared);
  return cudaSuccess;
}
template <typename Kernel>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Kernel, int, std::size_t) {
  *blocks = 1;
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t) {
  std::memset(to, value, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind, cudaStream_t) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t status) {
  return status == cudaErrorInvalidValue ? "invalid argument" : "an illegal memory access was encountered";
}

struct cudaPointerAttributes {
  int device;
};
inline cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void*) {
  attributes->device = 0;
  return cudaSuccess;
}
