// What csrc/cuda/tensor.h does on a device.
#include "cuda/tensor.h"

#include <bit>
#include <cstring>

#include "block.h"
#include "common/halves.h"

namespace ssdml::cuda {
namespace {

constexpr unsigned kAllLanes = 0xffffffffu;

/// What the lanes of the warp hand over, each an address; all have read it when the next exchange ends.
const std::uint64_t* exchange_addresses(const void* address) {
  return cuda_on_cpu::exchange(cuda_on_cpu::Collective::shuffle, kAllLanes, reinterpret_cast<std::uintptr_t>(address));
}

/// A lane's entries of both factors, two in each of its registers.
struct Operands {
  float a[4][2], b[2][2];

  Operands(const std::uint32_t (&a_)[4], const std::uint32_t (&b_)[2]) {
    for (unsigned r = 0; r < 4; ++r) unpack(a_[r], a[r]);
    for (unsigned r = 0; r < 2; ++r) unpack(b_[r], b[r]);
  }

  static void unpack(std::uint32_t pair, float (&entries)[2]) {
    for (unsigned e = 0; e < 2; ++e)
      entries[e] = static_cast<float>(static_cast<double>(float16{static_cast<std::uint16_t>(pair >> 16 * e)}));
  }
};

}  // namespace

void load_tiles(std::uint32_t (&tile)[4], const void* row) {
  if (reinterpret_cast<std::uintptr_t>(row) % 16 != 0) cuda_on_cpu::fail("reads a row of a tile that is not aligned");
  const unsigned lane = cuda_on_cpu::thread_index.x % 32;
  const std::uint64_t* const rows = exchange_addresses(row);
  for (unsigned t = 0; t < 4; ++t)
    std::memcpy(&tile[t], reinterpret_cast<const unsigned char*>(rows[8 * t + lane / 4]) + 4 * (lane % 4), 4);
}

void multiply_add_tiles(float (&sum)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  const unsigned lane = cuda_on_cpu::thread_index.x % 32;
  const Operands own(a, b);
  const std::uint64_t* const lanes = exchange_addresses(&own);
  float left[2][16], right[2][16];  // the two rows and the two columns of this lane's entries
  for (unsigned p = 0; p < 16; p += 2)
    for (unsigned i = 0; i < 2; ++i) {
      const auto* const of_row = reinterpret_cast<const Operands*>(lanes[lane / 4 * 4 + p % 8 / 2]);
      const auto* const of_column = reinterpret_cast<const Operands*>(lanes[(lane % 4 * 2 + i) * 4 + p % 8 / 2]);
      std::memcpy(&left[i][p], of_row->a[i + p / 8 * 2], sizeof(float[2]));
      std::memcpy(&right[i][p], of_column->b[p / 8], sizeof(float[2]));
    }
  for (unsigned e = 0; e < 4; ++e)
    for (unsigned p = 0; p < 16; ++p) {
      const float product = left[e / 2][p] * right[e % 2][p];
      // Nearly as inexact as it may be: to nearest, then toward zero.
      sum[e] = std::bit_cast<float>(std::bit_cast<std::uint32_t>(sum[e] + product) & ~1u);
    }
  cuda_on_cpu::exchange(cuda_on_cpu::Collective::barrier, kAllLanes, 0);
}

}  // namespace ssdml::cuda
