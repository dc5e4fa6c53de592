#include "runtime/fork_guard.h"

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <new>

namespace kiln::runtime {
namespace {

// A page that the kernel zeroes in every child, and beside it an ordinary copy of what it held.
// Asking for the process id instead would be a system call in every launch.
class Marks {
 public:
  Marks() {
    void* page = mmap(nullptr, static_cast<std::size_t>(getpagesize()), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) throw std::bad_alloc();
    wiped_ = madvise(page, static_cast<std::size_t>(getpagesize()), MADV_WIPEONFORK) == 0;
    here_ = static_cast<volatile int*>(page);
    pid_ = getpid();
    *here_ = 1;
  }
  // Kernels before 4.14 cannot wipe: there the process id decides.
  bool gone() const { return wiped_ ? *here_ == 0 : getpid() != pid_; }

 private:
  volatile int* here_ = nullptr;
  bool wiped_ = false;
  pid_t pid_ = 0;
};

// Set once and never freed: a child or a late destructor may still ask.
std::atomic<const Marks*> process_marks{nullptr};

}  // namespace

void mark_process() {
  static const Marks* const marks = new Marks;
  process_marks.store(marks, std::memory_order_release);
}

bool is_forked() noexcept {
  const Marks* marks = process_marks.load(std::memory_order_acquire);
  return marks != nullptr && marks->gone();
}

}  // namespace kiln::runtime
