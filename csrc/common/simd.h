// The only file that knows instruction sets.
//
// Every source is compiled once per instruction set into a Python module of its own (see CMakeLists.txt), so what is
// defined here is fixed at compile time: the width of a vector and the few operations that the compiler's vector
// extensions do not spell. `Vec<T>` supports + - * and [] by those extensions on any processor.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace ssdml {

#if defined(__AVX512VNNI__)  // with F, BW, DQ and VL: Ice Lake, Zen 4 and newer
inline constexpr const char* isa_name = "avx512";
inline constexpr int vector_bytes = 64;
inline constexpr int vector_registers = 32;
#elif defined(__AVX2__)
inline constexpr const char* isa_name = "avx2";
inline constexpr int vector_bytes = 32;
inline constexpr int vector_registers = 16;
#else
inline constexpr const char* isa_name = "baseline";
inline constexpr int vector_bytes = 16;
inline constexpr int vector_registers = 16;
#endif

template <typename T, int bytes = vector_bytes>
struct VecOf {
  typedef T type __attribute__((vector_size(bytes)));
};
template <typename T>
using Vec = typename VecOf<T>::type;

template <typename T>
inline constexpr int lanes = vector_bytes / static_cast<int>(sizeof(T));

template <typename T>
inline Vec<T> load(const T* p) {
  Vec<T> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

template <typename T>
inline Vec<T> broadcast(T x) {
  return x - Vec<T>{};
}

/// The first min(count, lanes) entries at p and `fill` in the other lanes; reads nothing beyond those entries.
template <typename T>
inline Vec<T> load_first(const T* p, std::int64_t count, T fill) {
  if (count >= lanes<T>) return load(p);
#if defined(__AVX512VNNI__)
  const auto mask = static_cast<std::uint16_t>((1u << count) - 1);
  if constexpr (sizeof(T) == 4)
    return _mm512_mask_loadu_ps(broadcast(fill), mask, p);
  else
    return _mm512_mask_loadu_pd(broadcast(fill), static_cast<__mmask8>(mask), p);
#else
  T entries[lanes<T>];
  for (int r = 0; r < lanes<T>; ++r) entries[r] = r < count ? p[r] : fill;
  return load(entries);
#endif
}

template <typename T>
inline void store(T* p, Vec<T> v) {
  std::memcpy(p, &v, sizeof v);
}

/// a * b + c. Fused where the instruction set has it; sources are compiled with -ffp-contract=off, so this is the only
/// place where a kernel's rounding depends on the instruction set.
template <typename T>
inline Vec<T> multiply_add(Vec<T> a, Vec<T> b, Vec<T> c) {
#if defined(__AVX512VNNI__)
  if constexpr (sizeof(T) == 4)
    return _mm512_fmadd_ps(a, b, c);
  else
    return _mm512_fmadd_pd(a, b, c);
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4)
    return _mm256_fmadd_ps(a, b, c);
  else
    return _mm256_fmadd_pd(a, b, c);
#else
  return a * b + c;
#endif
}

/// Sum of the lanes, halves added to halves.
template <typename T, int bytes = vector_bytes>
inline T sum(typename VecOf<T, bytes>::type v) {
  if constexpr (bytes == 16) {
    if constexpr (sizeof(T) == 8)
      return v[0] + v[1];
    else
      return (v[0] + v[2]) + (v[1] + v[3]);
  } else {
    const auto [low, high] = std::bit_cast<std::array<typename VecOf<T, bytes / 2>::type, 2>>(v);
    return sum<T, bytes / 2>(low + high);
  }
}

namespace simd_detail {

/// Lane j: a[j] + a[j ^ half] where bit `half` of j is not set, the same of b where it is.
template <typename T, int half, std::size_t... j>
inline Vec<T> fold(Vec<T> a, Vec<T> b, std::index_sequence<j...>) {
  return __builtin_shufflevector(a, b, (j & half ? lanes<T> + j : j)...) +
         __builtin_shufflevector(a, b, (j & half ? lanes<T> + (j ^ half) : j ^ half)...);
}

template <typename T, int count>
inline void fold_all(Vec<T>* v) {
  constexpr int half = count / 2;
  for (int i = 0; i < half; ++i) v[i] = fold<T, half>(v[i], v[i + half], std::make_index_sequence<lanes<T>>{});
  if constexpr (half > 1) fold_all<T, half>(v);
}

}  // namespace simd_detail

