// The test program's side of fake_cuda.h.
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>

#include "tests/support/fake_cuda.h"

namespace kiln::test {
namespace {

template <class Function>
Function* symbol(const char* name) {
  static void* const library = dlopen(KILN_FAKE_CUDA, RTLD_NOW | RTLD_LOCAL);
  void* const found = library != nullptr ? dlsym(library, name) : nullptr;
  if (found == nullptr) {
    std::fprintf(stderr, "%s: no %s: %s\n", KILN_FAKE_CUDA, name, dlerror());
    std::abort();
  }
  return reinterpret_cast<Function*>(found);
}

}  // namespace

FakeCuda& fake_cuda() { return *symbol<FakeCuda*()>("kiln_fake_cuda_state")(); }
const char* fake_cuda_path() { return KILN_FAKE_CUDA; }
CUcontext fake_primary_context(int device) {
  return symbol<CUcontext(int)>("kiln_fake_cuda_context")(device);
}
CUcontext fake_other_context(int index) {
  return symbol<CUcontext(int)>("kiln_fake_cuda_context")(8 + index);
}
CUcontext fake_current_context() { return symbol<CUcontext()>("kiln_fake_cuda_current")(); }
std::size_t fake_context_depth() { return symbol<std::size_t()>("kiln_fake_cuda_depth")(); }
FakeThread& fake_thread() { return *symbol<FakeThread*()>("kiln_fake_cuda_thread")(); }
void fake_set_current_context(CUcontext context) {
  symbol<void(CUcontext)>("kiln_fake_cuda_set_current")(context);
}

int FakeCuda::calls(std::string_view name) const {
  for (const Counter& counter : counters) {
    const char* known = counter.name.load();
    if (known != nullptr && name == known) return counter.count.load();
  }
  return 0;
}

int FakeCuda::calls() const {
  int total = 0;
  for (const Counter& counter : counters) total += counter.count.load();
  return total;
}

void FakeCuda::reset() {
  device_count = 1;
  devices.fill({});
  driver_version = 13000;
  init_result = load_result = launch_result = encode_result = push_result = CUDA_SUCCESS;
  failing_loads = 0;
  extra_registers = 0;
  faults_per_million = 0;
  capturing = nullptr;
  capture_is_blocking = false;
  capture_invalidated = false;
  loads_in_wrong_context = 0;
  launches = 0;
  last_launch = {};
  history.fill({});
  for (Counter& counter : counters) counter.count = 0;
}

}  // namespace kiln::test
