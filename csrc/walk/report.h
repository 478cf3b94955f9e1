// What a solution of the walk says of itself.
#pragma once

#include <cstdint>

namespace ssdml {

struct WalkReport {
  std::int64_t iterations;  // sweeps or steps that the slowest column took, 0 where none was needed
  double error_bound;       // no entry of the result is further from the exact one
  bool finished;            // false if `progress` asked to stop
};

}  // namespace ssdml
