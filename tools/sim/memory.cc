#include "tools/sim/memory.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>

namespace kiln::sim {

void SharedMemory::reset(std::uint32_t bytes) {
  size_ = (bytes + kLineBytes - 1) / kLineBytes * kLineBytes;
  storage_.assign(size_ + 64, kUnfilled);
  data_ = storage_.data();
  const std::size_t words = size_ / 4;
  filling.assign(words, 0);
  readers.assign(words, 0);
  dirty.assign(words, 0);
  written.assign(words, 0);
  barrier.assign(words, 0);
  lines.assign(size_ / kLineBytes, Line{});
}

namespace {

constexpr std::size_t kPage = 4096;

// An allocation ends within 256 bytes of a page that cannot be touched.
constexpr std::size_t rounded(std::size_t bytes, std::size_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

}  // namespace

void* GlobalMemory::allocate(std::size_t bytes) {
  const std::size_t used = rounded(std::max<std::size_t>(bytes, 1), 256);
  const std::size_t mapped = rounded(used, kPage) + kPage;
  void* const pages = mmap(nullptr, mapped, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (pages == MAP_FAILED) return nullptr;
  char* const end = static_cast<char*>(pages) + mapped - kPage;
  mprotect(end, kPage, PROT_NONE);
  const Allocation added{end - used, bytes, mapped};
  allocations_.insert(
      std::upper_bound(allocations_.begin(), allocations_.end(), added,
                       [](const auto& x, const auto& y) { return x.begin < y.begin; }),
      added);
  return end - used;
}

bool GlobalMemory::release(const void* address) {
  const auto found = std::find_if(allocations_.begin(), allocations_.end(),
                                  [&](const Allocation& a) { return a.begin == address; });
  if (found == allocations_.end()) return false;
  const std::size_t used = rounded(std::max<std::size_t>(found->bytes, 1), 256);
  munmap(const_cast<char*>(found->begin) + used + kPage - found->mapped, found->mapped);
  allocations_.erase(found);
  return true;
}

const GlobalMemory::Allocation* GlobalMemory::find(const void* address) const {
  const auto after =
      std::upper_bound(allocations_.begin(), allocations_.end(), static_cast<const char*>(address),
                       [](const char* wanted, const Allocation& a) { return wanted < a.begin; });
  return after == allocations_.begin() ? nullptr : &*(after - 1);
}

bool GlobalMemory::contains(const void* address, std::size_t bytes) const {
  const Allocation* const a = find(address);
  if (a == nullptr) return false;
  const auto offset = static_cast<std::size_t>(static_cast<const char*>(address) - a->begin);
  return offset <= a->bytes && bytes <= a->bytes - offset;
}

std::string GlobalMemory::describe(const void* address) const {
  const Allocation* const a = find(address);
  if (a == nullptr) return fmt::format("{}, in no allocation", address);
  return fmt::format("{}, {} bytes into an allocation of {}", address,
                     static_cast<const char*>(address) - a->begin, a->bytes);
}

}  // namespace kiln::sim
