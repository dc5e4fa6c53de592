// Launches ready kernels under a filter that ends the process at any system call but exit.
//
//   launch_loop launch   exit 0: a thousand launches of each kind made no system call
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

// Of each kind one problem, and operands for it.
struct Work {
  kiln_problem problem = KILN_PROBLEM_INIT;
  kiln_operands operands = KILN_OPERANDS_INIT;
  kiln_plan* plan = nullptr;
};

constexpr int kPackedGroups = 97;  // more than one launch takes
std::int32_t group_k[kPackedGroups];

Work dense() {
  const auto at = [](std::uintptr_t address) { return reinterpret_cast<float*>(address); };
  Work work;
  work.problem.n = work.problem.k = 1024;
  kiln_operands& o = work.operands;
  o.a = at(0x10000000);
  o.b = at(0x20000000);
  o.sfa = at(0x30000000);
  o.sfb = at(0x40000000);
  o.d = at(0x50000000);
  o.lda = o.ldb = o.ldd = 1024;
  o.ld_sfa = o.ld_sfb = 8;
  return work;
}

Work masked() {
  Work work = dense();
  work.problem.layout = KILN_LAYOUT_GROUPED_MASKED;
  work.problem.group_form = KILN_GROUPS_ROWS;
  work.problem.groups = 32;
  work.operands.grouping = reinterpret_cast<const std::int32_t*>(std::uintptr_t{0x60000000});
  work.operands.expected_m = 1;
  return work;
}

Work packed() {
  Work work = dense();
  work.problem.layout = KILN_LAYOUT_GROUPED_K;
  work.problem.scaling = KILN_SCALING_1D1D;
  work.problem.sfa_major = KILN_SCALE_M_MAJOR;
  work.problem.group_form = KILN_GROUPS_PACKED;
  work.problem.groups = kPackedGroups;
  for (std::int32_t& k : group_k) k = 256;
  kiln_operands& o = work.operands;
  o.host_group_k = group_k;
  o.lda = o.ldb = 0;
  o.ld_sfa = 1 << 16;
  o.ld_sfb = 1024;
  return work;
}

bool make_ready(kiln_engine* engine, Work* work) {
  if (kiln_plan_create(engine, &work->problem, nullptr, &work->plan) == KILN_OK &&
      kiln_plan_prepare(work->plan, 0, INT64_MAX) == KILN_OK)
    return true;
  std::fprintf(stderr, "launch_loop: %s\n", kiln_last_error());
  return false;
}

kiln_engine* make_engine() {
  kiln_engine_options options = KILN_ENGINE_OPTIONS_INIT;
  options.device = 0;
  options.cache_dir = options.cache_path = "";
  const auto hooks = kiln::test::fake_hooks(std::make_shared<kiln::test::FakeToolchain>(),
                                            kiln::test::fake_cuda_path());
  kiln_engine* engine = nullptr;
  if (kiln::runtime::create_engine(&options, {}, hooks, &engine) != KILN_OK)
    std::fprintf(stderr, "launch_loop: %s\n", kiln_last_error());
  return engine;
}

bool launch_thousand(Work* work) {
  bool good = true;
  for (int i = 0; i < 1000; ++i) {
    work->operands.m = 1 + i * 37;
    good = kiln_launch(work->plan, &work->operands, nullptr) == KILN_OK && good;
  }
  return good;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return kFailed;
  kiln_engine* const engine = make_engine();
  if (engine == nullptr) return kFailed;
  Work works[] = {dense(), masked(), packed()};
  for (Work& work : works) {
    // The first round settles what the fake driver and the C library set up at first use.
    if (!make_ready(engine, &work) || !launch_thousand(&work)) return kFailed;
  }
  if (!forbid_system_calls()) return kNoFilter;
  if (std::strcmp(argv[1], "offend") == 0) syscall(SYS_getpid);
  bool good = true;
  for (Work& work : works) good = launch_thousand(&work) && good;
  _exit(good ? 0 : kFailed);
}
