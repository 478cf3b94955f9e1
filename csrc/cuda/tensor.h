// A warp's product of small tiles of float16 on tensor cores (compute capability 8.0 and later), and what feeds it. All
// lanes must call these together. Only .cu files include it; tests/native/cuda_on_cpu/ has the same in C++.
#pragma once

#include <cstdint>

namespace ssdml::cuda {

/// Rounding of one of the additions in multiply_add_tiles(), relative: "at least single precision", perhaps not to
/// nearest.
inline constexpr double kTensorRounding = 0x1p-23;

#ifdef __CUDACC__

/// Reads four tiles of 8 rows of 8 float16, of which lane q addresses row q % 8 of tile q / 8, 16 bytes in shared
/// memory. Lane q gets entries 2 (q % 4) and 2 (q % 4) + 1 of row q / 4 of each tile.
__device__ inline void load_tiles(std::uint32_t (&tile)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(tile[0]), "=r"(tile[1]), "=r"(tile[2]), "=r"(tile[3])
               : "r"(static_cast<std::uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
}

/// sum += a b' for (16, 16) a and (8, 16) b. Of a, a lane has its entries of tiles (rows 0 to 7, columns 0 to 7), (8,
/// 0), (0, 8) and (8, 8), of b those of columns 0 to 7 and 8 to 15, each as load_tiles() gives them; of sum, of rows
/// q / 4 and q / 4 + 8, columns 2 (q % 4) and 2 (q % 4) + 1.
__device__ inline void multiply_add_tiles(float (&sum)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#else

void load_tiles(std::uint32_t (&tile)[4], const void* row);
void multiply_add_tiles(float (&sum)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]);

#endif

}  // namespace ssdml::cuda
