#include "mine_triplets/mine_triplets.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

#include "common/parallel.h"
#include "common/simd.h"

namespace ssdml {
namespace {

template <typename T>
using Mask = decltype(Vec<T>{} > Vec<T>{});  // integers as wide as T, -1 for true
template <typename T>
using Rank = std::remove_cvref_t<decltype(Mask<T>{}[0])>;

/// Wider rows are sorted: counting takes time quadratic in k, though with a tiny factor. Wide rows in
/// benchmarks/bench_mine_triplets.py measure it.
constexpr std::int64_t kWidestCounted = 1024;

/// The neighbours of one anchor.
template <typename T>
struct Row {
  const std::int64_t* indices;
  const T *distances, *affinity;  // distances: or null
  std::int64_t k;

  /// Whether the neighbour at position q goes before the one at r where their affinities are equal.
  bool nearer(std::int64_t q, std::int64_t r) const {
    if (distances && distances[q] != distances[r]) return distances[q] < distances[r];
    return indices[q] < indices[r];
  }

  /// Whether positions are in that order, as in the answer of a search; a user's own lists need not be.
  bool nearest_first() const {
    for (std::int64_t r = 1; r < k; ++r)
      if (nearer(r, r - 1)) return false;
    return true;
  }
};

/// rank[r] = number of neighbours of greater affinity than the one at position r. A vector of neighbours is compared
/// with one neighbour after another, so nothing branches. Returns whether no two affinities are equal: each pair that
/// is misses one from 0 + 1 + ... + k - 1.
template <typename T>
bool count_greater(const Row<T>& row, Rank<T>* rank) {
  Mask<T> total{};
  for (std::int64_t first = 0; first < row.k; first += lanes<T>) {
    const Vec<T> own = load_first(row.affinity + first, row.k - first, std::numeric_limits<T>::infinity());
    Mask<T> greater{};
#pragma GCC unroll 4
    for (std::int64_t q = 0; q < row.k; ++q) greater = broadcast(row.affinity[q]) > own ? greater + 1 : greater;
    std::memcpy(rank + first, &greater, sizeof greater);
    total += greater;
  }
  return sum<Rank<T>>(total) == row.k * (row.k - 1) / 2;
}

/// Ranks the neighbours of an anchor; scratch of one thread.
template <typename T>
class Ranking {
 public:
  explicit Ranking(std::int64_t k) : rank_(k + lanes<T>), taken_(k), order_(k) {}

  /// The rank of each position: by affinity, then nearness.
  const Rank<T>* operator()(const Row<T>& row) {
    if (row.k > kWidestCounted) {
      sort([&](std::int64_t q, std::int64_t r) {
        return row.affinity[q] != row.affinity[r] ? row.affinity[q] > row.affinity[r] : row.nearer(q, r);
      });
      for (std::int64_t p = 0; p < row.k; ++p) rank_[order_[p]] = static_cast<Rank<T>>(p);
    } else if (!count_greater(row, rank_.data())) {
      // Neighbours of equal affinity have the same rank; the nearest keeps it, the next takes the one after, and so on.
      std::fill(taken_.begin(), taken_.end(), 0);
      const auto settle = [&](std::int64_t r) { rank_[r] += taken_[rank_[r]]++; };
      if (row.nearest_first()) {
        for (std::int64_t r = 0; r < row.k; ++r) settle(r);
      } else {
        sort([&](std::int64_t q, std::int64_t r) { return row.nearer(q, r); });
        for (const std::int64_t r : order_) settle(r);
      }
    }
    return rank_.data();
  }

 private:
  template <typename Before>
  void sort(Before before) {
    std::iota(order_.begin(), order_.end(), 0);
    std::sort(order_.begin(), order_.end(), before);
  }

  std::vector<Rank<T>> rank_, taken_;
  std::vector<std::int64_t> order_;
};

}  // namespace

template <typename T>
void mine_triplets(const std::int64_t* indices, const T* distances, const T* affinity, std::int64_t k,
                   const std::int64_t* anchors, std::int64_t n_anchors, std::int64_t* triplets, int num_threads) {
  const std::int64_t half = k / 2;
  if (half == 0) return;
  // Where among an anchor's triplets the neighbour of each rank goes. The median has no place: it is written over the
  // first anchor, which is written after it.
  std::vector<std::int64_t> place(k, 0);
  for (std::int64_t r = 0; r < half; ++r) {
    place[r] = 3 * r + 1;
    place[k - half + r] = 3 * r + 2;
  }
  in_shares(n_anchors, threads_for(n_anchors * k, num_threads),
            [=, &place](std::int64_t first, std::int64_t last, int) {
              Ranking<T> ranking(k);
              for (std::int64_t t = first; t < last; ++t) {
                const std::int64_t anchor = anchors ? anchors[t] : t;
                const Row<T> row{indices + anchor * k, distances ? distances + anchor * k : nullptr,
                                 affinity + anchor * k, k};
                const Rank<T>* rank = ranking(row);
                std::int64_t* out = triplets + t * half * 3;
#pragma GCC unroll 4
                for (std::int64_t r = 0; r < k; ++r) out[place[rank[r]]] = row.indices[r];
                for (std::int64_t r = 0; r < half; ++r) out[3 * r] = anchor;
              }
            });
}

template void mine_triplets(const std::int64_t*, const float*, const float*, std::int64_t, const std::int64_t*,
                            std::int64_t, std::int64_t*, int);
template void mine_triplets(const std::int64_t*, const double*, const double*, std::int64_t, const std::int64_t*,
                            std::int64_t, std::int64_t*, int);

}  // namespace ssdml
