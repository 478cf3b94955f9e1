// Which pairs of two blocks of points are worth a candidate's place, from the tiles of filter.h.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <vector>

#include "common/simd.h"
#include "knn_graph/candidates.h"
#include "knn_graph/filter.h"

namespace ssdml {

constexpr int kBlock = 5 * Filter::kPanel;  // points per side of a job

/// A pair of points, each by its number in its filter, and a lower bound of its v.
struct Pair {
  std::int32_t row, column;
  float bound;
};

/// What a thread needs to run jobs.
struct Scratch {
  std::vector<float> products = std::vector<float>(kBlock * kBlock);
  std::vector<Pair> pairs = std::vector<Pair>(kBlock * Filter::kTileColumns + 1);  // and one to read ahead
  Room room;
};

/// Jobs: the pairs between a block of rows and a block of columns. Only the candidates of the points in those blocks
/// are touched.
class Jobs {
 public:
  /// Where the columns look for their own nearest among the rows, `of_columns` has their candidates: those of the rows
  /// themselves if both are of one set. Else it is null.
  Jobs(const Filter& rows, const Filter& columns, Candidates& of_rows, Candidates* of_columns)
      : rows_(rows), columns_(columns), of_rows_(of_rows), of_columns_(of_columns) {}

  static std::int64_t blocks(const Filter& filter) { return (filter.count + kBlock - 1) / kBlock; }

  /// The first job of its rows: gives them their first limits, without which they would take in every pair. With
  /// `both`, for a block and itself.
  template <bool both>
  void open(std::int64_t row_block, std::int64_t column_block, Scratch& scratch) const {
    const std::int64_t r0 = row_block * kBlock, c0 = column_block * kBlock;
    const std::int64_t rows = size(rows_, r0), columns = size(columns_, c0);
    float* const products = scratch.products.data();
    for (std::int64_t c = 0; c < columns; c += Filter::kTileColumns)
      rows_.each_tile(r0, r0 + rows, columns_, c0 + c, [&](std::int64_t row, const Filter::Tile& tile) {
        for (int a = 0; a < Filter::kTileRows; ++a)
          for (int v = 0; v < Filter::kTileVectors; ++v)
            store(&products[(row - r0 + a) * kBlock + c + v * lanes<float>], tile[a][v]);
      });

    // Twice: first the pairs about as near as the k nearest, whose closer bounds then limit the others.
    float none[kBlock + Filter::kPanel], near[kBlock + Filter::kPanel];
    std::fill(std::begin(none), std::end(none), -kInfinity);
    std::fill(std::begin(near), std::end(near), -kInfinity);
    for (std::int64_t r = 0; r < rows; ++r)
      near[r] = rows_.tiled.g[r0 + r] - nearly_kth(&products[r * kBlock], both ? r : -1, columns);
    offer_between<both>(r0, c0, products, none, near, scratch);
    for (std::int64_t r = 0; r < rows; ++r) of_rows_.drop_far(rows_.first + r0 + r);
    offer_between<both>(r0, c0, products, near, &of_rows_.limit[rows_.first + r0], scratch);
  }

  /// Any further job. With `both`, rows and columns are offered to each other.
  template <bool both>
  void run(std::int64_t row_block, std::int64_t column_block, Scratch& scratch) const {
    const std::int64_t r0 = row_block * kBlock, c0 = column_block * kBlock;
    const std::int64_t rows = size(rows_, r0), columns = size(columns_, c0);
    for (std::int64_t c = c0; c < c0 + columns; c += Filter::kTileColumns) {
      Pair* end = scratch.pairs.data();  // collected first: products keep their registers, and what follows its own
      rows_.each_tile(r0, r0 + rows, columns_, c, [&](std::int64_t r, const Filter::Tile& tile) {
#pragma GCC unroll 8
        for (int a = 0; a < Filter::kTileRows; ++a) {
          const float g = rows_.tiled.g[r + a];
          const Vec<float> row_limit = broadcast(of_rows_.limit[rows_.first + r + a]);
#pragma GCC unroll 3
          for (int v = 0; v < Filter::kTileVectors; ++v) {
            const std::int64_t column = c + v * lanes<float>;
            const Vec<float> limit =
                both ? maximum(row_limit, load(&of_columns_->limit[columns_.first + column])) : row_limit;
            const std::uint32_t mask = mask_greater_equal(tile[a][v], g - limit);
            if (mask != 0) [[unlikely]]
              end = collect(r + a, column, mask, g - tile[a][v], end);
          }
        }
      });
      offer<both>(scratch.pairs.data(), end, scratch.room);
    }
  }

