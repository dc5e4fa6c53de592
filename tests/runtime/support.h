// What the runtime's tests share: scratch directories, engines on the fakes, good operands.
#pragma once

#include <stdlib.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "runtime/engine.h"
#include "runtime/fork_guard.h"
#include "runtime/handles.h"
#include "runtime/kiln.h"
#include "tests/support/catch.h"
#include "tests/support/fake_compiler.h"
#include "tests/support/fake_cuda.h"

namespace kiln::test {

class TempDir {
 public:
  TempDir() {
    std::string pattern = (std::filesystem::temp_directory_path() / "kiln-runtime-XXXXXX").string();
    REQUIRE(mkdtemp(pattern.data()) != nullptr);  // 0700
    path_ = pattern;
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// The fake driver as new, no context current, and a fake compiler.
struct FakeMachine {
  FakeMachine() {
    cuda.reset();
    fake_set_current_context(nullptr);
  }
  ~FakeMachine() { fake_set_current_context(nullptr); }

  FakeCuda& cuda = fake_cuda();
  std::shared_ptr<FakeToolchain> toolchain = std::make_shared<FakeToolchain>();

  runtime::EngineHooks hooks() const { return fake_hooks(toolchain, fake_cuda_path()); }

  // Without a device unless one is given; memory only unless a directory is given.
  runtime::EngineOptions options(const std::string& cache_directory = "",
                                 int device = runtime::kDeviceNone) const {
    runtime::EngineOptions result;
    result.device = device;
    result.num_sms = device == runtime::kDeviceNone ? 132 : 0;
    result.cache_directory = cache_directory;
    result.log.level = runtime::LogLevel::kOff;
    result.hooks = hooks();
    return result;
  }
};

// What creating an engine through the C boundary takes, with the handle owned.
template <class Handle, void (*kDestroy)(Handle*)>
struct HandleDeleter {
  void operator()(Handle* handle) const { kDestroy(handle); }
};
using EngineHandle = std::unique_ptr<kiln_engine, HandleDeleter<kiln_engine, kiln_engine_destroy>>;
using PlanHandle = std::unique_ptr<kiln_plan, HandleDeleter<kiln_plan, kiln_plan_destroy>>;
using QuantizerHandle =
    std::unique_ptr<kiln_quantizer, HandleDeleter<kiln_quantizer, kiln_quantizer_destroy>>;

inline kiln_engine_options quiet_options(int device = 0) {
  kiln_engine_options options = KILN_ENGINE_OPTIONS_INIT;
  options.device = device;
  if (device == KILN_DEVICE_NONE) {
    options.arch = 90;
    options.num_sms = 132;
  }
  options.log_level = KILN_LOG_OFF;
  options.cache_dir = "";
  options.cache_path = "";
  return options;
}

inline EngineHandle make_engine(const FakeMachine& machine, const kiln_engine_options& options) {
  kiln_engine* engine = nullptr;
  const kiln_status status = runtime::create_engine(&options, {}, machine.hooks(), &engine);
  INFO(kiln_last_error());
  REQUIRE(status == KILN_OK);
  return EngineHandle(engine);
}

inline kiln_problem small_problem() {
  kiln_problem problem = KILN_PROBLEM_INIT;
  problem.n = 512;
  problem.k = 1024;
  return problem;
}

inline PlanHandle make_plan(const EngineHandle& engine,
                            const kiln_problem& problem = small_problem(),
                            const kiln_tile* tile = nullptr) {
  kiln_plan* plan = nullptr;
  const kiln_status status = kiln_plan_create(engine.get(), &problem, tile, &plan);
  INFO(kiln_last_error());
  REQUIRE(status == KILN_OK);
  return PlanHandle(plan);
}

// Operands that obey every rule of small_problem(); nothing reads through the addresses.
inline kiln_operands good_operands(std::int64_t m = 256) {
  const auto at = [](std::uintptr_t address) { return reinterpret_cast<void*>(address); };
  kiln_operands operands = KILN_OPERANDS_INIT;
  operands.m = m;
  operands.a = at(0x10000000);
  operands.lda = 1024;
  operands.b = at(0x20000000);
  operands.ldb = 1024;
  operands.sfa = static_cast<const float*>(at(0x30000000));
  operands.ld_sfa = 8;
  operands.sfb = static_cast<const float*>(at(0x40000000));
  operands.ld_sfb = 8;
  operands.d = at(0x50000000);
  operands.ldd = 512;
  return operands;
}

inline jit::KernelSpec gemm_spec(std::int64_t n = 512, std::int64_t k = 1024) {
  jit::Problem problem;
  problem.n = n;
  problem.k = k;
  return {jit::GemmSpec{problem, jit::Tile{}}, {}};
}

inline bool error_mentions(const std::string& words) {
  return std::string(kiln_last_error()).find(words) != std::string::npos;
}

}  // namespace kiln::test
