#include "tools/sim/fiber_stacks.h"

#include <sys/mman.h>

#include <new>

namespace kiln::sim {
namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kStackBytes = 192 * 1024;  // a consumer's registers and 27 KB of parameters

}  // namespace

StackPool::~StackPool() {
  for (const auto& stack : free_)
    munmap(static_cast<char*>(stack.sp) - stack.size - kPage, stack.size + kPage);
}

boost::context::stack_context StackPool::allocate() {
  if (!free_.empty()) {
    const boost::context::stack_context stack = free_.back();
    free_.pop_back();
    return stack;
  }
  void* const pages = mmap(nullptr, kStackBytes + kPage, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (pages == MAP_FAILED) throw std::bad_alloc();
  mprotect(pages, kPage, PROT_NONE);
  boost::context::stack_context stack;
  stack.size = kStackBytes;
  stack.sp = static_cast<char*>(pages) + kPage + kStackBytes;
  return stack;
}

void StackPool::deallocate(boost::context::stack_context& stack) { free_.push_back(stack); }

void StackPool::forget() {
  for (const auto& stack : free_)
    madvise(static_cast<char*>(stack.sp) - stack.size, stack.size, MADV_DONTNEED);
}

}  // namespace kiln::sim