 private:
  static std::int64_t size(const Filter& filter, std::int64_t start) {
    return std::min<std::int64_t>(kBlock, filter.count - start);
  }

  /// Appends the pairs of a row and those columns from `column` on that the mask selects.
  static Pair* collect(std::int64_t row, std::int64_t column, std::uint32_t mask, Vec<float> bounds, Pair* end) {
    float bound[lanes<float>];
    store(bound, bounds);
    for (; mask != 0; mask &= mask - 1) {
      const int lane = __builtin_ctz(mask);
      *end++ = {static_cast<std::int32_t>(row), static_cast<std::int32_t>(column + lane), bound[lane]};
    }
    return end;
  }

  /// Offers the columns to the rows, and with `both` the rows to the columns.
  template <bool both>
  void offer(const Pair* pair, const Pair* end, Room& room) const {
    for (; pair < end; ++pair) {
      const std::int64_t i = rows_.first + pair->row, j = columns_.first + pair->column;
      const float most = both ? std::max(of_rows_.limit[i], of_columns_->limit[j]) : of_rows_.limit[i];
      if (pair->bound > most) continue;  // it may have come down
      const Pair& next = pair[pair + 1 < end];
      const float bound = rows_.refines() ? rows_.refine(pair->row, pair->column, columns_, next.column) : pair->bound;
      of_rows_.add(i, bound, j, room);
      if (both) of_columns_->add(j, bound, i, room);
    }
  }

  /// Offers the pairs of a block whose bounds lie above the entry of `from`, and not above that of `to`, of their row
  /// (with `both`, of either point). Only pairs of a point and a later one, where the block is one of both.
  template <bool both>
  void offer_between(std::int64_t r0, std::int64_t c0, const float* products, const float* from, const float* to,
                     Scratch& scratch) const {
    const std::int64_t rows = size(rows_, r0), columns = size(columns_, c0);
    for (std::int64_t r = 0; r < rows; ++r) {
      Pair* end = scratch.pairs.data();
      for (std::int64_t c = both ? r / lanes<float> * lanes<float> : 0; c < columns; c += lanes<float>) {
        const Vec<float> product = load(products + r * kBlock + c);
        const float g = rows_.tiled.g[r0 + r];
        const auto up_to = [&](const float* limits) {
          const Vec<float> own = broadcast(limits[r]);
          return mask_greater_equal(product, g - (both ? maximum(own, load(limits + c)) : own));
        };
        std::uint32_t mask = up_to(to) & ~up_to(from);
        if (both && c <= r) mask &= ~0u << (r - c) << 1;
        end = collect(r0 + r, c0 + c, mask, g - product, end);
      }
      offer<both>(scratch.pairs.data(), end, scratch.room);
    }
  }

  /// A product that at least k of the `count` columns of a block, `self` left out, reach with this row: the k-th
  /// largest of the largest of each of about 2 k groups, which is much quicker to find than the k-th largest of all.
  /// Minus infinity if there are not so many.
  float nearly_kth(const float* row, std::int64_t self, std::int64_t count) const {
    const std::int64_t groups = std::min(count, 2 * of_rows_.k + 6);
    if (of_rows_.k > groups - (self >= 0)) return -kInfinity;
    float best[kBlock];
    std::fill(best, best + groups, -kInfinity);
    for (std::int64_t start = 0; start < count; start += groups) {
      const std::int64_t width = std::min(groups, count - start);
      for (std::int64_t c = 0; c < width; ++c) best[c] = std::max(best[c], row[start + c]);
    }
    if (self >= 0) {
      float& of_self = best[self % groups];
      of_self = -kInfinity;
      for (std::int64_t c = self % groups; c < count; c += groups)
        if (c != self) of_self = std::max(of_self, row[c]);
    }
    std::nth_element(best, best + of_rows_.k - 1, best + groups, std::greater<>());
    return best[of_rows_.k - 1];
  }

  const Filter &rows_, &columns_;
  Candidates& of_rows_;
  Candidates* const of_columns_;
};

}  // namespace ssdml
