// The Measurer of `kiln tune` on a GPU, over the operands and clocks of `kiln bench`.
#pragma once

#include <memory>
#include <string>

#include "runtime/tuned_table.h"
#include "tools/commands.h"
#include "tools/tune_config.h"
#include "tools/tune_measure.h"

namespace kiln::tools {

// `engine` must have a device and outlive the result.
//
// Operands are made once for a problem and M, for grouped rows one set for each of `draws` draws of
// the groups' sizes. A tile's kernel is loaded, its result checked, for every draw, and its
// launches captured when it is asked for the first time at that M; later calls only replay. The
// first result that passes is checked by the plain kernel, the others against that result.
std::unique_ptr<Measurer> make_gpu_measurer(const EngineHandle& engine, const TuneMeasuring& rules);

// A table without entries: where its numbers come from. All of it but date and method.
runtime::TunedFile empty_table(const EngineHandle& engine);

}  // namespace kiln::tools
