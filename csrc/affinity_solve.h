// Panels of columns of P = (1 - gamma) (I - gamma Q)^-1, each entry with a bound on its error.
//
//   P b = (1 - gamma) (b + gamma Q b + ... + gamma^(t-1) Q^(t-1) b) + gamma^t P Q^t b
//
// Only the entries asked for are summed, in float64; the panel holds v = Q^t b alone. Once the slow modes are taken out
// of v (affinity_modes.h), what is left shrinks quickly. P is row-stochastic, so the last term lies in gamma^t [min v,
// max v]: the middle is added, half the width bounds the error. For the same reason an error made in v adds no more
// than its largest entry times gamma^t: rounding is never amplified by 1 / (1 - gamma).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "affinity_modes.h"
#include "affinity_walk.h"

namespace ssdml::walk {

struct Solved {
  int sweeps = 0;
  double error = 0;  // of every entry asked for
};

/// Room for one panel of kWidth<P> columns, one per thread.
template <typename P>
class PanelSolver {
 public:
  /// Allocates all that a panel with up to `wanted` wanted entries needs.
  PanelSolver(const Graph& graph, std::int64_t wanted, std::int64_t modes)
      : graph_(graph), v_(graph.n), swept_(graph.n), coefficients_(modes), reached_(graph.n) {
    places_.reserve(graph.n);
    sources_.reserve(graph.n);
    wanted_.reserve(wanted);
    entries_.reserve(wanted);
  }

  /// Starts a panel whose columns are zero so far, with nothing asked for.
  void clear() {
    std::fill(v_.begin(), v_.end(), Line<P>{});
    std::fill(swept_.begin(), swept_.end(), Line<P>{});
    std::fill(reached_.begin(), reached_.end(), false);
    places_.clear();
    wanted_.clear();
  }

  /// Adds 1 to the source of a column.
  void source(std::int64_t place, int column) {
    v_[place][column] += P(1);
    reach(place);
  }

  /// Asks for an entry; its number is the order of asking.
  void want(std::int64_t place, int column) { wanted_.push_back(place * kWidth<P> + column); }
  double entry(std::int64_t number) const { return entries_[number]; }

