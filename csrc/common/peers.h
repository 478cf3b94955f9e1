// Processes that solve one problem together: each is given all of it, solves a share, and is told what the others
// found.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace ssdml {

/// The processes that work on one problem, as one of them sees them; by itself, a process that is alone. All call the
/// same exchanges in the same order, each on the thread that called the kernel, and find the same numbers afterwards,
/// so that what they decide from these they decide alike. One whose Progress asked to stop takes no more part: its
/// exchanges do nothing.
class Peers {
 public:
  Peers() = default;
  Peers(std::int64_t rank, std::int64_t size) : rank(rank), size(size) {}
  virtual ~Peers() = default;

  const std::int64_t rank = 0, size = 1;

  /// Replaces each of `count` numbers by its sum over all processes, or its largest value.
  virtual void sum(double* x, std::int64_t count) { static_cast<void>(x), static_cast<void>(count); }
  virtual void max(double* x, std::int64_t count) { static_cast<void>(x), static_cast<void>(count); }

  /// How many of n pieces of equal work are this process's, dealt in turn, and which piece is its i-th.
  std::int64_t share(std::int64_t n) const { return (n - rank + size - 1) / size; }
  std::int64_t piece(std::int64_t i) const { return rank + i * size; }
};

/// Deals out pieces of unequal work, alike on every process: each goes to the process that has least so far.
class Deal {
 public:
  explicit Deal(const Peers& peers) : rank_(peers.rank), work_(peers.size) {}

  /// Whether the next piece is this process's.
  bool is_mine(std::int64_t work) {
    const auto least = std::min_element(work_.begin(), work_.end());
    *least += work;
    return least - work_.begin() == rank_;
  }

 private:
  std::int64_t rank_;
  std::vector<std::int64_t> work_;
};

/// Sums part(0) .. part(count - 1), spans of float or double, over all processes. Of each number all processes but one
/// have 0, so that sums are exact. Messages are of a few MiB, or one part.
template <typename Part>
void sum_parts(Peers& peers, std::int64_t count, const Part& part) {
  constexpr std::size_t most = 1 << 19;
  if (peers.size == 1) return;
  std::vector<double> message;
  for (std::int64_t first = 0, last = 0; first < count; first = last) {
    message.clear();
    for (; last < count && (last == first || message.size() + part(last).size() <= most); ++last)
      message.insert(message.end(), part(last).begin(), part(last).end());
    peers.sum(message.data(), static_cast<std::int64_t>(message.size()));
    auto from = message.cbegin();
    for (std::int64_t p = first; p < last; ++p)
      for (auto& x : part(p)) x = static_cast<std::remove_reference_t<decltype(x)>>(*from++);
  }
}

}  // namespace ssdml
