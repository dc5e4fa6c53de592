// Launches ready kernels under a filter that ends the process at any system call but exit.
//
//   launch_loop launch   exit 0: a thousand launches made no system call
//   launch_loop offend   makes one under the filter, to show that it is noticed: SIGSYS
//
// Exit 1: something else failed; 77: filters are not allowed here.
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

#include "runtime/handles.h"
#include "tests/support/fake_compiler.h"
#include "tests/support/fake_cuda.h"

namespace {

constexpr int kFailed = 1;
constexpr int kNoFilter = 77;

bool forbid_system_calls() {
  sock_filter rules[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit_group, 1, 0),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program{sizeof(rules) / sizeof(rules[0]), rules};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

kiln_plan* make_ready_plan() {
  kiln_engine_options options = KILN_ENGINE_OPTIONS_INIT;
  options.device = 0;
  options.cache_dir = options.cache_path = "";
  kiln_problem problem = KILN_PROBLEM_INIT;
  problem.n = problem.k = 1024;
  const auto hooks = kiln::test::fake_hooks(std::make_shared<kiln::test::FakeToolchain>(),
                                            kiln::test::fake_cuda_path());
  kiln_engine* engine = nullptr;
  kiln_plan* plan = nullptr;
  if (kiln::runtime::create_engine(&options, {}, hooks, &engine) != KILN_OK ||
      kiln_plan_create(engine, &problem, nullptr, &plan) != KILN_OK ||
      kiln_plan_prepare(plan, 0, INT64_MAX) != KILN_OK) {
    std::fprintf(stderr, "launch_loop: %s\n", kiln_last_error());
    return nullptr;
  }
  return plan;
}

bool launch_thousand(const kiln_plan* plan) {
  const auto at = [](std::uintptr_t address) { return reinterpret_cast<float*>(address); };
  kiln_operands operands = KILN_OPERANDS_INIT;
  operands.a = at(0x10000000);
  operands.b = at(0x20000000);
  operands.sfa = at(0x30000000);
  operands.sfb = at(0x40000000);
  operands.d = at(0x50000000);
  operands.lda = operands.ldb = operands.ldd = 1024;
  operands.ld_sfa = operands.ld_sfb = 8;
  bool good = true;
  for (int i = 0; i < 1000; ++i) {
    operands.m = 1 + i * 37;
    good = kiln_launch(plan, &operands, nullptr) == KILN_OK && good;
  }
  return good;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return kFailed;
  const kiln_plan* const plan = make_ready_plan();
  // The first round settles what the fake driver and the C library set up at first use.
  if (plan == nullptr || !launch_thousand(plan)) return kFailed;
  if (!forbid_system_calls()) return kNoFilter;
  if (std::strcmp(argv[1], "offend") == 0) syscall(SYS_getpid);
  _exit(launch_thousand(plan) ? 0 : kFailed);
}
