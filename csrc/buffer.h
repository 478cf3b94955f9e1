// Large arrays that nobody has to fill before they are written.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace ssdml {

struct Free {
  void operator()(void* p) const { std::free(p); }
};

/// An array of a trivial type, its entries undefined at first.
template <typename T>
using Buffer = std::unique_ptr<T[], Free>;

/// In huge pages, as far as it fills them and where the system has them: a kernel may well be done before some thousand
/// small ones have been touched for the first time.
template <typename T>
Buffer<T> make_buffer(std::size_t count) {
  constexpr std::size_t huge = 2 << 20, line = 64;
  const std::size_t bytes = count * sizeof(T), alignment = bytes < 2 * huge ? line : huge;
  void* const p = std::aligned_alloc(alignment, (bytes / alignment + 1) * alignment);
  if (p == nullptr) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  if (alignment == huge) madvise(p, bytes / huge * huge, MADV_HUGEPAGE);  // no more than a wish
#endif
  return Buffer<T>(static_cast<T*>(p));
}

}  // namespace ssdml
