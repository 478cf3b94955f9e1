// Large arrays that nobody has to fill before they are written.
#pragma once

#include <cstddef>
#include <memory>
#include <new>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace ssdml {

inline constexpr std::align_val_t kCacheLine{64};

/// Gives back what make_buffer took.
struct Release {
  std::size_t mapped = 0;  // bytes; 0: from the heap

  void operator()(void* p) const {
#ifdef __linux__
    if (mapped > 0) {
      munmap(p, mapped);
      return;
    }
#endif
    ::operator delete(p, kCacheLine);
  }
};

/// An array of a trivial type, its entries undefined at first.
template <typename T>
using Buffer = std::unique_ptr<T[], Release>;

/// From the heap, starting on a cache line, for what is given back soon and wanted again: its pages stay.
template <typename T>
Buffer<T> make_scratch(std::size_t count) {
  return Buffer<T>(static_cast<T*>(::operator new(count * sizeof(T), kCacheLine)), Release{0});
}

/// Lets the entries of a vector start on a cache line: wide loads and stores that cross one take twice as long.
template <typename T>
struct OnCacheLine {
  using value_type = T;

  OnCacheLine() = default;
  template <typename U>
  explicit OnCacheLine(const OnCacheLine<U>&) {}

  T* allocate(std::size_t count) { return static_cast<T*>(::operator new(count * sizeof(T), kCacheLine)); }
  void deallocate(T* p, std::size_t) { ::operator delete(p, kCacheLine); }
  bool operator==(const OnCacheLine&) const = default;
};

/// Starts on a cache line. Large ones are mapped, where the system can, lest the heap keep holes of their size; and in
/// huge pages, as far as these fit, for a kernel may well be done before some thousand small ones have been touched.
template <typename T>
Buffer<T> make_buffer(std::size_t count) {
#ifdef __linux__
  const std::size_t bytes = count * sizeof(T);
  if (bytes >= 1 << 18) {
    void* const p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    if (bytes >= 4 << 20) madvise(p, bytes, MADV_HUGEPAGE);  // no more than a wish
    return Buffer<T>(static_cast<T*>(p), Release{bytes});
  }
#endif
  return make_scratch<T>(count);
}

}  // namespace ssdml
