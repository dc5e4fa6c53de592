// Compiles rendered kernels for the simulator, with the host's C++ compiler: the same program text
// and templates as NVRTC gets, but for templates/ptx.cuh and the text of wgmma<>, which become
// calls of the model. What is inline assembly elsewhere is refused with the instruction's name.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "jit/compiler.h"
#include "runtime/engine.h"
#include "tools/sim/control.h"

namespace kiln::sim {

// Templates that stand in for those of the same name: what a test wants to see fail.
using TemplateOverrides = std::map<std::string, std::string>;

// Uses CXX of the environment, else c++. The cubins are shared libraries of the host.
class HostCompiler final : public jit::Compiler {
 public:
  // Throws Error{kNoCompiler} when the compiler cannot be run.
  explicit HostCompiler(TemplateOverrides overrides = {});
  jit::CompiledKernel compile(const jit::Source& source) override;
  std::string fingerprint() const override;
  std::vector<std::string> options(jit::Arch arch) const override;

 private:
  std::string compiler_, version_;
  TemplateOverrides overrides_;
};

// The program for the host: `source`'s text with calls of the model. Throws Error{kUnsupported} for
// an instruction that is not modelled.
std::string host_program(const jit::Source& source);

// The library that stands in for libcuda, found from where the running program is: in the build
// tree or installed. Throws Error{kNoDevice} saying where it looked.
std::string simulator_library();
Control& control(const std::string& library = simulator_library());

// An engine with these works on the simulator.
runtime::EngineHooks simulator_hooks(TemplateOverrides overrides = {});

}  // namespace kiln::sim
