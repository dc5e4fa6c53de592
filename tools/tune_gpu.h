// The Measurer of `kiln tune` on a GPU, over the operands and clocks of `kiln bench`.
#pragma once

#include <memory>
#include <string>

#include "tools/commands.h"
#include "tools/tune_measure.h"
#include "tools/tune_output.h"

namespace kiln::tools {

// `engine` must have a device and outlive the result. L2 is flushed before each launch.
std::unique_ptr<Measurer> make_gpu_measurer(const EngineHandle& engine);

// All of it but date and method.
TuneProvenance provenance_of(const EngineHandle& engine);

// Of the kernels' text: measurements of other kernels do not count.
std::string templates_digest();

}  // namespace kiln::tools
