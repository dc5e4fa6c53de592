// The GPU that a subcommand works on.
#pragma once

#include <cstdint>
#include <optional>

#include "tools/commands.h"

namespace kiln::tools {

// `asked`, else the first Hopper GPU. Throws Error{kNoDriver, kNoDevice} with the reason.
int find_device(std::optional<std::int64_t> asked);

// A GPU of the wrong kind is "no usable device" here.
EngineHandle open_engine(const kiln_engine_options& options);

}  // namespace kiln::tools
