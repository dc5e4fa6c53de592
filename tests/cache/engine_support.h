// Engines without a device on a fake compiler, many processes of them, for the contract's tests.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "cache/files.h"
#include "runtime/engine.h"
#include "support.h"
#include "tests/support/fake_compiler.h"

namespace kiln::cache::test {

// No device is opened, so no driver is needed.
runtime::EngineOptions engine_options(const std::string& root, const Files* files = nullptr,
                                      int compile_ms = 0);
// How often the compiler of engine_options() ran in this process.
int compiles_in_this_process();

// The i-th of as many different kernels as are wanted.
jit::KernelSpec kernel_number(int i);

// Whether the engine's answer is what the compiler makes of the spec.
bool is_right(const jit::KernelSpec& spec, const runtime::Cubin& cubin);

struct Crowd {
  int processes = 1;
  int keys = 1;
  int compile_ms = 0;
  const Files* files = nullptr;
  std::function<void(int process)> prepare;  // in the child, before the start; may be empty
};
struct CrowdResult {
  int failed_processes = 0;  // an exception, a wrong kernel, or the process ended badly
  int compiles = 0;          // of all processes together
  double seconds = 0;        // from the common start to the last end
};
// Processes that start at once on one directory, each asking for every key in an order of its own.
CrowdResult run_crowd(const std::string& root, const Crowd& crowd);

}  // namespace kiln::cache::test
