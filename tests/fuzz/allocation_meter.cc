#include "tests/fuzz/allocation_meter.h"

#include <malloc.h>

#include <atomic>
#include <cstdlib>
#include <new>

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define KILN_METERED 1
#else
#define KILN_METERED 0
#endif

namespace kiln::test {
namespace {

std::atomic<std::size_t> in_use{0}, peak{0};

[[maybe_unused]] void* allocate(std::size_t bytes, std::size_t alignment) {
  void* const memory =
      alignment <= alignof(std::max_align_t)
          ? std::malloc(bytes)
          : std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  if (memory == nullptr) throw std::bad_alloc();
  const std::size_t now = in_use += malloc_usable_size(memory);
  std::size_t highest = peak;
  while (now > highest && !peak.compare_exchange_weak(highest, now)) {
  }
  return memory;
}

[[maybe_unused]] void release(void* memory) {
  in_use -= malloc_usable_size(memory);
  std::free(memory);
}

}  // namespace

std::size_t allocated_bytes() { return in_use; }
void reset_peak() { peak = in_use.load(); }
std::size_t peak_allocated_bytes() { return peak; }
bool is_metered() { return KILN_METERED != 0; }

}  // namespace kiln::test

#if KILN_METERED
void* operator new(std::size_t bytes) { return kiln::test::allocate(bytes, 1); }
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return kiln::test::allocate(bytes, static_cast<std::size_t>(alignment));
}
void operator delete(void* memory) noexcept { kiln::test::release(memory); }
void operator delete(void* memory, std::size_t) noexcept { kiln::test::release(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { kiln::test::release(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
  kiln::test::release(memory);
}
#endif
