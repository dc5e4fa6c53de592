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
  ~Marks() { munmap(const_cast<int*>(here_), static_cast<std::size_t>(getpagesize())); }
  Marks(const Marks&) = delete;
  Marks& operator=(const Marks&) = delete;
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

// Without the lock of a static variable, which a child forked just now would wait for for ever.
void mark_process() {
  if (process_marks.load(std::memory_order_acquire) != nullptr) return;
  const Marks* none = nullptr;
  const auto* const marks = new Marks;
  if (!process_marks.compare_exchange_strong(none, marks, std::memory_order_acq_rel)) delete marks;
}

bool is_forked() noexcept {
  const Marks* marks = process_marks.load(std::memory_order_acquire);
  return marks != nullptr && marks->gone();
}

}  // namespace kiln::runtime
