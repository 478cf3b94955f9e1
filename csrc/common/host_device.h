// For functions that CPU and CUDA kernels share.
#pragma once

#ifdef __CUDACC__
#define SSDML_HOST_DEVICE __host__ __device__ inline
#else
#define SSDML_HOST_DEVICE inline
#endif