/// Lane r is sum(v[r]), to the same bits, in a third of the steps. Overwrites v, of as many vectors as they have lanes.
template <typename T>
inline Vec<T> sum_each(Vec<T>* v) {
  simd_detail::fold_all<T, lanes<T>>(v);
  return v[0];
}

/// Bit r is set where a[r] >= b[r]; never for NaN.
inline std::uint32_t mask_greater_equal(Vec<float> a, Vec<float> b) {
#if defined(__AVX512VNNI__)
  return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ);
#elif defined(__AVX2__)
  return static_cast<std::uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GE_OQ)));
#elif defined(__SSE2__)
  return static_cast<std::uint32_t>(_mm_movemask_ps(_mm_cmpge_ps(a, b)));
#else
  std::uint32_t mask = 0;
  for (int r = 0; r < lanes<float>; ++r) mask |= static_cast<std::uint32_t>(a[r] >= b[r]) << r;
  return mask;
#endif
}

/// c[r] + the sum over the two int16 of lane r of a times b: twice as fast as float32 products where has_pair_products.
#if defined(__AVX512VNNI__)
inline constexpr bool has_pair_products = true;
inline Vec<std::int32_t> multiply_add_pairs(Vec<std::int32_t> a, Vec<std::int32_t> b, Vec<std::int32_t> c) {
  return (Vec<std::int32_t>)_mm512_dpwssd_epi32((__m512i)c, (__m512i)a, (__m512i)b);
}
#elif defined(__AVX2__)
inline constexpr bool has_pair_products = true;
inline Vec<std::int32_t> multiply_add_pairs(Vec<std::int32_t> a, Vec<std::int32_t> b, Vec<std::int32_t> c) {
  return c + (Vec<std::int32_t>)_mm256_madd_epi16((__m256i)a, (__m256i)b);
}
#elif defined(__SSE2__)
inline constexpr bool has_pair_products = true;
inline Vec<std::int32_t> multiply_add_pairs(Vec<std::int32_t> a, Vec<std::int32_t> b, Vec<std::int32_t> c) {
  return c + (Vec<std::int32_t>)_mm_madd_epi16((__m128i)a, (__m128i)b);
}
#else
inline constexpr bool has_pair_products = false;
inline Vec<std::int32_t> multiply_add_pairs(Vec<std::int32_t>, Vec<std::int32_t>, Vec<std::int32_t> c) { return c; }
#endif

/// c[r] + the sum over the four bytes of lane r of a (unsigned) times b (signed): four times as fast.
#if defined(__AVX512VNNI__)
inline constexpr bool has_byte_products = true;
inline Vec<std::int32_t> multiply_add_bytes(Vec<std::int32_t> a, Vec<std::int32_t> b, Vec<std::int32_t> c) {
  return (Vec<std::int32_t>)_mm512_dpbusd_epi32((__m512i)c, (__m512i)a, (__m512i)b);
}
#else
inline constexpr bool has_byte_products = false;
inline Vec<std::int32_t> multiply_add_bytes(Vec<std::int32_t>, Vec<std::int32_t>, Vec<std::int32_t> c) { return c; }
#endif

/// A vector of int16, two to a lane.
inline Vec<std::int32_t> as_lanes(const std::int16_t* p) {
  Vec<std::int32_t> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

/// Sum of all lanes.
inline std::int32_t sum(Vec<std::int32_t> a) {
#if defined(__AVX512VNNI__)  // _mm512_reduce_add_epi32, which GCC 12 takes for reading an uninitialised variable
  a += __builtin_shufflevector(a, a, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
  a += __builtin_shufflevector(a, a, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
  a += __builtin_shufflevector(a, a, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
  return a[0] + a[1];
#else
  std::int32_t total = 0;
  for (int r = 0; r < lanes<std::int32_t>; ++r) total += a[r];
  return total;
#endif
}

/// Each integer as a float.
inline Vec<float> to_float(Vec<std::int32_t> a) { return __builtin_convertvector(a, Vec<float>); }

/// The larger, and the smaller, of each pair of numbers, neither of them NaN.
inline Vec<float> maximum(Vec<float> a, Vec<float> b) { return a > b ? a : b; }
inline Vec<float> minimum(Vec<float> a, Vec<float> b) { return a < b ? a : b; }

}  // namespace ssdml