  /// Every entry within `tol`; or as close as P allows, or, with `or_give_up`, none where that is not close enough.
  template <typename T>
  Solved solve(const Modes<T>& modes, double gamma, double tol, bool or_give_up) {
    const std::int64_t n = graph_.n;
    const double sweep_error = sweep_rounding<P>(graph_.k);
    entries_.assign(wanted_.size(), 0.0);
    sources_.assign(places_.begin(), places_.end());
    for (std::size_t e = 0; e < wanted_.size(); ++e) entries_[e] = (1 - gamma) * value(e);

    Solved solved;
    double rounding[kWidth<P>] = {}, size[kWidth<P>];
    std::fill(size, size + kWidth<P>, static_cast<double>(n));
    double power = 1;            // gamma^t
    std::size_t grown_from = 0;  // places reached before the last sweep
    bool freed = false;          // of the slow modes, so v may be negative
    // The coefficients of the slow modes belong to the source, so they are read before the first sweep.
    const bool has_modes = modes.count() > 0;
    double norm[kWidth<P>] = {};
    if (has_modes) read_coefficients(modes, norm);

    for (;;) {
      Range<P> range;
      if (!freed && places_.size() * 3 < static_cast<std::size_t>(n)) {
        const std::size_t before = places_.size();
        for (std::size_t q = grown_from; q < before; ++q)
          for (std::int64_t e = graph_.in_ptr[places_[q]]; e < graph_.in_ptr[places_[q] + 1]; ++e) reach(graph_.in[e]);
        grown_from = before;
        range = sweep<P>(graph_, places_.data(), static_cast<std::int64_t>(places_.size()), v_.data(), swept_.data());
        range = {smaller<P>(range.low, Line<P>{}), larger<P>(range.high, Line<P>{})};
      } else {
        range = sweep<P>(graph_, nullptr, n, v_.data(), swept_.data());
      }
      v_.swap(swept_);
      ++solved.sweeps;
      power *= gamma;
      for (int c = 0; c < kWidth<P>; ++c) {
        const double now = magnitude(range, c);
        rounding[c] += power * sweep_error * (freed ? size[c] : now);
        size[c] = now;
      }
      if (has_modes && solved.sweeps == modes.sweeps()) {
        for (std::size_t e = 0; e < wanted_.size(); ++e) entries_[e] += power * slow_entry(modes, e);
        range = modes.template remove<P>(coefficients_.data(), v_.data());
        freed = true;
        for (int c = 0; c < kWidth<P>; ++c) {
          rounding[c] += power * (modes.template remove_rounding<P>(size[c], norm[c]) +
                                  0x1p-52 * static_cast<double>(modes.count() + 4) * modes.solved_norm() * norm[c]);
          size[c] = magnitude(range, c);
        }
      }

      // Good enough, or nothing more to be gained?
      solved.error = 0;
      bool reached = true, hopeless = false, done = true;
      for (int c = 0; c < kWidth<P>; ++c) {
        const double sums = 0x1p-52 * (solved.sweeps + 4),
                     tail = power * (range.high[c] - static_cast<double>(range.low[c])) / 2;
        const double known = rounding[c] + sums;
        solved.error = std::max(solved.error, known + tail);
        reached &= known + tail <= tol;
        hopeless |= known > tol;
        done &= tail <= known / 8;
      }
      if (reached || (hopeless && or_give_up) || (done && (freed || !has_modes))) {
        for (std::size_t e = 0; e < wanted_.size(); ++e) {
          const int c = static_cast<int>(wanted_[e] % kWidth<P>);
          const double middle = power * (range.high[c] + static_cast<double>(range.low[c])) / 2;
          entries_[e] = std::clamp(entries_[e] + middle, 0.0, 1.0);  // as P's entries are
        }
        return solved;
      }
      for (std::size_t e = 0; e < wanted_.size(); ++e) entries_[e] += (1 - gamma) * power * value(e);
    }
  }

 private:
  void reach(std::int64_t place) {
    if (reached_[place]) return;
    reached_[place] = true;
    places_.push_back(static_cast<std::int32_t>(place));
  }

  double value(std::size_t e) const { return reinterpret_cast<const P*>(v_.data())[wanted_[e]]; }

  static double magnitude(const Range<P>& range, int c) {
    return std::max(-static_cast<double>(range.low[c]), static_cast<double>(range.high[c]));
  }

  template <typename T>
  void read_coefficients(const Modes<T>& modes, double* norm) {
    std::fill(coefficients_.begin(), coefficients_.end(), Line<P>{});
    for (const std::int32_t p : sources_)
      for (std::int64_t a = 0; a < modes.count(); ++a)
        coefficients_[a] += v_[p] * static_cast<P>(modes.coefficients(p)[a]);
    for (int c = 0; c < kWidth<P>; ++c) {
      double square = 0;
      for (const Line<P>& of : coefficients_) square += static_cast<double>(of[c]) * of[c];
      norm[c] = 1.01 * std::sqrt(square);
    }
  }

  template <typename T>
  double slow_entry(const Modes<T>& modes, std::size_t e) const {
    const T* z = modes.solved(wanted_[e] / kWidth<P>);
    const P* c = reinterpret_cast<const P*>(coefficients_.data()) + wanted_[e] % kWidth<P>;
    double sum = 0;
    for (std::int64_t a = 0; a < modes.count(); ++a) sum += static_cast<double>(z[a]) * c[a * kWidth<P>];
    return sum;
  }

  const Graph& graph_;
  Lines<P> v_, swept_, coefficients_;
  std::vector<char> reached_;  // points that any column of the panel has reached
  std::vector<std::int32_t> places_, sources_;
  std::vector<std::int64_t> wanted_;  // place * kWidth + column
  std::vector<double> entries_;
};

}  // namespace ssdml::walk
