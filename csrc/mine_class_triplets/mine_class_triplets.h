// Triplets drawn at random from points that are grouped by class.
//
// The points form a circle, group after group. Triplet t depends on (seed, t) alone:
//
//   anchor    uniform over the points of the first n_anchor_groups groups; balanced: over these groups, then within
//   positive  uniform over the other points of the anchor's group
//   negative  uniform over the points of all other groups; balanced: over these groups, then within;
//             with `nearest`: uniform over the first min(width, points outside the anchor's group) of the anchor's row
//
// Requires: points (P); starts (n_groups + 1), where group g is points[starts[g]] .. points[starts[g + 1] - 1] and not
// empty, starts[n_groups] = P; of the first n_anchor_groups groups, at least one, each has two points or more; at least
// two groups; nearest null, or (starts[n_anchor_groups], width) with a row per possible anchor.
#pragma once

#include <cstdint>

#include "common/random.h"

namespace ssdml {

struct ClassTriplets {
  const std::int64_t* points;
  const std::int64_t* starts;
  std::int64_t n_groups, n_anchor_groups;
  const std::int64_t* nearest;
  std::int64_t width;
  std::uint64_t seed;
  bool balanced;

  /// Writes triplet t to out[0 .. 2].
  SSDML_HOST_DEVICE void draw(std::int64_t t, std::int64_t* out) const {
    const Random random{mix(seed), static_cast<std::uint64_t>(t) * 5};
    std::int64_t group, anchor;
    if (balanced) {
      group = random.below(0, n_anchor_groups);
      anchor = starts[group] + random.below(1, starts[group + 1] - starts[group]);
    } else {
      anchor = random.below(1, starts[n_anchor_groups]);
      group = group_of(anchor);
    }
    const std::int64_t start = starts[group], end = starts[group + 1], total = starts[n_groups];
    const std::int64_t size = end - start, outside = total - size;
    out[0] = points[anchor];
    out[1] = points[start + around(anchor - start + 1 + random.below(2, size - 1), size)];  // 1 .. size - 1 places on
    if (nearest) {
      out[2] = nearest[anchor * width + random.below(4, width < outside ? width : outside)];
    } else if (balanced) {
      const std::int64_t other = around(group + 1 + random.below(3, n_groups - 1), n_groups);
      out[2] = points[starts[other] + random.below(4, starts[other + 1] - starts[other])];
    } else {
      out[2] = points[around(end + random.below(4, outside), total)];
    }
  }

 private:
  /// A position less than twice around a circle of `length`.
  SSDML_HOST_DEVICE static std::int64_t around(std::int64_t position, std::int64_t length) {
    return position < length ? position : position - length;
  }

  /// The group that holds a position: the last that starts no later.
  SSDML_HOST_DEVICE std::int64_t group_of(std::int64_t position) const {
    std::int64_t low = 0, high = n_anchor_groups;
    while (high - low > 1) {
      const std::int64_t middle = low + (high - low) / 2;
      const bool above = starts[middle] <= position;
      low = above ? middle : low;
      high = above ? high : middle;
    }
    return low;
  }
};

/// triplets[t] = triplet t, for t = 0 .. n_triplets - 1.
void mine_class_triplets(ClassTriplets source, std::int64_t n_triplets, std::int64_t* triplets, int num_threads);

namespace cuda {

/// The same from device memory, on `stream`.
void mine_class_triplets(ClassTriplets source, std::int64_t n_triplets, std::int64_t* triplets, void* stream);

}  // namespace cuda

}  // namespace ssdml
