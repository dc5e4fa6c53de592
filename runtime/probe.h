// What this machine offers to Kiln: compiler, driver, GPU.
#pragma once

#include "jit/compiler.h"
#include "runtime/engine.h"
#include "runtime/kiln.h"

namespace kiln::runtime {

// Fills everything but struct_size and struct_version. A missing piece is a message, not an error.
void fill_probe_report(const jit::NvrtcSearch& search, const EngineHooks& hooks,
                       kiln_probe_report* report);

}  // namespace kiln::runtime
