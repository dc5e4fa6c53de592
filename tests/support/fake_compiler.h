// A jit::Compiler without NVRTC: its cubins are text that the fake driver reads. Counts what it
// does.
#pragma once

#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "jit/compiler.h"
#include "jit/error.h"
#include "runtime/engine.h"
#include "tests/support/fake_cubin.h"

namespace kiln::test {

// What several engines' compilers share. Set the choices before the engines use them.
struct FakeToolchain {
  std::string fingerprint = "fake 1.2 build=abc";
  std::vector<std::string> options = {"--one", "--two=2"};
  int delay_ms = 0;       // of each compile
  bool available = true;  // otherwise opening fails as if NVRTC were missing
  bool fails = false;     // each compile fails
  int reported_registers = 100;
  int actual_registers = 100;
  std::size_t cubin_bytes = 0;  // padded to this size

  std::atomic<int> opened{0};
  std::atomic<int> compiles{0};
  int compiles_of(const std::string& entry) {
    const std::lock_guard lock(mutex);
    return by_entry[entry];
  }
  int most_compiles_of_one() {
    const std::lock_guard lock(mutex);
    int most = 0;
    for (const auto& [entry, count] : by_entry) most = std::max(most, count);
    return most;
  }

  std::mutex mutex;
  std::map<std::string, int> by_entry;
};

class FakeCompiler final : public jit::Compiler {
 public:
  explicit FakeCompiler(std::shared_ptr<FakeToolchain> toolchain)
      : toolchain_(std::move(toolchain)) {}

  jit::CompiledKernel compile(const jit::Source& source) override {
    ++toolchain_->compiles;
    {
      const std::lock_guard lock(toolchain_->mutex);
      ++toolchain_->by_entry[source.entry];
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(toolchain_->delay_ms));
    if (toolchain_->fails) {
      throw Error(Status::kCompileFailed,
                  source.program_name + ": the fake compiler was told to fail");
    }
    const std::string image = write_fake_cubin({source.entry, toolchain_->actual_registers, 64,
                                                source.launch.param_bytes, source.launch.threads});
    jit::CompiledKernel compiled;
    const auto* begin = reinterpret_cast<const std::byte*>(image.data());
    compiled.cubin.assign(begin, begin + image.size() + 1);
    if (compiled.cubin.size() < toolchain_->cubin_bytes)
      compiled.cubin.resize(toolchain_->cubin_bytes);
    compiled.resources.registers = toolchain_->reported_registers;
    compiled.resources.static_smem_bytes = 64;
    compiled.compile_ms = 12.5;
    return compiled;
  }
  std::string fingerprint() const override { return toolchain_->fingerprint; }
  std::vector<std::string> options(jit::Arch) const override { return toolchain_->options; }

 private:
  std::shared_ptr<FakeToolchain> toolchain_;
};

// Hooks of an engine that compiles with `toolchain` and runs on `driver_library`.
inline runtime::EngineHooks fake_hooks(std::shared_ptr<FakeToolchain> toolchain,
                                       std::string driver_library) {
  return {std::move(driver_library),
          [toolchain](const jit::NvrtcSearch&) -> std::unique_ptr<jit::Compiler> {
            ++toolchain->opened;
            if (!toolchain->available)
              throw Error(Status::kNoCompiler, "the fake compiler is away");
            return std::make_unique<FakeCompiler>(toolchain);
          }};
}

}  // namespace kiln::test
