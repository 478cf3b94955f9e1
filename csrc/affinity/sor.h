// What every implementation of the relaxation (relax.h) shares: its parameters and its error bound. They hold however
// the edges are split into L and U, that is, in whichever order points are swept, one by one or many at once.
#pragma once

#include <cmath>

#include "common/host_device.h"

namespace ssdml::walk {

struct Interval {
  double low, high;
  SSDML_HOST_DEVICE double width() const { return high - low; }
  SSDML_HOST_DEVICE double middle() const { return (low + high) / 2; }
};

struct Sor {
  double gamma, omega;

  /// Sets omega to what is best where the slowest modes that count shrink by `rate` in a sweep with the present one;
  /// false if that is about the same. Young's theory of SOR, which holds for real eigenvalues and is a good guess else:
  /// an eigenvalue e of gamma Q becomes m with (m + omega - 1)^2 = omega^2 e^2 m, and the best omega is
  /// 2 / (1 + sqrt(1 - e^2)).
  bool adapt(double rate) {
    const double e = (rate + omega - 1) / (omega * std::sqrt(rate));
    if (!(rate > omega - 1) || !(e < 1)) return false;  // complex already: omega is large enough
    const double best = 2 / (1 + std::sqrt(1 - e * e));
    if (best < omega + 0.1) return false;
    omega = best;
    return true;
  }

  /// Bounds on the residual that a sweep to d within [low, high] left.
  SSDML_HOST_DEVICE Interval residual(double low, double high) const {
    low = low < 0 ? low : 0, high = high > 0 ? high : 0;
    const double own = (omega - 1) / omega;
    return {gamma * low - own * high, gamma * high - own * low};
  }
};

}  // namespace ssdml::walk
