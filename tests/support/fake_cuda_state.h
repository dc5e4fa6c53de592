// What the two halves of the fake driver share: fake_cuda.cc (devices, contexts, modules, launches)
// and fake_cuda_work.cc (memory, streams, events, captures). Not for test programs: those see
// fake_cuda.h.
#pragma once

#include <atomic>
#include <vector>

#include "tests/support/fake_cuda.h"

namespace kiln::test::driver {

extern FakeCuda state;
extern thread_local FakeThread thread;
extern thread_local std::vector<CUcontext> context_stack;

inline CUcontext current() { return context_stack.empty() ? nullptr : context_stack.back(); }

std::atomic<int>& counter_of(const char* name);

// CUDA_SUCCESS, or now and then a fault of the kind that any call can have (see
// faults_per_million).
CUresult injected_fault(const char* call);

}  // namespace kiln::test::driver

// Counts a call under its original name; the slot is looked up once per call site.
#define COUNT(name)                                                             \
  static std::atomic<int>& calls_so_far = kiln::test::driver::counter_of(name); \
  calls_so_far.fetch_add(1, std::memory_order_relaxed)

// The same, for a call that can fail at random before it does anything.
#define COUNT_OR_FAIL(name)                                                                   \
  COUNT(name);                                                                                \
  if (const CUresult fault = kiln::test::driver::injected_fault(name); fault != CUDA_SUCCESS) \
  return fault
