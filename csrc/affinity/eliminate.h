// Columns of P = (1 - gamma) (I - gamma Q)^-1 that need no solving.
//
// From P = (1 - gamma) I + gamma P Q, the column of a point follows from those of the points that have it as a
// neighbour:
//
//   P e_j = (1 - gamma) e_j + gamma sum over edges i -> j of Q[i, j] P e_i,
//
// entry by entry. So the columns of any points without a cycle of edges among them can be eliminated, at the price of
// more wanted entries in the columns that they follow from. Those of points that few have as a neighbour cost least,
// and amplify errors least: the error of column j is at most gamma sum Q[i, j] times that of its sources. Only columns
// are eliminated that no error grows in, so that all are as accurate as those solved.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "walk/graph.h"

namespace ssdml::walk {

class Elimination {
 public:
  /// Divides the `columns`, places of one component, into those to be solved and those that follow; no others are used.
  /// Of each, the entries at the neighbours at both ends of its edges are wanted. `tol` is the error of solved ones.
  Elimination(const Graph& graph, const std::vector<std::int32_t>& columns, double gamma, double tol)
      : graph_(graph), gamma_(gamma), rows_(graph.n), entries_(graph.n) {
    choose(columns, tol);
    want(columns);
  }

  /// Places of the columns to be solved, ascending.
  const std::vector<std::int32_t>& solved() const { return solved_; }
  /// Places of the wanted entries of a column: all different.
  const std::vector<std::int32_t>& rows(std::int64_t column) const { return rows_[column]; }
  /// The entries at these places: of a solved column, to be filled in.
  std::vector<double>& entries(std::int64_t column) { return entries_[column]; }

  /// Completes the eliminated columns, once all others are within `error`; bounds the error of all.
  double complete(double error) {
    std::vector<double> of_source(graph_.n);
    for (const std::int32_t p : eliminated_) {
      const std::vector<std::int32_t>& rows = rows_[p];
      std::vector<double>& entries = entries_[p];
      for_sources(p, [&](std::int32_t source, double share) {
        for (std::size_t e = 0; e < rows_[source].size(); ++e) of_source[rows_[source][e]] = entries_[source][e];
        for (std::size_t e = 0; e < rows.size(); ++e) entries[e] += share * of_source[rows[e]];
      });
      for (std::size_t e = 0; e < rows.size(); ++e)
        if (rows[e] == p) entries[e] += 1 - gamma_;
      error = std::max(error, fixed_error(p));
    }
    return error;
  }

 private:
  // An entry costs about as much as so many points of a column: it is summed at every sweep and for every mode. Found
  // as parameters.h says.
  static constexpr std::int64_t kPointsPerEntry = 8;
  static constexpr std::int64_t kMost = 32;  // times k: entries for one eliminated column, so that memory is O(n k)

  /// f(i, gamma Q[i, j]) for all edges i -> j.
  template <typename F>
  void for_sources(std::int64_t j, const F& f) const {
    const Edges edges = graph_.edges_in(j);
    for (std::int64_t e = 0; e < edges.count; ++e)
      f(edges.at[e], gamma_ * (edges.share ? edges.share[e] : 1.0 / graph_.k));
  }

  /// The error that column p may have if no column that it follows from has a larger one: x = share x + rounding.
  double fixed_error(std::int64_t p) const {
    double total = 0;
    for_sources(p, [&](std::int32_t, double share) { total += share; });
    const double rounding = 0x1p-52 * static_cast<double>(graph_.in_degree(p) + 4);
    return total < 1 ? rounding / (1 - total) : std::numeric_limits<double>::infinity();
  }

  /// Eliminates what can be, least popular first; what it follows from, and is not eliminated by then, never is.
  void choose(std::vector<std::int32_t> columns, double tol) {
    std::stable_sort(columns.begin(), columns.end(),
                     [&](std::int32_t p, std::int32_t q) { return graph_.in_degree(p) < graph_.in_degree(q); });
    std::vector<char> open(graph_.n, false), known(graph_.n, false);
    for (const std::int32_t p : columns) open[p] = known[p] = true;
    for (const std::int32_t p : columns) {
      if (!open[p]) continue;
      open[p] = false;
      bool possible = true;
      for_sources(p, [&](std::int32_t source, double) { possible &= known[source] && source != p; });
      if (!possible || fixed_error(p) > tol) continue;
      eliminated_.push_back(p);
      for_sources(p, [&](std::int32_t source, double) { open[source] = false; });
    }
  }

  /// Lists the wanted entries, and takes back eliminations that ask for too many.
  void want(const std::vector<std::int32_t>& columns) {
    std::vector<std::int32_t> seen(graph_.n, -1);
    const auto list = [&](std::int32_t p) {
      std::vector<std::int32_t>& rows = rows_[p];
      const auto in = graph_.in.begin();
      rows.insert(rows.end(), in + graph_.in_ptr[p], in + graph_.in_ptr[p + 1]);
      rows.insert(rows.end(), graph_.out.begin() + std::int64_t{p} * graph_.k,
                  graph_.out.begin() + std::int64_t{p + 1} * graph_.k);
      std::erase_if(rows, [&](std::int32_t row) { return std::exchange(seen[row], p) == p; });
      entries_[p].assign(rows.size(), 0.0);
    };
    std::vector<char> listed(graph_.n, false);
    const std::int64_t most = std::min<std::int64_t>(graph_.n / kPointsPerEntry, kMost * graph_.k);
    for (auto p = eliminated_.rbegin(); p != eliminated_.rend(); ++p) {  // those that follow from p are listed
      list(*p);
      listed[*p] = true;
      const std::vector<std::int32_t>& rows = rows_[*p];
      if (graph_.in_degree(*p) * static_cast<std::int64_t>(rows.size()) > most)
        solved_.push_back(std::exchange(*p, -1));
      else
        for_sources(*p, [&](std::int32_t source, double) {
          rows_[source].insert(rows_[source].end(), rows.begin(), rows.end());
        });
    }
    std::erase(eliminated_, -1);
    for (const std::int32_t p : columns)
      if (!listed[p]) {
        list(p);
        solved_.push_back(p);
      }
    std::sort(solved_.begin(), solved_.end());
  }

  const Graph& graph_;
  double gamma_;
  std::vector<std::int32_t> solved_, eliminated_;  // these in an order in which they follow
  std::vector<std::vector<std::int32_t>> rows_;
  std::vector<std::vector<double>> entries_;
};

}  // namespace ssdml::walk
