// Panels of columns of P = (1 - gamma) (I - gamma Q)^-1, each entry with a bound on its error.
//
//   P b = (1 - gamma) (b + gamma Q b + ... + gamma^(t-1) Q^(t-1) b) + gamma^t P Q^t b
//
// Only the entries asked for are summed, in float64; the panel holds the residual v = Q^t b alone. After a few sweeps
// the slow modes are taken out of it (modes.h), and relaxation (relax.h) makes quick work of the rest. P is
// row-stochastic, so what is left, P v, lies in [min v, max v]: the middle is added, half the width bounds the error.
// For the same reason an error made in v adds no more than its largest entry: rounding is never amplified by
// 1 / (1 - gamma).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

#include "affinity/modes.h"
#include "affinity/relax.h"
#include "walk/graph.h"

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
      : graph_(graph),
        v_(graph.n),
        swept_(graph.n),
        coefficients_(modes * kWidth<P>),
        wide_(modes * kWidth<P>),
        reached_(graph.n) {
    places_.reserve(graph.n);
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
    gamma_ = gamma, tol_ = tol, or_give_up_ = or_give_up;
    solved_ = {};
    scale_ = 1;
    std::fill(rounding_, rounding_ + kWidth<P>, 0.0);
    entries_.assign(wanted_.size(), 0.0);
    if (modes.count() == 0) {
      walk(kNoLimit, true);
    } else {
      double norm[kWidth<P>];
      read_coefficients(modes, norm);  // they belong to the source
      if (!walk(modes.sweeps(), true)) {
        remove(modes, norm);
        if (!relax_locally(modes.relaxation()) && !relax(modes.relaxation())) walk(kNoLimit, false);
      }
    }
    for (double& entry : entries_) entry = std::clamp(entry, 0.0, 1.0);  // as P's entries are
    return solved_;
  }

 private:
  static constexpr int kNoLimit = std::numeric_limits<int>::max();
  static constexpr int kPatience = 8;      // sweeps of relaxation in which the bound should shrink
  static constexpr int kLocalSweeps = 64;  // at most

  void reach(std::int64_t place) {
    if (reached_[place]) return;
    reached_[place] = true;
    places_.push_back(static_cast<std::int32_t>(place));
  }

  /// Adds `factor` v to the entries.
  void add(double factor) {
    const P* v = reinterpret_cast<const P*>(v_.data());
    for (std::size_t e = 0; e < wanted_.size(); ++e) entries_[e] += factor * v[wanted_[e]];
  }

  /// Terms of the series until the panel is finished, which is answered, or there were `sweeps` of them. With
  /// `from_source`, v has no negative entries, and none but zeros where the panel has not reached.
  bool walk(int sweeps, bool from_source) {
    const double relative = sweep_rounding<P>(graph_);
    std::size_t grown_from = 0;  // places reached before the last sweep
    for (int s = 0; s < sweeps; ++s) {
      add((1 - gamma_) * scale_);
      Range<P> range;
      if (from_source && places_.size() * 3 < static_cast<std::size_t>(graph_.n)) {
        const std::size_t before = places_.size();
        for (std::size_t q = grown_from; q < before; ++q) {
          const Edges edges = graph_.edges_in(places_[q]);
          for (std::int64_t e = 0; e < edges.count; ++e) reach(edges.at[e]);
        }
        grown_from = before;
        range = sweep<P>(graph_, places_.data(), static_cast<std::int64_t>(places_.size()), v_.data(), swept_.data());
        range.add(Line<P>{});
      } else {
        range = sweep<P>(graph_, nullptr, graph_.n, v_.data(), swept_.data());
      }
      v_.swap(swept_);
      scale_ *= gamma_;
      for (int c = 0; c < kWidth<P>; ++c) {
        rounding_[c] += scale_ * relative * (from_source ? range.size(c) : size_[c]);
        size_[c] = range.size(c);
      }
      if (finished([&](int c) { return Interval{range.low[c], range.high[c]}; })) return true;
    }
    return false;
  }

  /// Takes the slow modes out of v, with their part of the entries.
  template <typename T>
  void remove(const Modes<T>& modes, const double* norm) {
    double rounding = 0;  // if summed in P
    for (int c = 0; c < kWidth<P>; ++c)
      rounding = std::max(rounding, scale_ * modes.template remove_rounding<P, P>(size_[c], norm[c]));
    rounding <= tol_ / 8 ? remove_by<P>(modes, norm) : remove_by<double>(modes, norm);
  }

  template <typename Sum, typename T>
  void remove_by(const Modes<T>& modes, const double* norm) {
    for (std::size_t e = 0; e < wanted_.size(); ++e) entries_[e] += scale_ * slow_entry(modes, e);
    const auto coefficients = [&]() -> const Sum* {
      if constexpr (std::is_same_v<Sum, P>) {
        return coefficients_.data();
      } else {
        std::copy(coefficients_.begin(), coefficients_.end(), wide_.begin());
        return wide_.data();
      }
    };
    const Range<P> range = modes.template remove<Sum, P>(coefficients(), v_.data());
    for (int c = 0; c < kWidth<P>; ++c) {
      rounding_[c] += scale_ * (modes.template remove_rounding<Sum, P>(std::max(size_[c], range.size(c)), norm[c]) +
                                0x1p-52 * static_cast<double>(modes.count() + 4) * modes.solved_norm() * norm[c]);
      size_[c] = range.size(c);
    }
  }

  /// Relaxation where v is large only, if that is at few points; false, with v as it was, if not or if it did not help.
  bool relax_locally(const Relaxation& relaxation) {
    const double relative = relaxation.rounding<P>(graph_);
    double known = 0, size = 0;
    for (int c = 0; c < kWidth<P>; ++c) {
      known = std::max(known, rounding_[c] + kLocalSweeps * 0x1p-52);
      size = std::max(size, size_[c]);
    }
    const double limit = (tol_ - known) / scale_ - 4 * relative * size;  // y is seldom three times as large
    if (!(limit * scale_ > tol_ / 2)) return false;
    std::int64_t large = 0;
    for (const Line<P>& line : v_) large += exceeds<P>(line, static_cast<P>(limit));
    if (large * 4 > graph_.n) return false;
    int sweeps = kLocalSweeps;
    const auto range = relaxation.local<P>(graph_, v_.data(), swept_.data(), static_cast<P>(limit), reached_, sweeps);
    solved_.sweeps += sweeps;
    if (!range) return false;
    double largest = 0;
    for (int c = 0; c < kWidth<P>; ++c) largest = std::max(largest, range->size(c));
    const double error = known + scale_ * (limit + relative * (size + largest));
    if (error > tol_) return false;
    solved_.error = error;
    v_.swap(swept_);
    add((1 - gamma_) * scale_);
    return true;
  }

  /// Sweeps of relaxation until the panel is finished; false, with the residual in v, where they do not help.
  bool relax(const Relaxation& relaxation) {
    const double relative = relaxation.rounding<P>(graph_);
    const auto round = [&](const Range<P>& range) {
      for (int c = 0; c < kWidth<P>; ++c) {
        rounding_[c] += scale_ * relative * std::max(size_[c], range.size(c));
        size_[c] = range.size(c);
      }
    };
    Range<P> range = relaxation.start<P>(graph_, v_.data(), swept_.data());
    v_.swap(swept_);
    double error = std::numeric_limits<double>::infinity();  // kPatience sweeps ago
    for (int s = 1;; ++s) {
      round(range);
      add((1 - gamma_) * scale_);
      if (finished([&](int c) { return relaxation.residual<P>(range, c); })) return true;
      if (s % kPatience == 0 && !(solved_.error < 0.9 * std::exchange(error, solved_.error))) break;
      range = relaxation.sweep<P>(graph_, v_.data());
    }
    range = relaxation.stop<P>(graph_, v_.data(), swept_.data());
    v_.swap(swept_);
    round(range);
    return false;
  }

  /// After a sweep that left a residual in residual(c) for each column c: is that good enough, or nothing more to be
  /// gained? If so the entries are completed.
  template <typename Residual>
  bool finished(const Residual& residual) {
    ++solved_.sweeps;
    solved_.error = 0;
    bool reached = true, hopeless = false, done = true;
    for (int c = 0; c < kWidth<P>; ++c) {
      const double tail = scale_ * residual(c).width() / 2, known = rounding_[c] + 0x1p-52 * (solved_.sweeps + 4);
      solved_.error = std::max(solved_.error, known + tail);
      reached &= known + tail <= tol_;
      hopeless |= known > tol_;
      done &= tail <= known / 8;
    }
    if (!reached && !(hopeless && or_give_up_) && !done) return false;
    for (std::size_t e = 0; e < wanted_.size(); ++e)
      entries_[e] += scale_ * residual(static_cast<int>(wanted_[e] % kWidth<P>)).middle();
    return true;
  }

  template <typename T>
  void read_coefficients(const Modes<T>& modes, double* norm) {
    std::fill(coefficients_.begin(), coefficients_.end(), P(0));
    double square[kWidth<P>] = {};
    for (const std::int32_t p : places_)
      for (int c = 0; c < kWidth<P>; ++c)
        if (v_[p][c] != 0)
          for (std::int64_t a = 0; a < modes.count(); ++a)
            coefficients_[a * kWidth<P> + c] += v_[p][c] * static_cast<P>(modes.coefficients(p)[a]);
    for (std::int64_t a = 0; a < modes.count(); ++a)
      for (int c = 0; c < kWidth<P>; ++c)
        square[c] += std::pow(static_cast<double>(coefficients_[a * kWidth<P> + c]), 2);
    for (int c = 0; c < kWidth<P>; ++c) norm[c] = 1.01 * std::sqrt(square[c]);
  }

  template <typename T>
  double slow_entry(const Modes<T>& modes, std::size_t e) const {
    const T* z = modes.solved(wanted_[e] / kWidth<P>);
    const P* c = coefficients_.data() + wanted_[e] % kWidth<P>;
    double sum = 0;
    for (std::int64_t a = 0; a < modes.count(); ++a)
      sum += static_cast<double>(z[a]) * static_cast<double>(c[a * kWidth<P>]);
    return sum;
  }

  const Graph& graph_;
  double gamma_ = 0, tol_ = 0;
  bool or_give_up_ = false;
  Solved solved_;
  double scale_ = 1;                 // what v counts for
  double rounding_[kWidth<P>] = {};  // error of the entries of each column by rounding so far
  double size_[kWidth<P>] = {};      // largest |v|
  Lines<P> v_, swept_;
  std::vector<P> coefficients_;  // (modes, kWidth) of the panel; the same in Z c and V c, so exact as rounded,
  std::vector<double> wide_;     // and as float64
  std::vector<char> reached_;    // points that any column of the panel has reached
  std::vector<std::int32_t> places_;
  std::vector<std::int64_t> wanted_;  // place * kWidth + column
  std::vector<double> entries_;
};

}  // namespace ssdml::walk
