// Ordinary loads and stores of a kernel that touch no memory at all: the signal becomes a Fault.
#pragma once

#include <csignal>

namespace kiln::sim {

// While it lives. Kernels are compiled so that an exception may come out of such an access.
class AccessGuard {
 public:
  AccessGuard();
  ~AccessGuard();
  AccessGuard(const AccessGuard&) = delete;
  AccessGuard& operator=(const AccessGuard&) = delete;

 private:
  struct sigaction before_;
};

}  // namespace kiln::sim
