// log(1 + exp m) and its derivative for a vector of numbers at once; accurate to a few units in the last place.
#pragma once

#include <cstdint>
#include <limits>

#include "common/simd.h"

namespace ssdml {

template <typename T>
struct Softplus {
  Vec<T> value;  // log(1 + exp m), never infinite for finite m
  Vec<T> slope;  // 1 / (1 + exp -m)
};

/// exp(x) for x <= 0; 0 where it would be subnormal.
template <typename T>
inline Vec<T> exp_negative(Vec<T> x) {
  using Bits = Vec<std::conditional_t<sizeof(T) == 4, std::int32_t, std::int64_t>>;
  constexpr int mantissa = std::numeric_limits<T>::digits - 1;
  constexpr int bias = std::numeric_limits<T>::max_exponent - 1;
  constexpr int terms = sizeof(T) == 4 ? 7 : 13;
  constexpr T ln2 = static_cast<T>(0.693147180559945309417232121458);
  constexpr T ln2_high = sizeof(T) == 4 ? static_cast<T>(0.693359375) : static_cast<T>(6.93147180369123816490e-01);
  constexpr T ln2_low = sizeof(T) == 4 ? static_cast<T>(-2.12194440e-4) : static_cast<T>(1.90821492927058770002e-10);
  // exp x = 2^k exp r with |r| <= ln 2 / 2. Adding 1.5 * 2^mantissa rounds to an integer, left in the lowest bits.
  constexpr T rounder = static_cast<T>(std::int64_t{3} << (mantissa - 1));
  const Vec<T> rounded = x * (1 / ln2) + rounder, k = rounded - rounder;
  const Vec<T> r = (x - k * ln2_high) - k * ln2_low;
  Vec<T> series = broadcast(T(1));  // 1 + r (1 + r/2 (1 + r/3 ( ... ) ) )
#pragma GCC unroll 13
  for (int i = terms; i > 0; --i) series = multiply_add<T>(series * r, broadcast(T(1) / i), broadcast(T(1)));
  const Vec<T> power = reinterpret_cast<Vec<T>>((reinterpret_cast<Bits>(rounded) + bias) << mantissa);
  return x > std::numeric_limits<T>::min_exponent * ln2 ? series * power : Vec<T>{};
}

template <typename T>
inline Softplus<T> softplus(Vec<T> m) {
  constexpr int terms = sizeof(T) == 4 ? 8 : 18;
  const Vec<T> e = exp_negative<T>(m > 0 ? -m : m);
  // log(1 + e) = 2 artanh s = 2 (s + s^3/3 + s^5/5 + ...) with s = e / (2 + e) <= 1/3
  const Vec<T> s = e / (2 + e), square = s * s;
  Vec<T> series = broadcast(T(1) / (2 * terms + 1));
#pragma GCC unroll 18
  for (int i = terms - 1; i >= 0; --i) series = multiply_add<T>(series, square, broadcast(T(1) / (2 * i + 1)));
  return {(m > 0 ? m : Vec<T>{}) + 2 * s * series, (m > 0 ? broadcast(T(1)) : e) / (1 + e)};
}

}  // namespace ssdml
