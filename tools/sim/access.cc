#include "tools/sim/access.h"

#include <fmt/format.h>

#include "tools/sim/machine.h"

namespace kiln::sim {
namespace {

// On the stack of the fiber, so that the exception finds its way; a fiber that overflowed its stack
// gets no further than here.
void on_fault(int number, siginfo_t* info, void*) {
  if (machine != nullptr && machine->current != nullptr)
    machine->fail({}, fmt::format("an ordinary access outside device memory: address {}",
                                  machine->global.describe(info->si_addr)));
  std::signal(number, SIG_DFL);  // not a kernel's: happens again, and ends the program
}

}  // namespace

AccessGuard::AccessGuard() {
  struct sigaction action {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigaction(SIGSEGV, &action, &before_);
}

AccessGuard::~AccessGuard() { sigaction(SIGSEGV, &before_, nullptr); }

}  // namespace kiln::sim
